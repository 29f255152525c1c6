namespace OpenSora.Preparation.Shots;

/// <summary>Detects cuts by the difference of adjacent frames compared with that of the frames around them, to ignore fast motion.</summary>
/// <remarks>This is the method of PySceneDetect's <c>detect-adaptive</c>, with the same score and the same defaults.</remarks>
public sealed record AdaptiveDetector : IShotDetector
{
    private const double MaxRatio = 255;

    /// <summary>The ratio of a frame's score to the mean score of the frames around it, from which on the frame starts a shot.</summary>
    public double Threshold { get; init; } = 3;

    /// <summary>The minimum score of a frame that starts a shot, from 0 to 255, computed as by <see cref="ContentDetector"/>.</summary>
    public double MinimumContent { get; init; } = 15;

    /// <summary>The number of frames before and after a frame with which it is compared.</summary>
    public int Window { get; init; } = 2;

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <summary>The weights of the parts of the score.</summary>
    public ContentWeights Weights { get; init; } = new();

    /// <summary>The size in pixels by which edges are widened before they are compared, an odd number of at least 3; null to choose it by the size of
    /// the frames.</summary>
    public int? EdgeKernel { get; init; }

    /// <inheritdoc />
    public ShotAnalysis Start() => new Analysis(this);

    private sealed class Analysis : ShotAnalysis
    {
        private readonly AdaptiveDetector _options;
        private readonly ContentScore _score;
        private readonly Queue<(int Frame, TimeSpan Time, double Score)> _window = [];
        private TimeSpan? _lastCut;

        internal Analysis(AdaptiveDetector options)
        {
            Settings.RequireRange(nameof(Window), options.Window, 1, 1000);
            (_options, _score) = (options, new(options.Weights, options.EdgeKernel));
        }

        public override IReadOnlyList<ShotTransition> Add(ShotFrame frame)
        {
            _lastCut ??= frame.Time;
            _window.Enqueue((frame.Index, frame.Time, _score.Compute(frame)));
            if (_window.Count <= 2 * _options.Window)
            {
                return [];
            }

            var (index, time, score) = _window.ElementAt(_options.Window);
            var mean = (_window.Sum(each => each.Score) - score) / (2 * _options.Window);
            _window.Dequeue();
            var ratio =
                mean > 1e-5 ? Math.Min(score / mean, MaxRatio)
                : score >= _options.MinimumContent ? MaxRatio
                : 0;
            // As in PySceneDetect, the length is counted up to the newest frame of the window.
            if (
                ratio < _options.Threshold
                || score < _options.MinimumContent
                || !MinimumLengths.IsMet(frame.Time - _lastCut.Value, _options.MinimumLength)
            )
            {
                return [];
            }

            _lastCut = time;
            return [new(index)];
        }
    }
}
