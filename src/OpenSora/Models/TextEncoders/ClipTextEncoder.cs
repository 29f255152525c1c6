using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>What a <see cref="ClipTextEncoder"/> gives of a text.</summary>
public enum ClipOutput
{
    /// <summary>One vector, the state of the token that closes the text: what Open-Sora's DiT and Latte are conditioned on.</summary>
    Pooled,

    /// <summary>One vector in the space that texts and pictures share.</summary>
    Projected,

    /// <summary>The states of all tokens: what Stable Diffusion attends to.</summary>
    States,
}

/// <summary>Encodes prompts with CLIP's text encoder: cut into tokens, padded, encoded.</summary>
public sealed class ClipTextEncoder : ITextEncoder
{
    private readonly ClipTextModel _model;
    private readonly ITokenizer _tokenizer;
    private readonly ClipOutput _output;

    /// <summary>Puts an encoder together.</summary>
    /// <param name="model">The network; disposed of with this object.</param>
    /// <param name="tokenizer">The tokenizer that the network was trained with.</param>
    /// <param name="output">What to give of a text.</param>
    /// <exception cref="ArgumentException">A projection is wanted of a model without one.</exception>
    public ClipTextEncoder(ClipTextModel model, ITokenizer tokenizer, ClipOutput output = ClipOutput.Pooled)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(tokenizer);
        if (output == ClipOutput.Projected && model.Config.ProjectionDim is null)
        {
            throw new ArgumentException(
                "The projected output is wanted, but the model has no projection; set ProjectionDim in its configuration.",
                nameof(output)
            );
        }

        (_model, _tokenizer, _output) = (model, tokenizer, output);
        model.eval();
    }

    /// <inheritdoc/>
    public int Width => _output == ClipOutput.Projected ? _model.Config.ProjectionDim!.Value : _model.Config.HiddenSize;

    /// <summary>1 where the output is one vector a prompt; else the tokens that a prompt is padded or cut to.</summary>
    public int MaxTokens => _output == ClipOutput.States ? _model.Config.MaxPositionEmbeddings : 1;

    /// <summary>Loads an encoder. A whole CLIP is taken too; its picture half is left out.</summary>
    /// <param name="config">The network's sizes.</param>
    /// <param name="weights">Weights with the names of transformers: a file, the index of shards, or a folder.</param>
    /// <param name="tokenizer">A folder with <c>vocab.json</c> and <c>merges.txt</c>.</param>
    /// <param name="output">What to give of a text.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not fit the sizes.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged, of another kind, or does not fit the network.</exception>
    public static ClipTextEncoder Load(ClipTextConfig config, string weights, string tokenizer, ClipOutput output = ClipOutput.Pooled)
    {
        ArgumentNullException.ThrowIfNull(config);
        var pieces = ClipTokenizer.Open(tokenizer);
        if (pieces.Count > config.VocabSize || pieces.EosId != config.EosTokenId)
        {
            throw new InvalidTokenizerException(
                tokenizer,
                $"it has {pieces.Count} pieces and closes texts with {pieces.EosId}, but the text encoder's vocabulary has {config.VocabSize} "
                    + $"and its texts close with {config.EosTokenId}.",
                "the tokenizer that the network was trained with"
            );
        }

        var model = new ClipTextModel(config, initialize: false);
        try
        {
            model.LoadWeights(weights, new LoadOptions { KeyMap = model.CurrentName });
            return new ClipTextEncoder(model, pieces, output);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public TextStates Encode(IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        if (prompts.Count == 0)
        {
            throw new ArgumentException("There is no prompt to encode; give at least one, which may be empty.", nameof(prompts));
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

    internal ClipTextModel Model => _model;

    /// <summary>Disposes of the network.</summary>
    public void Dispose() => _model.Dispose();
}
