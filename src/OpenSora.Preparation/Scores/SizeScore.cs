namespace OpenSora.Preparation.Scores;

/// <summary>The duration, the size and the shape of a clip, from its metadata.</summary>
internal sealed class SizeScore : IClipScore
{
    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new("duration", "The duration in seconds."),
        new("width", "The width in pixels, as the clip is shown."),
        new("height", "The height in pixels, as the clip is shown."),
        new("aspect_ratio", "The height divided by the width, as in Open-Sora's manifests."),
        new("fps", "The frame rate in frames per second."),
        new("resolution", "The height times the width."),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        var source = frames.Source;
        return new([
            frames.Duration.TotalSeconds,
            source.Width,
            source.Height,
            (double)source.Height / source.Width,
            source.FramesPerSecond,
            (double)source.Height * source.Width,
        ]);
    }
}
