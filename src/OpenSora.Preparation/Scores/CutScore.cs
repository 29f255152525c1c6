using System.Numerics.Tensors;

namespace OpenSora.Preparation.Scores;

/// <summary>The largest sudden change inside a clip, which is large where a cut was overlooked.</summary>
internal sealed class CutScore : IClipScore
{
    private const int CellColumns = 32;
    private const int CellRows = 18;
    private const int Neighbors = 3;

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new(
            "cut",
            "The largest change of color (0 to 255) from frame to frame that stands out from the changes around it. "
                + "Above about 15 the clip probably contains a cut."
        ),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        if (frames.Count < 2)
        {
            return new([ScoreValue.Missing]);
        }

        var changes = new double[frames.Count - 1];
        float[]? before = null;
        for (var i = 0; i < frames.Count; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var after = Pixels.Average(frames.Rgb(i), frames.Width, frames.Height, 3, CellColumns, CellRows, step: 2);
            if (before is not null)
            {
                changes[i - 1] = ChangeOf(before, after);
            }

            before = after;
        }

        return new([ScoreValue.Rounded(Enumerable.Range(0, changes.Length).Max(i => changes[i] - Around(changes, i)))]);
    }

    private static double ChangeOf(float[] before, float[] after)
    {
        TensorPrimitives.Subtract(after, before, before); // the older cells are not needed again
        return TensorPrimitives.SumOfMagnitudes<float>(before) / before.Length;
    }

    // The median of the changes nearby: high where everything moves, so that fast motion is not taken for a cut.
    private static double Around(double[] changes, int index)
    {
        var (first, end) = (Math.Max(0, index - Neighbors), Math.Min(changes.Length, index + Neighbors + 1));
        var others = Enumerable.Range(first, end - first).Where(i => i != index).Select(i => changes[i]).Order().ToArray();
        return others.Length == 0 ? 0 : (others[(others.Length - 1) / 2] + others[others.Length / 2]) / 2;
    }
}
