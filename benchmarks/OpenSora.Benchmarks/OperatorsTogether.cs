using System.Globalization;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>
/// Measures what the optimizations of this library give for a training step with the token shapes of 64x512x512: 64 frames of 1,024 tokens, heads of
/// 72 channels, 120 text tokens. The model is scaled to this machine: 2 heads instead of 16 (width 144) and 1 block instead of 28. The step without
/// optimizations is written here from plain operators: attention from matrix multiplications and a softmax, modulation and residual steps one
/// operation at a time, text states projected for each block from the text encoder's width, and gradient checkpointing in each block. It uses the
/// weights of the library's model, and the results are compared. Times are processor times of one thread, the shortest of several steps; the
/// variants alternate. With the environment variable OPENSORA_BENCH_KEEP_MEMORY, the process keeps the memory of freed tensors, as the allocator of
/// a GPU does; otherwise, the operating system clears the pages of large tensors each time.
/// </summary>
internal static class OperatorsTogether
{
    private const int Frames = 64,
        Places = 1024,
        Heads = 2,
        Width = 72 * Heads,
        TextTokens = 120,
        TextWidth = 1024,
        EncoderLayers = 2,
        Runs = 5,
        Most = 8192;

    /// <summary>What a variant of the step uses.</summary>
    private sealed record Variant(string Name)
    {
        public bool Fused { get; init; }

        public bool FusedSteps { get; init; }

        public bool BFloat16 { get; init; }

        public bool CachedText { get; init; }

        public bool KeepsActivations { get; init; }
    }

    /// <summary>Prints a table with a row for each optimization alone and one for all together.</summary>
    public static void Run()
    {
        set_num_threads(1);
        if (Environment.GetEnvironmentVariable("OPENSORA_BENCH_KEEP_MEMORY") is not null)
        {
            ResidentMemory.KeepFreed();
        }

        using var scope = NewDisposeScope();
        using var block = new Weights();
        using var encoder = new T5TextEncoder(
            new T5Config
            {
                VocabSize = 100,
                DModel = TextWidth,
                DKv = 64,
                DFf = 2816,
                NumLayers = EncoderLayers,
                NumHeads = 16,
            }
        );
        encoder.eval();
        var (x, ids) = (randn(1, Frames, Places, Width), randint(1, 100, [1, TextTokens], ScalarType.Int64));
        Tensor cached;
        using (no_grad())
        {
            cached = encoder.forward(ids, null).squeeze(1).view(1, TextTokens, TextWidth);
        }

        var plain = new Variant("none");
        Variant[] variants =
        [
            plain,
            plain with
            {
                Name = "fused attention (SDPA)",
                Fused = true,
            },
            plain with
            {
                Name = "fused modulation and residual steps",
                FusedSteps = true,
            },
            plain with
            {
                Name = "bfloat16",
                BFloat16 = true,
            },
            plain with
            {
                Name = "cached text states",
                CachedText = true,
            },
            plain with
            {
                Name = "activations kept instead of recomputed",
                KeepsActivations = true,
            },
            new Variant("bfloat16 and SDPA") { BFloat16 = true, Fused = true },
            new Variant("all together, float32")
            {
                Fused = true,
                FusedSteps = true,
                CachedText = true,
                KeepsActivations = true,
            },
            new Variant("all together")
            {
                Fused = true,
                FusedSteps = true,
                BFloat16 = true,
                CachedText = true,
                KeepsActivations = true,
            },
        ];
        var best = variants.Select(_ => double.MaxValue).ToArray();
        var results = new double[variants.Length];
        for (var run = 0; run <= Runs; run++)
        {
            foreach (var (i, variant) in variants.Index())
            {
                using var inner = NewDisposeScope();
                var start = Environment.CpuUsage.TotalTime;
                results[i] = Step(block, variant, x, () => variant.CachedText ? cached : Encoded(encoder, ids));
                var seconds = (Environment.CpuUsage.TotalTime - start).TotalSeconds;
                best[i] = run == 0 ? best[i] : Math.Min(best[i], seconds); // the first run is not counted
            }
        }

        Console.WriteLine("| optimization | seconds | ratio | difference of the gradients |\n|---|---|---|---|");
        foreach (var (i, variant) in variants.Index())
        {
            var difference = Math.Abs(results[i] - results[0]) / results[0];
            var most = variant.BFloat16 ? 1e-2 : 1e-4;
            Console.WriteLine(
                string.Create(CultureInfo.InvariantCulture, $"| {variant.Name} | {best[i]:F2} | {best[0] / best[i]:F2} | {difference:E1} |")
            );
            if (!(difference < most))
            {
                throw new InvalidOperationException($"'{variant.Name}' computes other gradients: their norm differs by {difference:E1}.");
            }
        }
    }

    private static Tensor Encoded(T5TextEncoder encoder, Tensor ids)
    {
        using var noGradients = no_grad();
        return encoder.forward(ids, null).view(1, TextTokens, TextWidth);
    }

    // Forward, backward and update. Returns the norm of the gradients.
    private static double Step(Weights weights, Variant variant, Tensor x, Func<Tensor> text)
    {
        using var scope = NewDisposeScope();
        weights.zero_grad();
        weights.UseGradientCheckpointing(!variant.KeepsActivations);
        var type = variant.BFloat16 ? ScalarType.BFloat16 : ScalarType.Float32;
        var states = text();
        var input = x.to(type).requires_grad_(true);
        var output = weights.Checkpoint(i => weights.Block(variant, i[0]!, i[1]!), input, states.to(type));
        output.to(ScalarType.Float32).square().mean().backward();
        using var noGradients = no_grad();
        var norm = 0.0;
        foreach (var parameter in weights.parameters())
        {
            norm += parameter.grad!.square().sum().item<float>();
            parameter.sub_(parameter.grad * 0); // the update, without an effect on the next run
        }

        return Math.Sqrt(norm);
    }

    /// <summary>The weights of a block, and its computation in all variants.</summary>
    private sealed class Weights : nn.Module
    {
        private readonly Parameter _table = Random(6, Width);
        private readonly Parameter _qkv = Random(3 * Width, Width);
        private readonly Parameter _proj = Random(Width, Width);
        private readonly Parameter _qkvTime = Random(3 * Width, Width);
        private readonly Parameter _projTime = Random(Width, Width);
        private readonly Parameter _query = Random(Width, Width);
        private readonly Parameter _text = Random(Width, TextWidth);
        private readonly Parameter _keys = Random(2 * Width, Width);
        private readonly Parameter _projText = Random(Width, Width);
        private readonly Parameter _first = Random(4 * Width, Width);
        private readonly Parameter _second = Random(Width, 4 * Width);

        public Weights()
            : base(nameof(Weights)) => RegisterComponents();

        private static Parameter Random(long outputs, long inputs)
        {
            using var scope = NewDisposeScope();
            return new Parameter((randn(outputs, inputs) / Math.Sqrt(inputs)).DetachFromDisposeScope());
        }

        public Tensor Block(Variant v, Tensor x, Tensor text)
        {
            using var scope = NewDisposeScope();
            var table = _table.to(x.dtype).view(6, 1, 1, 1, Width).unbind(0);
            var y = Attend(v, Modulated(v, x, table[0], table[1]), _qkv, _proj);
            x = Gated(v, x, table[2], y);
            y = Attend(v, x.transpose(1, 2), _qkvTime, _projTime).transpose(1, 2);
            x = Gated(v, x, table[2], y);
            x = x + Cross(v, x, text);
            y = Modulated(v, x, table[3], table[4]);
            y = Linear(nn.functional.gelu(Linear(y, _first), GELU.Approximate.tanh), _second);
            return Gated(v, x, table[5], y).MoveToOuterDisposeScope();
        }

        private static Tensor Linear(Tensor x, Parameter weight) => nn.functional.linear(x, weight.to(x.dtype));

        private static Tensor Modulated(Variant v, Tensor x, Tensor shift, Tensor scale)
        {
            if (v.FusedSteps)
            {
                return shift.addcmul(nn.functional.layer_norm(x, [Width], eps: 1e-6), scale + 1, 1);
            }

            var centered = x - x.mean([-1], keepdim: true);
            var normalized = centered / (centered.square().mean([-1], keepdim: true) + 1e-6).sqrt();
            return normalized * (scale + 1) + shift;
        }

        private static Tensor Gated(Variant v, Tensor x, Tensor gate, Tensor branch) => v.FusedSteps ? x.addcmul(gate, branch, 1) : x + gate * branch;

        // Attention along the third axis of [1, batch, length, channels].
        private static Tensor Attend(Variant v, Tensor x, Parameter qkv, Parameter proj)
        {
            var (batch, length) = (x.shape[1], x.shape[2]);
            var parts = Linear(x, qkv).view(batch, length, 3, Heads, -1).permute(2, 0, 3, 1, 4).unbind(0);
            var y = Product(v, parts[0], parts[1], parts[2]);
            return Linear(y.transpose(1, 2).reshape(1, batch, length, Width), proj);
        }

        private Tensor Cross(Variant v, Tensor x, Tensor text)
        {
            var q = Linear(x, _query).view(1, -1, Heads, Width / Heads).transpose(1, 2);
            var kv = Linear(Linear(text, _text), _keys).view(1, TextTokens, 2, Heads, -1).permute(2, 0, 3, 1, 4).unbind(0);
            return Linear(Product(v, q, kv[0], kv[1]).transpose(1, 2).reshape(x.shape), _projText);
        }

        private static Tensor Product(Variant v, Tensor q, Tensor k, Tensor values)
        {
            if (v.Fused)
            {
                // As in the library, many queries are divided, so that the gradients of keys and values are added up in float32.
                var (wideK, wideV) = (k.to(ScalarType.Float32), values.to(ScalarType.Float32));
                return q.shape[2] <= Most
                    ? nn.functional.scaled_dot_product_attention(q, k, values)
                    : cat(
                        [.. q.split(Most, 2).Select(part => nn.functional.scaled_dot_product_attention(part, wideK.to(q.dtype), wideV.to(q.dtype)))],
                        2
                    );
            }

            var (size, n, m, d) = (q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[3]);
            var logits = (q / Math.Sqrt(d)).reshape(size, n, d).bmm(k.reshape(size, m, d).transpose(1, 2));
            var shares = nn.functional.softmax(logits.to(ScalarType.Float32), -1).to(q.dtype);
            return shares.bmm(values.reshape(size, m, d)).view(q.shape);
        }
    }
}
