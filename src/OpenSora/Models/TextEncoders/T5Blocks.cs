using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The transformer blocks and the final normalization.</summary>
internal sealed class T5Stack : nn.Module<Tensor, Tensor?, Tensor>
{
    public readonly BlockList<T5Block> block;
    public readonly RMSNorm final_layer_norm;

    public T5Stack(T5Config config)
        : base(nameof(T5Stack))
    {
        block = new BlockList<T5Block>([.. Enumerable.Range(0, config.NumLayers).Select(i => new T5Block(config, i == 0))]);
        final_layer_norm = new RMSNorm(config.DModel, config.LayerNormEpsilon);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, Tensor? mask)
    {
        using var scope = NewDisposeScope();
        var (b, n) = (x.shape[0], x.shape[1]);
        var bias = PositionBias(n).expand(b, -1, n, n); // [B, heads, N, N]
        if (mask is not null)
        {
            bias = bias.MaskedFill(mask.EqualTo(0).view(b, 1, 1, n), float.MinValue);
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

    /// <summary>Computes the bias that relative positions add to the attention logits of all blocks, <c>[1, heads, N, N]</c>.</summary>
    public Tensor PositionBias(long tokens)
    {
        using var weights = TransientWeights.Use(block[0]);
        return block[0].Attention.SelfAttention.PositionBias(tokens);
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

    public override Tensor forward(Tensor x, Tensor bias) => Scoped(() => FeedForward.call(Attention.call(x, bias)));
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

    public override Tensor forward(Tensor x, Tensor bias) => Scoped(() => x.Plus(SelfAttention.call(layer_norm.call(x), bias)));
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

    public override Tensor forward(Tensor x) => Scoped(() => x.Plus(DenseReluDense.call(layer_norm.call(x))));
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
                buckets[query * tokens + key] = T5TextEncoder.Bucket(key - query, _config);
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
