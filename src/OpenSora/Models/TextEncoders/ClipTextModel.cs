using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The text encoder of CLIP: a transformer with causal attention.</summary>
/// <remarks>
/// Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021, section 2.4). Parameter names match
/// transformers. Shapes in comments: B batch, N tokens, C channels.
/// </remarks>
internal sealed class ClipTextModel : nn.Module<Tensor, ClipTextOutput>
{
    private readonly ClipTextTransformer text_model;
    private readonly Linear? text_projection;

    /// <summary>Creates the model and initializes its parameters.</summary>
    /// <param name="config">The model configuration.</param>
    /// <param name="initialize">If false, the parameters are left uninitialized and their memory untouched because weights are loaded
    /// afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public ClipTextModel(ClipTextConfig config, bool initialize = true)
        : base(nameof(ClipTextModel))
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        Config = config;
        text_model = new ClipTextTransformer(config);
        text_projection = config.ProjectionDim is { } projection ? new Linear(config.HiddenSize, projection, false) { Exact = true } : null;
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The configuration that the model was created with.</summary>
    public ClipTextConfig Config { get; }

    /// <summary>Initializes every parameter from normal distributions, with smaller standard deviations for deeper models (Radford et al.,
    /// 2021).</summary>
    /// <param name="generator">The random generator; null uses PyTorch's global generator.</param>
    public void Initialize(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var width = 1 / Math.Sqrt(Config.HiddenSize);
        var output = width / Math.Sqrt(2.0 * Config.NumHiddenLayers);
        Parameters.Normal(text_model.embeddings.token_embedding.weight, 0.02, generator);
        Parameters.Normal(text_model.embeddings.position_embedding.weight, 0.01, generator);
        foreach (var (name, module) in text_model.named_modules())
        {
            if (module is Linear dense)
            {
                var std =
                    name.EndsWith("out_proj", StringComparison.Ordinal) || name.EndsWith("fc2", StringComparison.Ordinal) ? output
                    : name.EndsWith("fc1", StringComparison.Ordinal) ? width / Math.Sqrt(2)
                    : width;
                Parameters.Normal(dense.weight, std, generator);
                Parameters.Constant(dense.bias!, 0);
            }
            if (module is LayerNorm norm)
            {
                Parameters.Constant(norm.weight, 1);
                Parameters.Constant(norm.bias, 0);
            }
        }
        if (text_projection is not null)
        {
            Parameters.Normal(text_projection.weight, width, generator);
        }
    }

    /// <summary>Encodes token ids.</summary>
    /// <param name="ids">Token ids, int64, <c>[B, N]</c>. Each row must contain an end-of-text token; tokens after the first one do not affect the
    /// states up to it.</param>
    /// <returns>The token states and the text embeddings, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape or an id is invalid.</exception>
    public override ClipTextOutput forward(Tensor ids)
    {
        if (ids.dim() != 2 || ids.numel() == 0 || ids.dtype != ScalarType.Int64 || ids.shape[1] > Config.MaxPositionEmbeddings)
        {
            throw new ArgumentException(
                $"The token ids are {ids.dtype} of shape [{string.Join(", ", ids.shape)}]; expected Int64 of shape [batch, tokens], "
                    + $"not empty and with at most {Config.MaxPositionEmbeddings} tokens.",
                nameof(ids)
            );
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

        var ends = ids.EqualTo(Config.EosTokenId);
        if (!ends.any(1).all().item<bool>())
        {
            throw new ArgumentException(
                $"A row of the token ids has no end-of-text token ({Config.EosTokenId}). Was another tokenizer used?",
                nameof(ids)
            );
        }

        var states = text_model.call(ids); // [B, N, C]
        var end = ends.to(ScalarType.Int64).argmax(1); // [B], the first one
        var pooled = states.gather(1, end.view(-1, 1, 1).expand(-1, 1, Config.HiddenSize)).squeeze(1);
        return new ClipTextOutput(
            states.MoveToOuterDisposeScope(),
            pooled.MoveToOuterDisposeScope(),
            text_projection?.call(pooled).MoveToOuterDisposeScope()
        );
    }
}

/// <summary>The outputs of a <see cref="ClipTextModel"/>.</summary>
/// <param name="States">The states of all tokens after the final layer normalization, <c>[B, N, HiddenSize]</c>.</param>
/// <param name="Pooled">The state of the end-of-text token, <c>[B, HiddenSize]</c>.</param>
/// <param name="Projected">The projection of the pooled state to the joint embedding space of texts and images, not normalized,
/// <c>[B, ProjectionDim]</c>; null if the model has no projection.</param>
internal sealed record ClipTextOutput(Tensor States, Tensor Pooled, Tensor? Projected) : IDisposable
{
    /// <summary>Disposes all tensors.</summary>
    public void Dispose()
    {
        States.Dispose();
        Pooled.Dispose();
        Projected?.Dispose();
    }
}

/// <summary>The embeddings, the transformer layers and the final layer normalization.</summary>
internal sealed class ClipTextTransformer : nn.Module<Tensor, Tensor>
{
    public readonly ClipEmbeddings embeddings;
    public readonly ClipLayers encoder;
    public readonly LayerNorm final_layer_norm;

    public ClipTextTransformer(ClipTextConfig config)
        : base(nameof(ClipTextTransformer))
    {
        embeddings = new ClipEmbeddings(config);
        encoder = new ClipLayers(config);
        final_layer_norm = new LayerNorm(config.HiddenSize, config.LayerNormEps);
        RegisterComponents();
    }

    public override Tensor forward(Tensor ids) => Scoped(() => final_layer_norm.call(encoder.call(embeddings.call(ids))));
}

/// <summary>The sum of a token embedding and a position embedding.</summary>
internal sealed class ClipEmbeddings : nn.Module<Tensor, Tensor>
{
    public readonly Embedding token_embedding;
    public readonly Embedding position_embedding;

    public ClipEmbeddings(ClipTextConfig config)
        : base(nameof(ClipEmbeddings))
    {
        token_embedding = new Embedding(config.VocabSize, config.HiddenSize);
        position_embedding = new Embedding(config.MaxPositionEmbeddings, config.HiddenSize);
        RegisterComponents();
    }

    public override Tensor forward(Tensor ids) =>
        Scoped(() => token_embedding.call(ids).Plus(position_embedding.Rows.narrow(0, 0, ids.shape[1]).In(ScalarType.Float32)));
}

internal sealed class ClipLayers : nn.Module<Tensor, Tensor>
{
    public readonly BlockList<ClipLayer> layers;

    public ClipLayers(ClipTextConfig config)
        : base(nameof(ClipLayers))
    {
        layers = new BlockList<ClipLayer>([.. Enumerable.Range(0, config.NumHiddenLayers).Select(_ => new ClipLayer(config))]);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var n = x.shape[1];
        var causal = Full([1, n, n], float.NegativeInfinity, ScalarType.Float32, x.device).triu(1); // -infinity for later tokens
        foreach (var layer in layers)
        {
            var next = layer.call(x, causal);
            x.Dispose();
            x = next;
        }
        return x.MoveToOuterDisposeScope();
    }
}

/// <summary>A transformer layer: self-attention, then a feed-forward network, each with pre-normalization and a residual connection.</summary>
internal sealed class ClipLayer : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly ClipAttention self_attn;
    public readonly LayerNorm layer_norm1;
    public readonly ClipMlp mlp;
    public readonly LayerNorm layer_norm2;

    public ClipLayer(ClipTextConfig config)
        : base(nameof(ClipLayer))
    {
        self_attn = new ClipAttention(config);
        layer_norm1 = new LayerNorm(config.HiddenSize, config.LayerNormEps);
        mlp = new ClipMlp(config);
        layer_norm2 = new LayerNorm(config.HiddenSize, config.LayerNormEps);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x, Tensor bias) => this.Checkpoint(inputs => Compute(inputs[0]!, inputs[1]!), x, bias);

    private Tensor Compute(Tensor x, Tensor bias)
    {
        using var scope = NewDisposeScope();
        x = x.Plus(self_attn.call(layer_norm1.call(x), bias));
        return x.Plus(mlp.call(layer_norm2.call(x))).MoveToOuterDisposeScope();
    }
}

internal sealed class ClipAttention : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly Linear q_proj;
    public readonly Linear k_proj;
    public readonly Linear v_proj;
    public readonly Linear out_proj;
    private readonly int _heads;

    public ClipAttention(ClipTextConfig config)
        : base(nameof(ClipAttention))
    {
        var c = config.HiddenSize;
        _heads = config.NumAttentionHeads;
        (q_proj, k_proj, v_proj, out_proj) = (new Linear(c, c), new Linear(c, c), new Linear(c, c), new Linear(c, c));
        RegisterComponents();
    }

    /// <summary>Computes attention with <paramref name="bias"/> <c>[1, N, N]</c> added to the logits.</summary>
    public override Tensor forward(Tensor x, Tensor bias)
    {
        using var scope = NewDisposeScope();
        var (b, n, c, d) = (x.shape[0], x.shape[1], x.shape[2], x.shape[2] / _heads);
        Tensor Heads(Tensor states) => states.view(b, n, _heads, d).transpose(1, 2).reshape(b * _heads, n, d);
        var y = DotProduct.Attend(
            Heads(q_proj.call(x)),
            Heads(k_proj.call(x)),
            Heads(v_proj.call(x)),
            1 / Math.Sqrt(d),
            bias.expand(b * _heads, n, n)
        );
        return out_proj.call(y.view(b, _heads, n, d).transpose(1, 2).reshape(b, n, c)).MoveToOuterDisposeScope();
    }
}

/// <summary>Two linear layers with GELU between them, either exact or approximated by <c>x sigmoid(1.702 x)</c> (Hendrycks and Gimpel,
/// 2016).</summary>
internal sealed class ClipMlp : nn.Module<Tensor, Tensor>
{
    public readonly Linear fc1;
    public readonly Linear fc2;
    private readonly bool _quick;

    public ClipMlp(ClipTextConfig config)
        : base(nameof(ClipMlp))
    {
        _quick = config.HiddenAct is "quick_gelu";
        fc1 = new Linear(config.HiddenSize, config.IntermediateSize);
        fc2 = new Linear(config.IntermediateSize, config.HiddenSize);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = fc1.call(x);
        return fc2.call(_quick ? x * x.Times(1.702).sigmoid() : nn.functional.gelu(x)).MoveToOuterDisposeScope();
    }
}
