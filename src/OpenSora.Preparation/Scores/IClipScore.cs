namespace OpenSora.Preparation.Scores;

/// <summary>Computes one or more columns of scores from the frames of a clip.</summary>
/// <remarks>Implementations are thread-safe, because clips are scored in parallel, and deterministic: the same frames give the same values.</remarks>
public interface IClipScore
{
    /// <summary>Gets the columns, in the order of the values that <see cref="ComputeAsync"/> returns.</summary>
    IReadOnlyList<ScoreColumn> Columns { get; }

    /// <summary>Computes the values of a clip.</summary>
    /// <param name="frames">The frames of the clip.</param>
    /// <param name="cancellationToken">Cancels the computation.</param>
    /// <returns>One value for each column; <see cref="ScoreValue.Missing"/> where the clip has none, such as the motion of a single image.</returns>
    ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default);
}
