using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Encodes prompts with a T5 encoder: cleans or lowercases them, tokenizes them, pads or truncates the tokens, and runs the
/// network.</summary>
public sealed class T5TextEncoder : ITextEncoder
{
    private readonly T5Encoder _model;
    private readonly ITokenizer _tokenizer;
    private readonly bool _cleanCaptions;

    /// <summary>Creates an encoder from a network and a tokenizer.</summary>
    /// <param name="model">The network; disposed together with this object.</param>
    /// <param name="tokenizer">The tokenizer that the network was trained with.</param>
    /// <param name="maxTokens">The number of tokens that prompts are padded or truncated to, including the end-of-sequence token: 120 in Open-Sora
    /// 1.0, 200 in 1.1, 300 in 1.2.</param>
    /// <param name="cleanCaptions">If true, prompts are cleaned with <see cref="CaptionCleaner.Clean"/>; otherwise, they are only lowercased.</param>
    public T5TextEncoder(T5Encoder model, ITokenizer tokenizer, int maxTokens = 120, bool cleanCaptions = true)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(tokenizer);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxTokens, 1);
        _model = model;
        _tokenizer = tokenizer;
        _cleanCaptions = cleanCaptions;
        MaxTokens = maxTokens;
        model.eval();
    }

    /// <inheritdoc/>
    public int Width => _model.Config.DModel;

    /// <inheritdoc/>
    public int MaxTokens { get; }

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

    /// <summary>Loads a T5 network from files with the names of transformers, strictly. The decoder of a complete T5 model and duplicate names of the
    /// token embedding are ignored.</summary>
    /// <param name="model">The network to load the weights into.</param>
    /// <param name="weights">A file, the index of a sharded model, or a folder.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the network.</exception>
    public static LoadReport LoadWeights(T5Encoder model, string weights)
    {
        using var file = WeightsFile.Open(weights);
        return model.LoadWeights(file, PublishedOptions, out _);
    }

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<ITextEncoder> Architecture { get; } =
        Architecture<ITextEncoder>.Of("t5", config => new T5Encoder(config, initialize: false), Create, new T5Config(), T5Json.Default.T5Config) with
        {
            HubNames = ["t5"],
            TokenizerFile = "spiece.model",
            Loading = (_, file) => PublishedOptions(file),
            HubReader = (config, _) => OfHub(config),
            Recognizer = Recognize,
        };

    private static T5TextEncoder Create(T5Config config, nn.Module? model, TextEncoderSettings settings)
    {
        var path = settings.Tokenizer
            ?? throw new ArgumentException("T5 requires a tokenizer; specify the path of a SentencePiece model file.", nameof(settings));
        var pieces = SentencePieceTokenizer.Open(path);
        return pieces.Count > config.VocabSize
            ? throw InvalidTokenizer.Of(path, $"it has {pieces.Count} pieces, but the text encoder's vocabulary has {config.VocabSize}.")
            : new T5TextEncoder((T5Encoder)model!, pieces, settings.MaxTokens, settings.CleanCaptions);
    }

    private static LoadOptions PublishedOptions(WeightsFile file) => new() { KeyMap = KeyMaps.T5(file.Tensors.Keys) };

    private static T5Config OfHub(HubConfig config)
    {
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
        var name = (config with { FeedForwardProj = "gated-gelu" }) == new T5Config() ? "T5 v1.1 XXL encoder" : $"T5 {(gated ? "v1.1 " : "")}encoder";
        yield return new(
            config,
            name,
            $"{Candidate.Width(config.DModel, config.NumLayers)}, {heads} heads of {config.DKv}, {config.VocabSize} tokens"
        );
    }

    /// <inheritdoc/>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no prompt to encode; pass at least one prompt, which may be empty.", nameof(prompts));
        }

        var ids = new long[prompts.Count, MaxTokens];
        var mask = new bool[prompts.Count, MaxTokens];
        for (var row = 0; row < prompts.Count; row++)
        {
            var caption = _cleanCaptions ? CaptionCleaner.Clean(prompts[row]) : CaptionCleaner.Lower(prompts[row]);
            var tokens = _tokenizer.Encode(caption, MaxTokens);
            for (var i = 0; i < MaxTokens; i++)
            {
                ids[row, i] = i < tokens.Count ? tokens[i] : _tokenizer.PadId;
                mask[row, i] = i < tokens.Count;
            }
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var device = _model.parameters().First().device;
        var realTokens = tensor(mask).to(device);
        var states = _model.call(tensor(ids).to(device), realTokens);
        return new TextStates(states.MoveToOuterDisposeScope(), realTokens.MoveToOuterDisposeScope());
    }

    internal T5Encoder Model => _model;

    /// <summary>Disposes the network.</summary>
    public void Dispose() => _model.Dispose();
}
