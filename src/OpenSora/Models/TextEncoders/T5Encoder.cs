using System.Text.Json.Serialization;
using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The configuration of a <see cref="T5Encoder"/>. JSON uses the snake_case names of transformers.</summary>
public sealed record T5Config
{
    /// <summary>The vocabulary size: the number of rows of the token embedding.</summary>
    public int VocabSize { get; init; } = 32128;

    /// <summary>The width of the token states.</summary>
    public int DModel { get; init; } = 4096;

    /// <summary>The width of each attention head. The number of heads times this width can differ from <see cref="DModel"/>.</summary>
    public int DKv { get; init; } = 64;

    /// <summary>The hidden width of the feed-forward layers.</summary>
    public int DFf { get; init; } = 10240;

    /// <summary>The number of transformer blocks.</summary>
    public int NumLayers { get; init; } = 24;

    /// <summary>The number of heads of each attention layer.</summary>
    public int NumHeads { get; init; } = 64;

    /// <summary>The number of relative position buckets; half of them are for keys after the query.</summary>
    public int RelativeAttentionNumBuckets { get; init; } = 32;

    /// <summary>The distance beyond which all relative positions use the last bucket.</summary>
    public int RelativeAttentionMaxDistance { get; init; } = 128;

    /// <summary>The epsilon that the normalization layers add to the mean square.</summary>
    public double LayerNormEpsilon { get; init; } = 1e-6;

    /// <summary>The type of feed-forward layer: <c>relu</c> (T5 1.0) or <c>gated-gelu</c> (T5 1.1).</summary>
    public string FeedForwardProj { get; init; } = "gated-gelu";

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        foreach (
            var (size, name) in new[]
            {
                (VocabSize, nameof(VocabSize)),
                (DModel, nameof(DModel)),
                (DKv, nameof(DKv)),
                (DFf, nameof(DFf)),
                (NumLayers, nameof(NumLayers)),
                (NumHeads, nameof(NumHeads)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        Check(NumLayers <= 1000, nameof(NumLayers), $"NumLayers is {NumLayers}; it must be at most 1000.");
        Check(
            RelativeAttentionNumBuckets >= 4 && RelativeAttentionNumBuckets % 4 == 0,
            nameof(RelativeAttentionNumBuckets),
            $"RelativeAttentionNumBuckets is {RelativeAttentionNumBuckets}; it must be a positive multiple of 4."
        );
        Check(
            RelativeAttentionMaxDistance > RelativeAttentionNumBuckets / 4,
            nameof(RelativeAttentionMaxDistance),
            $"RelativeAttentionMaxDistance is {RelativeAttentionMaxDistance}; it must be greater than a quarter of RelativeAttentionNumBuckets."
        );
        Check(LayerNormEpsilon > 0, nameof(LayerNormEpsilon), $"LayerNormEpsilon is {LayerNormEpsilon}; it must be positive.");
        Check(
            FeedForwardProj is "relu" or "gated-gelu",
            nameof(FeedForwardProj),
            $"FeedForwardProj is '{FeedForwardProj}'; known are 'relu' and 'gated-gelu'."
        );
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The T5 configuration is invalid: {message}", name);
        }
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(T5Config))]
internal sealed partial class T5Json : JsonSerializerContext;

/// <summary>The encoder of T5, versions 1.0 and 1.1.</summary>
/// <remarks>
/// Source: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al., 2020); version 1.1 uses the gated GELU
/// of Shazeer (2020). Attention logits are not scaled by the head width. Parameter names match transformers. <c>shared.weight</c> is the token
/// embedding, which files may also contain under the name <c>encoder.embed_tokens.weight</c>. Shapes in comments: B batch, N tokens.
/// </remarks>
public sealed class T5Encoder : nn.Module<Tensor, Tensor?, Tensor>
{
    private readonly Embedding shared;
    private readonly T5Stack encoder;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The model configuration.</param>
    /// <param name="initialize">If false, the parameters are left uninitialized and their memory untouched because weights are loaded
    /// afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public T5Encoder(T5Config config, bool initialize = true)
        : base(nameof(T5Encoder))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        shared = new Embedding(config.VocabSize, config.DModel);
        encoder = new T5Stack(config);
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The configuration that the model was created with.</summary>
    public T5Config Config { get; }

    /// <summary>Initializes every parameter from normal distributions, scaled so that attention logits need no scaling factor (Raffel et al.,
    /// 2020).</summary>
    /// <param name="generator">The random generator; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (model, inner) = ((double)Config.DModel, (double)Config.NumHeads * Config.DKv);
        Parameters.Normal(shared.weight, 1, generator);
        Parameters.Constant(encoder.final_layer_norm.weight, 1);
        foreach (var block in encoder.block)
        {
            var attention = block.Attention.SelfAttention;
            Parameters.Normal(attention.q.weight, Math.Pow(model * Config.DKv, -0.5), generator);
            Parameters.Normal(attention.k.weight, Math.Pow(model, -0.5), generator);
            Parameters.Normal(attention.v.weight, Math.Pow(model, -0.5), generator);
            Parameters.Normal(attention.o.weight, Math.Pow(inner, -0.5), generator);
            if (attention.relative_attention_bias is { } table)
            {
                Parameters.Normal(table.weight, Math.Pow(model, -0.5), generator);
            }

            foreach (var (name, dense) in block.FeedForward.DenseReluDense.named_children())
            {
                Parameters.Normal(
                    ((Linear)dense).weight,
                    Math.Pow(string.Equals(name, "wo", StringComparison.Ordinal) ? Config.DFf : model, -0.5),
                    generator
                );
            }

            Parameters.Constant(block.Attention.layer_norm.weight, 1);
            Parameters.Constant(block.FeedForward.layer_norm.weight, 1);
        }
    }

    /// <summary>Encodes token ids.</summary>
    /// <param name="ids">Token ids, int64, <c>[B, N]</c>.</param>
    /// <param name="mask">The attention mask <c>[B, N]</c>: nonzero for real tokens, 0 for padding; null if all ids are real tokens. States are also
    /// computed for padding, but no token attends to it.</param>
    /// <returns>States <c>[B, N, DModel]</c>, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape or an id is invalid.</exception>
    public override Tensor forward(Tensor ids, Tensor? mask)
    {
        static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";
        if (ids.dim() != 2 || ids.numel() == 0 || ids.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                $"The token ids are {ids.dtype} of shape {Shape(ids)}; expected Int64 of shape [batch, tokens], not empty.",
                nameof(ids)
            );
        }

        if (mask is not null && (mask.dim() != 2 || mask.shape[0] != ids.shape[0] || mask.shape[1] != ids.shape[1]))
        {
            throw new ArgumentException($"The mask has shape {Shape(mask)}; expected {Shape(ids)}, the shape of the token ids.", nameof(mask));
        }

        using var scope = NewDisposeScope();
        var (lowest, highest) = (ids.min().item<long>(), ids.max().item<long>());
        if (lowest < 0 || highest >= Config.VocabSize)
        {
            throw new ArgumentException(
                $"Token ids range from {lowest} to {highest}; valid ids are 0 to {Config.VocabSize - 1}. Was another tokenizer used?",
                nameof(ids)
            );
        }

        return encoder.call(shared.call(ids), mask).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the bucket of a relative position (key minus query): exact for short distances, then logarithmic, with the last bucket for
    /// all long distances.</summary>
    internal static long Bucket(int relative, T5Config config)
    {
        var half = config.RelativeAttentionNumBuckets / 2;
        var (exact, distance) = (half / 2, Math.Abs(relative));
        var bucket =
            distance < exact
                ? distance
                : Math.Min(
                    half - 1,
                    exact
                        + (int)(
                            MathF.Log((float)distance / exact) / (float)Math.Log((double)config.RelativeAttentionMaxDistance / exact) * (half - exact)
                        )
                );
        return relative > 0 ? half + bucket : bucket;
    }

    /// <summary>Computes the bias that relative positions add to the attention logits, <c>[1, heads, N, N]</c>.</summary>
    internal Tensor PositionBias(long tokens) => encoder.block[0].Attention.SelfAttention.PositionBias(tokens);
}

/// <summary>The transformer blocks and the final normalization.</summary>
internal sealed class T5Stack : nn.Module<Tensor, Tensor?, Tensor>
{
    public readonly ModuleList<T5Block> block;
    public readonly RMSNorm final_layer_norm;

    public T5Stack(T5Config config)
        : base(nameof(T5Stack))
    {
        block = nn.ModuleList(Enumerable.Range(0, config.NumLayers).Select(i => new T5Block(config, i == 0)).ToArray());
        final_layer_norm = new RMSNorm(config.DModel, config.LayerNormEpsilon);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, Tensor? mask)
    {
        using var scope = NewDisposeScope();
        var (b, n) = (x.shape[0], x.shape[1]);
        var attention = block[0].Attention.SelfAttention;
        var bias = attention.PositionBias(n).expand(b, -1, n, n); // [B, heads, N, N]
        if (mask is not null)
        {
            bias = bias.masked_fill(mask.eq(0).view(b, 1, 1, n), float.MinValue);
        }

        bias = bias.reshape(-1, n, n);
        foreach (var layer in block)
        {
            var next = layer.call(x, bias);
            x.Dispose();
            x = next;
        }
        return final_layer_norm.call(x).MoveToOuterDisposeScope();
    }
}

/// <summary>A transformer block: self-attention, then a feed-forward network, each with pre-normalization and a residual connection.</summary>
internal sealed class T5Block : nn.Module<Tensor, Tensor, Tensor>
{
    private readonly ModuleList<nn.Module> layer;

    public T5Block(T5Config config, bool positions)
        : base(nameof(T5Block))
    {
        layer = nn.ModuleList<nn.Module>(new T5AttentionLayer(config, positions), new T5FeedForwardLayer(config));
        RegisterComponents();
    }

    public T5AttentionLayer Attention => (T5AttentionLayer)layer[0];

    public T5FeedForwardLayer FeedForward => (T5FeedForwardLayer)layer[1];

    public override Tensor forward(Tensor x, Tensor bias)
    {
        using var scope = NewDisposeScope();
        return FeedForward.call(Attention.call(x, bias)).MoveToOuterDisposeScope();
    }
}

internal sealed class T5AttentionLayer : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly T5Attention SelfAttention;
    public readonly RMSNorm layer_norm;

    public T5AttentionLayer(T5Config config, bool positions)
        : base(nameof(T5AttentionLayer))
    {
        SelfAttention = new T5Attention(config, positions);
        layer_norm = new RMSNorm(config.DModel, config.LayerNormEpsilon);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, Tensor bias)
    {
        using var scope = NewDisposeScope();
        return (x + SelfAttention.call(layer_norm.call(x), bias)).MoveToOuterDisposeScope();
    }
}

internal sealed class T5FeedForwardLayer : nn.Module<Tensor, Tensor>
{
    public readonly T5FeedForward DenseReluDense;
    public readonly RMSNorm layer_norm;

    public T5FeedForwardLayer(T5Config config)
        : base(nameof(T5FeedForwardLayer))
    {
        DenseReluDense = new T5FeedForward(config);
        layer_norm = new RMSNorm(config.DModel, config.LayerNormEpsilon);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return (x + DenseReluDense.call(layer_norm.call(x))).MoveToOuterDisposeScope();
    }
}

/// <summary>Multi-head attention without biases and without scaling of the logits.</summary>
internal sealed class T5Attention : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly Linear q;
    public readonly Linear k;
    public readonly Linear v;
    public readonly Linear o;
    public readonly Embedding? relative_attention_bias;
    private readonly T5Config _config;

    public T5Attention(T5Config config, bool positions)
        : base(nameof(T5Attention))
    {
        _config = config;
        var inner = (long)config.NumHeads * config.DKv;
        q = new Linear(config.DModel, inner, false);
        k = new Linear(config.DModel, inner, false);
        v = new Linear(config.DModel, inner, false);
        o = new Linear(inner, config.DModel, false);
        relative_attention_bias = positions ? new Embedding(config.RelativeAttentionNumBuckets, config.NumHeads) : null;
        RegisterComponents();
    }

    /// <summary>Computes attention with <paramref name="bias"/> <c>[B * heads, N, N]</c> added to the logits.</summary>
    public override Tensor forward(Tensor x, Tensor bias)
    {
        using var scope = NewDisposeScope();
        var (b, n, heads, d) = (x.shape[0], x.shape[1], _config.NumHeads, _config.DKv);
        Tensor Heads(Tensor states) => states.view(b, n, heads, d).transpose(1, 2).reshape(b * heads, n, d);
        var y = DotProduct.Attend(Heads(q.call(x)), Heads(k.call(x)), Heads(v.call(x)), 1, bias);
        return o.call(y.view(b, heads, n, d).transpose(1, 2).reshape(b, n, heads * d)).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the bias that relative positions add to the attention logits, <c>[1, heads, N, N]</c>. Only the first block holds the bias
    /// table, which all blocks use.</summary>
    public Tensor PositionBias(long tokens)
    {
        using var scope = NewDisposeScope();
        var buckets = new long[tokens * tokens];
        for (var query = 0; query < tokens; query++)
        {
            for (var key = 0; key < tokens; key++)
            {
                buckets[query * tokens + key] = T5Encoder.Bucket(key - query, _config);
            }
        }

        var table = relative_attention_bias!;
        return table.call(tensor(buckets, [tokens, tokens], device: table.weight.device)).permute(2, 0, 1).unsqueeze(0).MoveToOuterDisposeScope();
    }
}

/// <summary>Two linear layers with ReLU or a GELU gate between them. In large models, the input of the last layer has outliers.</summary>
internal sealed class T5FeedForward : nn.Module<Tensor, Tensor>
{
    public readonly Linear? wi;
    public readonly Linear? wi_0;
    public readonly Linear? wi_1;
    public readonly Linear wo;

    public T5FeedForward(T5Config config)
        : base(nameof(T5FeedForward))
    {
        var gated = string.Equals(config.FeedForwardProj, "gated-gelu", StringComparison.Ordinal);
        wi = gated ? null : new Linear(config.DModel, config.DFf, false);
        wi_0 = gated ? new Linear(config.DModel, config.DFf, false) : null;
        wi_1 = gated ? new Linear(config.DModel, config.DFf, false) : null;
        wo = new Linear(config.DFf, config.DModel, false);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var hidden = wi is not null ? nn.functional.relu(wi.call(x)) : nn.functional.gelu(wi_0!.call(x), GELU.Approximate.tanh) * wi_1!.call(x);
        return wo.call(hidden).MoveToOuterDisposeScope();
    }
}
