using System.Numerics.Tensors;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace OpenSora.Preparation.Scores;

/// <summary>Specifies the text model of an <see cref="OnnxTextMatchScore"/>.</summary>
public sealed class OnnxTextOptions
{
    /// <summary>Gets or sets the path of the model. Its input is a batch of token identifiers, [1, tokens], as 32- or 64-bit integers.</summary>
    public string ModelPath { get; set; } = "";

    /// <summary>Gets or sets the function that translates a caption to token identifiers, with the start and end tokens and the padding of the
    /// model.</summary>
    public Func<string, IReadOnlyList<long>>? Tokenize { get; set; }

    /// <summary>Gets or sets the identifier of the padding token, for the input <c>attention_mask</c> of models that have one; null if nothing is
    /// padded.</summary>
    public long? PaddingToken { get; set; }

    /// <summary>Gets or sets the name of the input with the token identifiers.</summary>
    public string InputName { get; set; } = "input_ids";

    /// <summary>Gets or sets the name of the output with the embedding; null for the first one.</summary>
    public string? OutputName { get; set; }
}

/// <summary>How well a caption fits a clip, by a pair of ONNX models such as CLIP's: 100 times the cosine of the angle between the embeddings of the
/// caption and
/// of frames, averaged over the frames. The score of a clip without a caption is missing.</summary>
/// <remarks>Hessel et al., "CLIPScore" (2021), without its factor. Thread-safe. Dispose of it when no clip is being scored.</remarks>
public sealed class OnnxTextMatchScore : IClipScore, IDisposable
{
    private const string MaskName = "attention_mask";
    private readonly OnnxFrameModel _images;
    private readonly InferenceSession _texts;
    private readonly OnnxTextOptions _options;
    private readonly string _output;
    private readonly Func<string, IReadOnlyList<long>> _tokenize;

    /// <summary>Opens the models.</summary>
    /// <param name="column">The column of the score, such as <c>match</c>.</param>
    /// <param name="imageOptions">The model of images, whose output is an embedding.</param>
    /// <param name="textOptions">The model of texts, whose output is an embedding of the same length.</param>
    /// <exception cref="FileNotFoundException">A model does not exist.</exception>
    /// <exception cref="InvalidDataException">A file is not an ONNX model that can be run.</exception>
    /// <exception cref="ArgumentException">The options are invalid or do not fit the models.</exception>
    public OnnxTextMatchScore(ScoreColumn column, OnnxFrameOptions imageOptions, OnnxTextOptions textOptions)
    {
        ArgumentNullException.ThrowIfNull(column);
        ArgumentNullException.ThrowIfNull(textOptions);
        Columns = [column];
        _options = textOptions;
        _tokenize = textOptions.Tokenize ?? throw new ArgumentException("Set Tokenize to the tokenizer of the text model.", nameof(textOptions));
        _images = new(imageOptions);
        try
        {
            _texts = OnnxFrameModel.Open(textOptions.ModelPath, imageOptions.Threads);
            OnnxFrameModel.Name(_texts.InputMetadata.Keys, textOptions.InputName, "input", nameof(textOptions.InputName), mustBeOnly: true);
            _output = OnnxFrameModel.Name(
                _texts.OutputMetadata.Keys,
                textOptions.OutputName,
                "output",
                nameof(textOptions.OutputName),
                mustBeOnly: false
            );
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<ScoreColumn> Columns { get; }

    /// <inheritdoc/>
    /// <exception cref="InvalidOperationException">The embeddings have different lengths.</exception>
    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        if (string.IsNullOrWhiteSpace(frames.Caption))
        {
            return new([ScoreValue.Missing]);
        }

        var text = Embed(frames.Caption);
        var images = _images.Run(frames, cancellationToken);
        return images[0].Length == text.Length
            ? new([100 * images.Average(image => (double)TensorPrimitives.CosineSimilarity<float>(image, text))])
            : throw new InvalidOperationException(
                $"The image model computes {images[0].Length} values and the text model {text.Length}. "
                    + "Set OutputName of both to embeddings of one space."
            );
    }

    /// <summary>Closes the models.</summary>
    public void Dispose()
    {
        _images.Dispose();
        _texts?.Dispose();
    }

    private float[] Embed(string caption)
    {
        var tokens = _tokenize(caption);
        List<NamedOnnxValue> inputs = [Input(_options.InputName, tokens)];
        if (_texts.InputMetadata.ContainsKey(MaskName))
        {
            inputs.Add(Input(MaskName, [.. tokens.Select(token => token == _options.PaddingToken ? 0L : 1L)]));
        }

        return OnnxFrameModel.Run(_texts, inputs, _output);
    }

    private NamedOnnxValue Input(string name, IReadOnlyList<long> values) =>
        _texts.InputMetadata[name].ElementType == typeof(int)
            ? NamedOnnxValue.CreateFromTensor(name, new DenseTensor<int>(values.Select(each => checked((int)each)).ToArray(), [1, values.Count]))
            : NamedOnnxValue.CreateFromTensor(name, new DenseTensor<long>(values.ToArray(), [1, values.Count]));
}
