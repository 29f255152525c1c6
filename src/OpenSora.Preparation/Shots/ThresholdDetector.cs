namespace OpenSora.Preparation.Shots;

/// <summary>Detects fades to a dark or bright picture and back by the mean of all pixels.</summary>
/// <remarks>This is the method of PySceneDetect's <c>detect-threshold</c>, with the same defaults.</remarks>
public sealed record ThresholdDetector : IShotDetector
{
    /// <summary>The mean of red, green and blue over all pixels, from 0 to 255, at which a picture has faded out.</summary>
    public double Threshold { get; init; } = 12;

    /// <summary>Indicates whether pictures fade out to bright ones, of at least the threshold, instead of dark ones, which are below it.</summary>
    public bool FadesToBright { get; init; }

    /// <summary>The position of the boundary between fading out (-1) and fading in (1); 0 for the middle.</summary>
    public double Bias { get; init; }

    /// <summary>The minimum length of a shot.</summary>
    public TimeSpan MinimumLength { get; init; } = TimeSpan.FromSeconds(0.6);

    /// <summary>Indicates whether a video that ends faded out has a boundary where it faded out.</summary>
    public bool IncludesFinalFade { get; init; }

    /// <inheritdoc />
    public ShotAnalysis Start() => new Analysis(this);

    private sealed class Analysis : ShotAnalysis
    {
        private readonly ThresholdDetector _options;
        private int _fadedOut = -1; // the first faded-out frame; -1 if the picture is visible
        private TimeSpan? _lastCut;
        private TimeSpan _time;

        internal Analysis(ThresholdDetector options)
        {
            Settings.RequireRange(nameof(Bias), options.Bias, -1, 1);
            _options = options;
        }

        public override IReadOnlyList<ShotTransition> Add(ShotFrame frame)
        {
            _lastCut ??= frame.Time;
            _time = frame.Time;
            var mean = (Planes.Sum(frame.Red) + Planes.Sum(frame.Green) + Planes.Sum(frame.Blue)) / (3.0 * frame.Width * frame.Height);
            var isFadedOut = mean < _options.Threshold != _options.FadesToBright;
            if (isFadedOut || _fadedOut < 0)
            {
                _fadedOut = isFadedOut && _fadedOut < 0 ? frame.Index : _fadedOut;
                return [];
            }

            var (start, end) = (_fadedOut, frame.Index);
            _fadedOut = -1;
            if (!MinimumLengths.IsMet(frame.Time - _lastCut.Value, _options.MinimumLength))
            {
                return [];
            }

            _lastCut = frame.Time;
            var cut = start + (int)Math.Round((end - start) * (1 + _options.Bias) / 2);
            return [new(cut, TransitionKind.Fade) { Start = start, End = end }];
        }

        public override IReadOnlyList<ShotTransition> Complete() =>
            _options.IncludesFinalFade && _fadedOut >= 0 && MinimumLengths.IsMet(_time - _lastCut!.Value, _options.MinimumLength)
                ? [new(_fadedOut, TransitionKind.Fade)]
                : [];
    }
}
