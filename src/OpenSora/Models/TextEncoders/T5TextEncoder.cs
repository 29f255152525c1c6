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
    /// <exception cref="InvalidTokenizerException">The tokenizer is damaged, is of another kind, or has more pieces than the network's
    /// vocabulary.</exception>
    public static T5TextEncoder Load(T5Config config, string weights, string tokenizer, int maxTokens = 120, bool cleanCaptions = true)
    {
        ArgumentNullException.ThrowIfNull(config);
        var pieces = SentencePieceTokenizer.Open(tokenizer);
        if (pieces.Count > config.VocabSize)
        {
            throw new InvalidTokenizerException(
                tokenizer,
                $"it has {pieces.Count} pieces, but the text encoder's vocabulary has {config.VocabSize}."
            );
        }

        var model = new T5Encoder(config, initialize: false);
        try
        {
            LoadWeights(model, weights);
            return new T5TextEncoder(model, pieces, maxTokens, cleanCaptions);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Loads a T5 network from files with the names of transformers, strictly. The decoder of a complete T5 model and duplicate names of the
    /// token embedding are ignored.</summary>
    /// <param name="model">The network to load the weights into.</param>
    /// <param name="weights">A file, the index of a sharded model, or a folder.</param>
    /// <exception cref="InvalidWeightsException">The weights are damaged or do not match the network.</exception>
    public static LoadReport LoadWeights(T5Encoder model, string weights)
    {
        using var file = WeightsFile.Open(weights);
        return model.LoadWeights(file, section => new LoadOptions { KeyMap = KeyMaps.T5(section.Tensors.Keys) }, out _);
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
