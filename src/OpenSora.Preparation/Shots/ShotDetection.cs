using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Shots;

/// <summary>Options of <see cref="ShotDetection"/>.</summary>
public sealed class ShotDetectionOptions
{
    /// <summary>Gets or sets the length in pixels of the longer side of the frames that detectors see. Smaller videos are not enlarged.</summary>
    public int MaxSide { get; set; } = 256;

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }
}

/// <summary>Divides videos into shots.</summary>
/// <remarks>A video is decoded once by ffmpeg at reduced size while detectors see its frames. Memory does not depend on its length, except for eight
/// bytes for the time of each frame. Instances are thread-safe.</remarks>
public sealed class ShotDetection
{
    private readonly IShotDetector[] _detectors;
    private readonly ShotDetectionOptions _options;

    /// <summary>Initializes a new instance with one detector.</summary>
    /// <param name="detector">The detector; null for <see cref="TransitionDetector"/> with its defaults.</param>
    /// <param name="options">The options; null for the defaults.</param>
    public ShotDetection(IShotDetector? detector = null, ShotDetectionOptions? options = null)
        : this([detector ?? new TransitionDetector()], options) { }

    /// <summary>Initializes a new instance with several detectors. A boundary that any of them finds divides the video.</summary>
    /// <param name="detectors">The detectors.</param>
    /// <param name="options">The options; null for the defaults.</param>
    public ShotDetection(IEnumerable<IShotDetector> detectors, ShotDetectionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(detectors);
        (_detectors, _options) = ([.. detectors], options ?? new());
        if (_detectors.Length == 0)
        {
            throw new ArgumentException("Specify at least one shot detector.", nameof(detectors));
        }

        Settings.RequireRange(nameof(options.MaxSide), _options.MaxSide, 16, 4096);
    }

    /// <summary>Divides a video into shots.</summary>
    /// <param name="path">The path of the video.</param>
    /// <param name="progress">Receives the presentation time of the frames that are analyzed, about once for each second of the video.</param>
    /// <param name="cancellationToken">Stops the analysis.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The video cannot be decoded, or ffmpeg is missing.</exception>
    public async Task<ShotList> DetectAsync(string path, IProgress<TimeSpan>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var source = await SourceProbe.ReadAsync(path, _options.FFmpegFolder, cancellationToken).ConfigureAwait(false);
        return await DetectAsync(source, progress, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Divides a video with known metadata into shots.</summary>
    /// <param name="source">The metadata of the video.</param>
    /// <param name="progress">Receives the presentation time of the frames that are analyzed, about once for each second of the video.</param>
    /// <param name="cancellationToken">Stops the analysis.</param>
    /// <exception cref="PreparationException">The video cannot be decoded, or ffmpeg is missing.</exception>
    public async Task<ShotList> DetectAsync(SourceInfo source, IProgress<TimeSpan>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(source);
        var scale = Math.Min(1, (double)_options.MaxSide / Math.Max(source.Width, source.Height));
        var (width, height) = (Math.Max(1, (int)Math.Round(source.Width * scale)), Math.Max(1, (int)Math.Round(source.Height * scale)));
        var analyses = Array.ConvertAll(_detectors, detector => detector.Start());
        List<ShotTransition> transitions = [];
        List<TimeSpan> times = [];
        ShotFrame? previous = null;
        ShotFrame? free = null;
        var (frames, damage) = await FrameStream
            .ReadAsync(
                source,
                new()
                {
                    Width = width,
                    Height = height,
                    TakesSinglePixels = true,
                    FFmpegFolder = _options.FFmpegFolder,
                },
                Analyze,
                cancellationToken
            )
            .ConfigureAwait(false);
        foreach (var analysis in analyses)
        {
            transitions.AddRange(analysis.Complete());
        }

        foreach (var (frame, start, end) in transitions.Select(each => (each.Frame, each.Start, each.End)))
        {
            if (start > frame || end < frame || start < 0 || end > frames)
            {
                throw new InvalidOperationException(
                    $"A shot detector returned a transition at frame {frame} from {start} to {end}, but '{source.Path}' has {frames} frames. "
                        + "Start, Frame and End must be in this order."
                );
            }
        }

        var last = times[^1] + (frames > 1 ? times[^1] - times[^2] : TimeSpan.FromSeconds(1 / source.FramesPerSecond));
        var shots = ShotList.Divide(transitions, index => index == frames ? last : times[index], frames);
        // What the file says of its frame rate can be wrong; the times of its frames show it.
        var isVariable = times.Zip(times.Skip(1)).Any(pair => Math.Abs((pair.Second - pair.First).TotalSeconds * source.FramesPerSecond - 1) > 0.5);
        var measured = source with { HasVariableFrameRate = source.HasVariableFrameRate || isVariable };
        return new(measured, shots, new(0, frames, times[0], last), damage);

        void Analyze(StreamedFrame streamed)
        {
            var frame = free ?? new ShotFrame(width, height);
            frame.Set(streamed.Pixels.Span, streamed.Index, streamed.Time, previous);
            foreach (var analysis in analyses)
            {
                transitions.AddRange(analysis.Add(frame));
            }

            if (times.Count == 0 || (long)streamed.Time.TotalSeconds != (long)times[^1].TotalSeconds)
            {
                progress?.Report(streamed.Time);
            }

            times.Add(streamed.Time);
            (free, previous) = (previous, frame);
        }
    }
}
