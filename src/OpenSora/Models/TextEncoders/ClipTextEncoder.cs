using System.Text.Json;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Outputs of CLIP's text encoder.</summary>
internal enum ClipOutput
{
    /// <summary>One vector per text: the state of its end-of-text token. Open-Sora's DiT and Latte are conditioned on it.</summary>
    Pooled,

    /// <summary>One vector per text, in the joint embedding space of texts and images.</summary>
    Projected,

    /// <summary>The states of all tokens, which Stable Diffusion attends to.</summary>
    States,
}

/// <summary>Encodes prompts with CLIP's text encoder: tokenizes them, pads or truncates the tokens, and runs the network.</summary>
internal sealed class ClipTextEncoder : ITextEncoder
{
    private const string VocabularyFile = "vocab.json";

    private readonly ClipTextModel _model;
    private readonly ITokenizer _tokenizer;
    private readonly ClipOutput _output;

    /// <summary>Creates an encoder from a network and a tokenizer.</summary>
    /// <param name="model">The network; disposed together with this object.</param>
    /// <param name="tokenizer">The tokenizer that the network was trained with.</param>
    /// <param name="output">The output to return for each text.</param>
    /// <exception cref="ArgumentException">The projected output is requested from a model without a projection.</exception>
    public ClipTextEncoder(ClipTextModel model, ITokenizer tokenizer, ClipOutput output = ClipOutput.Pooled)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(tokenizer);
        if (output == ClipOutput.Projected && model.Config.ProjectionDim is null)
        {
            throw new ArgumentException(
                "The projected output was requested, but the model has no projection; set ProjectionDim in its configuration.",
                nameof(output)
            );
        }

        (_model, _tokenizer, _output) = (model, tokenizer, output);
        model.eval();
    }

    /// <inheritdoc/>
    public int Width => _output == ClipOutput.Projected ? _model.Config.ProjectionDim!.Value : _model.Config.HiddenSize;

    /// <summary>The number of states per prompt: 1 if the output is one vector; otherwise, the number of tokens that prompts are padded or truncated
    /// to.</summary>
    public int MaxTokens => _output == ClipOutput.States ? _model.Config.MaxPositionEmbeddings : 1;

    /// <summary>Loads an encoder. A complete CLIP model is also accepted; its vision model is ignored.</summary>
    /// <param name="config">The configuration of the network.</param>
    /// <param name="weights">The weights, with the names of transformers: a file, the index of a sharded model, or a folder.</param>
    /// <param name="tokenizer">A folder with <c>vocab.json</c> and <c>merges.txt</c>.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the configuration.</exception>
    /// <exception cref="InvalidDataException">The tokenizer is damaged, is of another kind, or does not match the network.</exception>
    public static ClipTextEncoder Load(ClipTextConfig config, string weights, string tokenizer) =>
        (ClipTextEncoder)
            Architecture.Load(config, weights, settings: new TextEncoderSettings { Tokenizer = Path.Combine(tokenizer, VocabularyFile) });

    /// <summary>The descriptor of the architecture, as registered in <see cref="Architectures.BuiltIn"/>.</summary>
    public static Architecture<ITextEncoder> Architecture { get; } =
        Architecture<ITextEncoder>.Of(
            "clip",
            config => new ClipTextModel(config, initialize: false),
            Create,
            new ClipTextConfig(),
            ClipTextJson.Default.ClipTextConfig
        ) with
        {
            HubNames = ["clip", "clip_text_model"],
            TokenizerFile = VocabularyFile,
            Loading = (config, _) => new LoadOptions { KeyMap = ((ClipTextConfig)config).PublishedName },
            HubReader = OfHub,
            Recognizer = Recognize,
        };

    // merges.txt is in the folder of vocab.json.
    private static ClipTextEncoder Create(ClipTextConfig config, nn.Module? model, TextEncoderSettings settings)
    {
        var path = settings.Tokenizer
            ?? throw new ArgumentException("CLIP requires a tokenizer; specify the path of vocab.json, next to merges.txt.", nameof(settings));
        var pieces = ClipTokenizer.Open(Path.GetDirectoryName(path)!);
        return pieces.Count > config.VocabSize || pieces.EosId != config.EosTokenId
            ? throw InvalidTokenizer.Of(
                path,
                $"it has {pieces.Count} pieces and the end-of-text id {pieces.EosId}, but the text encoder's vocabulary has {config.VocabSize} "
                    + $"and its end-of-text id is {config.EosTokenId}.",
                "the tokenizer that the network was trained with"
            )
            : new ClipTextEncoder((ClipTextModel)model!, pieces, config.Output);
    }

    private static ClipTextConfig OfHub(HubConfig hub, TextEncoderSettings settings)
    {
        var isPart = hub.Root.TryGetProperty("text_config", out var part) && part.ValueKind == JsonValueKind.Object;
        var config = hub.As(new ClipTextConfig(), isPart ? part : hub.Root);
        var projection =
            hub.Root.TryGetProperty("projection_dim", out var size) && size.ValueKind == JsonValueKind.Number
                ? size.GetInt32()
                : config.ProjectionDim ?? 512;
        var output = settings.Output switch
        {
            null or "pooled" => ClipOutput.Pooled,
            "projected" => ClipOutput.Projected,
            "states" => ClipOutput.States,
            var other => throw new ArgumentException($"CLIP has no output '{other}'; its outputs are pooled, projected, states.", nameof(settings)),
        };
        return config with
        {
            Output = output,
            ProjectionDim = output == ClipOutput.Projected ? projection : null,
            // Early files use 2 for the last token ID, regardless of its value.
            EosTokenId = config.EosTokenId == 2 ? config.VocabSize - 1 : config.EosTokenId,
        };
    }

    private static IEnumerable<Candidate> Recognize(WeightsFile file)
    {
        const string table = "text_model.embeddings.token_embedding.weight";
        if (TensorShapes.Beside(file, table) is not { } shapes)
        {
            yield break;
        }

        var (hidden, layers) = (shapes[table, 1], shapes.Count("text_model.encoder.layers"));
        var name = ClipTextConfig.Presets.FirstOrDefault(name =>
            ClipTextConfig.Preset(name) is var preset && (preset.HiddenSize, preset.NumHiddenLayers) == (hidden, layers)
        );
        var config = new ClipTextConfig
        {
            VocabSize = shapes[table, 0],
            HiddenSize = hidden,
            NumHiddenLayers = layers,
            NumAttentionHeads = name is null ? Candidate.Divisor(hidden) : ClipTextConfig.Preset(name).NumAttentionHeads,
            IntermediateSize = shapes["text_model.encoder.layers.0.mlp.fc1.weight", 0],
            MaxPositionEmbeddings = shapes["text_model.embeddings.position_embedding.weight", 0],
            ProjectionDim = shapes.Has("text_projection.weight") ? shapes["text_projection.weight", 0] : null,
            EosTokenId = Math.Max(0, shapes[table, 0] - 1),
        };
        yield return new(
            config,
            $"CLIP text encoder{(name is null ? "" : $" of {name}")}",
            $"{Candidate.Width(hidden, layers)}, {config.MaxPositionEmbeddings} tokens"
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

        var places = _model.Config.MaxPositionEmbeddings;
        var ids = new long[prompts.Count, places];
        var mask = new bool[prompts.Count, places];
        for (var row = 0; row < prompts.Count; row++)
        {
            var tokens = _tokenizer.Encode(prompts[row], places);
            for (var i = 0; i < places; i++)
            {
                ids[row, i] = i < tokens.Count ? tokens[i] : _tokenizer.PadId;
                mask[row, i] = i < tokens.Count;
            }
        }

        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var device = _model.parameters().First().device;
        var output = _model.call(tensor(ids).to(device));
        var (states, real) =
            _output == ClipOutput.States
                ? (output.States, tensor(mask).to(device))
                : (
                    (_output == ClipOutput.Pooled ? output.Pooled : output.Projected!).unsqueeze(1),
                    ones([prompts.Count, 1], ScalarType.Bool, device)
                );
        return new TextStates(states.MoveToOuterDisposeScope(), real.MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public int? CountTokens(string text) =>
        _output == ClipOutput.States ? _tokenizer.Encode(text, _model.Config.MaxPositionEmbeddings + 1).Count - 1 : null;

    internal ClipTextModel Model => _model;

    /// <summary>Disposes the network.</summary>
    public void Dispose() => _model.Dispose();
}
