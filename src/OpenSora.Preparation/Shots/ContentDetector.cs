namespace OpenSora.Preparation.Shots;

/// <summary>The weights of the parts of a content score.</summary>
/// <param name="Hue">The weight of the difference of hue.</param>
/// <param name="Saturation">The weight of the difference of saturation.</param>
/// <param name="Value">The weight of the difference of value, which is brightness.</param>
/// <param name="Edges">The weight of the difference of edges. It takes several times as long to compute as the other parts.</param>
public sealed record ContentWeights(double Hue = 1, double Saturation = 1, double Value = 1, double Edges = 0)
{
    /// <summary>Gets weights that only compare brightness.</summary>
    public static ContentWeights ValueOnly { get; } = new(Hue: 0, Saturation: 0);

    internal double Sum => Math.Abs(Hue) + Math.Abs(Saturation) + Math.Abs(Value) + Math.Abs(Edges);
}

/// <summary>The ways to treat cuts that follow each other within the minimum length of a shot.</summary>
public enum CloseCuts
{
    /// <summary>Combines them into one cut at the last of them, so that a flash does not make a shot.</summary>
    Merge,

    /// <summary>Keeps the first and ignores the others.</summary>
    Suppress,
}

/// <summary>Detects cuts by the difference of adjacent frames in hue, saturation, value and optionally edges.</summary>
/// <remarks>This is the method of PySceneDetect's <c>detect-content</c>, with the same score and the same defaults.</remarks>
public sealed record ContentDetector : IShotDetector
{
    /// <summary>The score of a frame, from 0 to 255, from which on it starts a shot.</summary>
    public double Threshold { get; init; } = 27;

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <summary>The weights of the parts of the score.</summary>
    public ContentWeights Weights { get; init; } = new();

    /// <summary>The size in pixels by which edges are widened before they are compared, an odd number of at least 3; null to choose it by the size of
    /// the frames.</summary>
    public int? EdgeKernel { get; init; }

    /// <summary>The way to treat cuts that follow each other within the minimum length.</summary>
    public CloseCuts CloseCuts { get; init; }

    /// <inheritdoc />
    public ShotAnalysis Start() => new Analysis(this);

    private sealed class Analysis(ContentDetector options) : ShotAnalysis
    {
        private readonly ContentScore _score = new(options.Weights, options.EdgeKernel);
        private readonly CloseCutFilter _filter = new(options.MinimumLength, options.CloseCuts);

        public override IReadOnlyList<ShotTransition> Add(ShotFrame frame) =>
            _filter.Next(frame.Index, frame.Time, _score.Compute(frame) >= options.Threshold) is { } cut ? [new(cut)] : [];
    }
}

/// <summary>Enforces the minimum length of shots by combining or ignoring cuts.</summary>
internal sealed class CloseCutFilter(TimeSpan minimumLength, CloseCuts mode)
{
    private (int Frame, TimeSpan Time)? _last; // the last frame over the threshold, or the last cut
    private TimeSpan? _groupStart; // the time of the second cut of a group that is being merged
    private bool _anyCut;

    /// <summary>Processes a frame, and returns the index of a cut.</summary>
    internal int? Next(int frame, TimeSpan time, bool isOver)
    {
        if (minimumLength <= TimeSpan.Zero)
        {
            return isOver ? frame : null;
        }

        _last ??= (frame, time);
        var isFarEnough = MinimumLengths.IsMet(time - _last.Value.Time, minimumLength);
        if (mode == CloseCuts.Suppress)
        {
            if (!isOver || !isFarEnough)
            {
                return null;
            }

            _last = (frame, time);
            return frame;
        }

        if (isOver)
        {
            _last = (frame, time);
        }

        if (_groupStart is { } start)
        {
            // The group ends when no frame was over the threshold for the minimum length.
            if (!isOver && isFarEnough && MinimumLengths.IsMet(_last.Value.Time - start, minimumLength))
            {
                _groupStart = null;
                return _last.Value.Frame;
            }
        }
        else if (isOver && isFarEnough)
        {
            _anyCut = true;
            return frame;
        }
        else if (isOver && _anyCut)
        {
            _groupStart = time;
        }

        return null;
    }
}
