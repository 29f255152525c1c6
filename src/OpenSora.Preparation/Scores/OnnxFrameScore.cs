namespace OpenSora.Preparation.Scores;

/// <summary>A score from an ONNX model of images, such as an aesthetic score: the mean over frames of a clip.</summary>
/// <remarks>Thread-safe. Dispose of it when no clip is being scored.</remarks>
public sealed class OnnxFrameScore : IClipScore, IDisposable
{
    private readonly OnnxFrameModel _model;
    private readonly int _outputIndex;

    /// <summary>Opens a model.</summary>
    /// <param name="column">The column of the score, such as <c>aesthetic</c>.</param>
    /// <param name="options">The model, and how frames are prepared for it.</param>
    /// <param name="outputIndex">The index of the score among the values that the model computes for each image.</param>
    /// <exception cref="FileNotFoundException">The model does not exist.</exception>
    /// <exception cref="InvalidDataException">The file is not an ONNX model that can be run.</exception>
    /// <exception cref="ArgumentException">The options are invalid or do not fit the model.</exception>
    public OnnxFrameScore(ScoreColumn column, OnnxFrameOptions options, int outputIndex = 0)
    {
        ArgumentNullException.ThrowIfNull(column);
        ArgumentOutOfRangeException.ThrowIfNegative(outputIndex);
        if (column.IsText)
        {
            throw new ArgumentException($"The column '{column.Name}' holds texts, but the score of a model is a number.", nameof(column));
        }

        Columns = [column];
        _outputIndex = outputIndex;
        _model = new(options);
    }

    /// <inheritdoc/>
    public IReadOnlyList<ScoreColumn> Columns { get; }

    /// <inheritdoc/>
    /// <exception cref="InvalidOperationException">The model computes too few values.</exception>
    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        var values = _model.Run(frames, cancellationToken);
        return values[0].Length > _outputIndex
            ? new([values.Average(each => (double)each[_outputIndex])])
            : throw new InvalidOperationException(
                $"The model of '{Columns[0].Name}' computes {values[0].Length} values for each image, so the index {_outputIndex} is too large."
            );
    }

    /// <summary>Closes the model.</summary>
    public void Dispose() => _model.Dispose();
}
