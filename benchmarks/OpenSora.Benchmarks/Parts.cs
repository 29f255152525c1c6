using System.Globalization;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Profiles an STDiT block: measures each operation separately, on tensors of the size that <see cref="Performance"/> uses.</summary>
internal static class Parts
{
    private const long Batch = 2,
        Frames = 16,
        Places = 256,
        Channels = 384,
        Heads = 6,
        TextTokens = 120,
        Tokens = Batch * Frames * Places;

    public static void Run()
    {
        Console.WriteLine("| operation in a block | count | float32 ms | bfloat16 ms |\n|---|---|---|---|");
        using var scope = NewDisposeScope();
        using var mode = no_grad();
        var total = new double[2];
        var types = new[] { ScalarType.Float32, ScalarType.BFloat16 };
        Row("linear 384 to 1152 (query, key, value)", 2, Linear(Channels, 3 * Channels));
        Row("linear 384 to 384 (projections, text query)", 4, Linear(Channels, Channels));
        Row("linear 384 to 1536 (MLP)", 1, Linear(Channels, 4 * Channels));
        Row("linear 1536 to 384 (MLP)", 1, Linear(4 * Channels, Channels));
        Row("spatial attention, 192 x [256, 64]", 1, Attention(Batch * Frames, Places, 3));
        Row("temporal attention, 3072 x [16, 64]", 1, type =>
        {
            var samples = Normal(type, Batch, Frames, Places, 3, Heads, Channels / Heads).unbind(0);
            return () =>
                stack(
                    samples.Select(sample =>
                    {
                        var parts = sample.transpose(0, 1).permute(2, 0, 3, 1, 4).unbind(0);
                        return nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2]).transpose(1, 2).transpose(0, 1);
                    })
                );
        });
        Row("cross-attention to the text, 12 x [4096 to 120, 64]", 1, type =>
        {
            var (q, k) = (Normal(type, Batch, Heads, Frames * Places, 64), Normal(type, Batch, Heads, TextTokens, 64));
            return () => nn.functional.scaled_dot_product_attention(q, k, k);
        });
        Row("copy of the attention result", 2, type =>
        {
            var x = Normal(type, Batch, Heads, Frames * Places, 64);
            return () => x.transpose(1, 2).reshape(Tokens, Channels);
        });
        Row("layer norm", 2, type =>
        {
            var x = Normal(type, Tokens, Channels);
            return () => nn.functional.layer_norm(x, [Channels], eps: 1e-6);
        });
        Row("modulation", 2, type =>
        {
            var (x, m) = (Normal(type, Batch, Frames * Places, Channels), Normal(type, Batch, 1, Channels));
            return () => m.addcmul(x, m + 1, 1);
        });
        Row("gated residual", 3, type =>
        {
            var (x, m) = (Normal(type, Batch, Frames * Places, Channels), Normal(type, Batch, 1, Channels));
            return () => x.addcmul_(m, x, 1);
        });
        Row("residual", 1, type =>
        {
            var x = Normal(type, Tokens, Channels);
            return () => x.add_(x);
        });
        Row("GELU", 1, type =>
        {
            var x = Normal(type, Tokens, 4 * Channels);
            return () => nn.functional.gelu(x, GELU.Approximate.tanh, inplace: true);
        });
        Row("cast of the weights of a block", 1, type =>
        {
            var weights = randn(14 * Channels, Channels);
            return () => type == ScalarType.Float32 ? weights : weights.to(type);
        });
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| whole block | | {total[0]:F1} | {total[1]:F1} |"));

        void Row(string name, int times, Func<ScalarType, Func<Tensor>> prepare)
        {
            var milliseconds = types
                .Select(type =>
                {
                    using var inner = NewDisposeScope();
                    var run = prepare(type);
                    return Timing
                        .Median(7, () =>
                        {
                            using var each = NewDisposeScope();
                            run();
                        })
                        .TotalMilliseconds;
                })
                .ToArray();
            for (var i = 0; i < types.Length; i++)
            {
                total[i] += times * milliseconds[i];
            }

            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {name} | {times} | {milliseconds[0]:F1} | {milliseconds[1]:F1} |"));
        }
    }

    private static Tensor Normal(ScalarType type, params long[] shape) => randn(shape).to(type);

    private static Func<ScalarType, Func<Tensor>> Linear(long inputs, long outputs) =>
        type =>
        {
            var (x, w, b) = (Normal(type, Tokens, inputs), Normal(type, outputs, inputs), Normal(type, outputs));
            return () => nn.functional.linear(x, w, b);
        };

    private static Func<ScalarType, Func<Tensor>> Attention(long groups, long length, long parts) =>
        type =>
        {
            var split = Normal(type, groups, length, parts, Heads, Channels / Heads).permute(2, 0, 3, 1, 4).unbind(0);
            return () => nn.functional.scaled_dot_product_attention(split[0], split[1], split[2]);
        };
}
