using OpenSora.Models.Layers;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The encoder of T5, versions 1.0 and 1.1, with its tokenizer. It cleans or lowercases prompts, tokenizes them, pads or truncates the
/// tokens, and runs the network.</summary>
/// <remarks>
/// Source: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al., 2020); version 1.1 uses the gated GELU
/// of Shazeer (2020). Attention logits are not scaled by the head width. Parameter names match transformers. <c>shared.weight</c> is the token
/// embedding, which files may also contain under the name <c>encoder.embed_tokens.weight</c>. <see cref="Encode"/> does not record gradients; for
/// training, use <see cref="forward(Tensor, Tensor?)"/>. Shapes in comments: B batch, N tokens.
/// </remarks>
public sealed class T5TextEncoder : nn.Module<Tensor, Tensor?, Tensor>, ITextEncoder, ICosted
{
    private readonly Embedding shared;
    private readonly T5Stack encoder;
    private ITokenizer? _tokenizer;
    private bool _cleanCaptions;

    /// <summary>Creates the encoder and initializes its parameters.</summary>
    /// <param name="config">The configuration of the network.</param>
    /// <param name="tokenizer">The tokenizer that the network is trained with; null for an encoder of token ids only
    /// (<see cref="forward(Tensor, Tensor?)"/>), as in training.</param>
    /// <param name="maxTokens">The number of tokens that prompts are padded or truncated to, including the end-of-sequence token: 120 in Open-Sora
    /// 1.0, 200 in 1.1, 300 in 1.2.</param>
    /// <param name="cleanCaptions">If true, prompts are cleaned; otherwise, they are only lowercased
    /// (<see cref="Tokenizers.PrepareCaption"/>).</param>
    /// <param name="initialize">If false, the parameters are left uninitialized and their memory untouched because weights are loaded
    /// afterwards.</param>
    /// <exception cref="ArgumentException">The configuration is invalid.</exception>
    public T5TextEncoder(T5Config config, ITokenizer? tokenizer = null, int maxTokens = 120, bool cleanCaptions = true, bool initialize = true)
        : base(nameof(T5TextEncoder))
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 1);
        config.Validate();
        Config = config;
        (_tokenizer, MaxTokens, _cleanCaptions) = (tokenizer, maxTokens, cleanCaptions);
        shared = new Embedding(config.VocabSize, config.DModel);
        encoder = new T5Stack(config);
        RegisterComponents();
        if (initialize)
        {
            Initialize();
        }
    }

    /// <summary>The configuration that the encoder was created with.</summary>
    public T5Config Config { get; }

    /// <inheritdoc/>
    public int Width => Config.DModel;

    /// <inheritdoc/>
    public int MaxTokens { get; private set; }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<ITextEncoder> Architecture { get; } =
        Architecture<ITextEncoder>.Of(
            "t5",
            config => new T5TextEncoder(config, initialize: false),
            WithTokenizer,
            new T5Config(),
            T5Json.Default.T5Config
        ) with
        {
            HubNames = ["t5"],
            TokenizerFile = "spiece.model",
            Loading = (_, file) => PublishedOptions(file),
            HubReader = OfHub,
            Recognizer = Recognize,
        };

    /// <summary>Loads an encoder. A complete T5 checkpoint is also accepted; its decoder is ignored.</summary>
    /// <param name="config">The configuration of the network.</param>
    /// <param name="weights">The weights, with the names of transformers: a file, the index of a sharded model, or a folder.</param>
    /// <param name="tokenizer">The path of a SentencePiece model file.</param>
    /// <param name="maxTokens">The number of tokens that prompts are padded or truncated to.</param>
    /// <param name="cleanCaptions">If true, prompts are cleaned; otherwise, they are only lowercased.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the configuration.</exception>
    /// <exception cref="InvalidDataException">The tokenizer is damaged, is of another kind, or has more pieces than the network's
    /// vocabulary.</exception>
    public static T5TextEncoder Load(T5Config config, string weights, string tokenizer, int maxTokens = 120, bool cleanCaptions = true)
    {
        var settings = new TextEncoderSettings
        {
            Tokenizer = tokenizer,
            MaxTokens = maxTokens,
            CleanCaptions = cleanCaptions,
        };
        return (T5TextEncoder)Architecture.Load(config, weights, settings: settings);
    }

    /// <summary>Loads a published checkpoint with the names of transformers, strictly. The decoder of a complete T5 model and duplicate names of the
    /// token embedding are ignored.</summary>
    /// <param name="path">A file, the index of a sharded model, or a folder.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the network.</exception>
    public LoadReport LoadPublishedWeights(string path)
    {
        using var file = WeightsFile.Open(path);
        return this.LoadWeights(file, PublishedOptions, out _);
    }

    NetworkCost ICosted.Cost(CallSize size) =>
        new(FlopEstimate.OfEncoding(Config, (int)size.Tokens).Times(size.Batch), WorkingMemory.OfEncoding(Config, size, NetworkCost.BytesOf(this)));

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

    /// <inheritdoc/>
    /// <exception cref="InvalidOperationException">The encoder was created without a tokenizer.</exception>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no prompt to encode; pass at least one prompt, which may be empty.", nameof(prompts));
        }

        var tokenizer = _tokenizer
            ?? throw new InvalidOperationException("The text encoder has no tokenizer. Pass one to its constructor, or encode token ids.");
        var ids = new long[prompts.Count, MaxTokens];
        var mask = new bool[prompts.Count, MaxTokens];
        for (var row = 0; row < prompts.Count; row++)
        {
            var tokens = tokenizer.Encode(Tokenizers.PrepareCaption(prompts[row], _cleanCaptions), MaxTokens);
            for (var i = 0; i < MaxTokens; i++)
            {
                ids[row, i] = i < tokens.Count ? tokens[i] : tokenizer.PadId;
                mask[row, i] = i < tokens.Count;
            }
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var device = shared.weight.device;
        var realTokens = tensor(mask).to(device);
        var states = call(tensor(ids).to(device), realTokens);
        return new TextStates(states.MoveToOuterDisposeScope(), realTokens.MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public int? CountTokens(string text) =>
        // Without the end-of-sequence token.
        _tokenizer?.Encode(Tokenizers.PrepareCaption(text, _cleanCaptions), MaxTokens + 1).Count - 1;

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
    internal Tensor PositionBias(long tokens) => encoder.PositionBias(tokens);

    private static LoadOptions PublishedOptions(WeightsFile file) => new() { KeyMap = KeyMaps.T5(file.Tensors.Keys) };

    private static T5TextEncoder WithTokenizer(T5Config config, nn.Module? module, TextEncoderSettings settings)
    {
        var path = settings.Tokenizer
            ?? throw new ArgumentException("T5 requires a tokenizer; specify the path of a SentencePiece model file.", nameof(settings));
        ArgumentOutOfRangeException.ThrowIfLessThan(settings.MaxTokens, 1, nameof(settings));
        var pieces = SentencePieceTokenizer.Open(path);
        if (pieces.Count > config.VocabSize)
        {
            throw InvalidTokenizer.Of(path, $"it has {pieces.Count} pieces, but the text encoder's vocabulary has {config.VocabSize}.");
        }

        var made = (T5TextEncoder)module!;
        (made._tokenizer, made.MaxTokens, made._cleanCaptions) = (pieces, settings.MaxTokens, settings.CleanCaptions);
        return made;
    }

    private static T5Config OfHub(HubConfig config, TextEncoderSettings settings)
    {
        if (settings.Output is { } output)
        {
            throw new ArgumentException($"T5 has no output '{output}'; it has one output, so leave Output null.", nameof(settings));
        }

        config.Expect("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads");
        // The first T5 models do not specify their feed-forward layers.
        return config.As(new T5Config()) with { FeedForwardProj = config.Text("feed_forward_proj") ?? "relu" };
    }

    private static IEnumerable<Candidate> Recognize(WeightsFile file)
    {
        const string block = "encoder.block.0.layer.",
            bias = $"{block}0.SelfAttention.relative_attention_bias.weight";
        if (TensorShapes.Beside(file, bias) is not { } shapes)
        {
            yield break;
        }

        var gated = shapes.Has($"{block}1.DenseReluDense.wi_0.weight");
        var heads = shapes[bias, 1];
        var config = new T5Config
        {
            VocabSize = Math.Max(shapes["shared.weight", 0], shapes["encoder.embed_tokens.weight", 0]),
            DModel = shapes[$"{block}0.SelfAttention.q.weight", 1],
            NumHeads = heads,
            DKv = shapes[$"{block}0.SelfAttention.q.weight", 0] / Math.Max(1, heads),
            DFf = shapes[$"{block}1.DenseReluDense.wo.weight", 1],
            NumLayers = shapes.Count("encoder.block"),
            RelativeAttentionNumBuckets = shapes[bias, 0],
            FeedForwardProj = gated ? "gated-gelu" : "relu",
        };
        var title =
            (config with { FeedForwardProj = "gated-gelu" }) == new T5Config() ? "T5 v1.1 XXL encoder" : $"T5 {(gated ? "v1.1 " : "")}encoder";
        yield return new(
            config,
            title,
            $"{Candidate.Width(config.DModel, config.NumLayers)}, {heads} heads of {config.DKv}, {config.VocabSize} tokens"
        );
    }
}
