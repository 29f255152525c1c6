using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The output of a <see cref="ClipTextEncoder"/>.</summary>
public enum ClipOutput
{
    /// <summary>One vector per text: the state of its end-of-text token. Open-Sora's DiT and Latte are conditioned on it.</summary>
    Pooled,

    /// <summary>One vector per text, in the joint embedding space of texts and images.</summary>
    Projected,

    /// <summary>The states of all tokens, which Stable Diffusion attends to.</summary>
    States,
}

/// <summary>Encodes prompts with CLIP's text encoder: tokenizes them, pads or truncates the tokens, and runs the network.</summary>
public sealed class ClipTextEncoder : ITextEncoder
{
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
    /// <param name="output">The output to return for each text.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the configuration.</exception>
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged, is of another kind, or does not match the network.</exception>
    public static ClipTextEncoder Load(ClipTextConfig config, string weights, string tokenizer, ClipOutput output = ClipOutput.Pooled)
    {
        ArgumentNullException.ThrowIfNull(config);
        var pieces = ClipTokenizer.Open(tokenizer);
        if (pieces.Count > config.VocabSize || pieces.EosId != config.EosTokenId)
        {
            throw new InvalidTokenizerException(
                tokenizer,
                $"it has {pieces.Count} pieces and the end-of-text id {pieces.EosId}, but the text encoder's vocabulary has {config.VocabSize} "
                    + $"and its end-of-text id is {config.EosTokenId}.",
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

    internal ClipTextModel Model => _model;

    /// <summary>Disposes the network.</summary>
    public void Dispose() => _model.Dispose();
}
