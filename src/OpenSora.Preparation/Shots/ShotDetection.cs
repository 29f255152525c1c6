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
        // The decoder starts while the metadata are read. Only for interlaced video it must start again.
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var metadata = Task.Run(() => SourceProbe.ReadAsync(path, _options.FFmpegFolder, cancellationToken), CancellationToken.None);
        var early = DetectAsync(path, metadata, progress, stop.Token);
        try
        {
            var source = await metadata.ConfigureAwait(false);
            if (!source.IsInterlaced)
            {
                return await early.ConfigureAwait(false);
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await early
                .ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default)
                .ConfigureAwait(false);
        }

        return await DetectAsync(await metadata.ConfigureAwait(false), progress, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Divides a video with known metadata into shots.</summary>
    /// <param name="source">The metadata of the video.</param>
    /// <param name="progress">Receives the presentation time of the frames that are analyzed, about once for each second of the video.</param>
    /// <param name="cancellationToken">Stops the analysis.</param>
    /// <exception cref="PreparationException">The video cannot be decoded, or ffmpeg is missing.</exception>
    public async Task<ShotList> DetectAsync(SourceInfo source, IProgress<TimeSpan>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(source);
        var options = FrameSampler.Input(source, _options.MaxSide) with { FFmpegFolder = _options.FFmpegFolder };
        return await DetectAsync(
                Task.FromResult(source),
                options.Layout,
                read => FrameStream.ReadAsync(source, options, read, cancellationToken),
                progress
            )
            .ConfigureAwait(false);
    }

    private Task<ShotList> DetectAsync(string path, Task<SourceInfo> metadata, IProgress<TimeSpan>? progress, CancellationToken cancellationToken)
    {
        var size = FrameSampler.InputSize(_options.MaxSide);
        var options = new FrameStreamOptions { Layout = PixelLayout.Yuv444, FFmpegFolder = _options.FFmpegFolder };
        return DetectAsync(metadata, options.Layout, read => FrameStream.ReadAsync(path, metadata, size, options, read, cancellationToken), progress);
    }

    private async Task<ShotList> DetectAsync(
        Task<SourceInfo> metadata,
        PixelLayout layout,
        Func<Action<StreamedFrame>, Task<(int Frames, string? Damage)>> decode,
        IProgress<TimeSpan>? progress
    )
    {
        var analyses = Array.ConvertAll(_detectors, detector => detector.Start());
        List<ShotTransition> transitions = [];
        List<TimeSpan> times = [];
        FrameSampler? sampler = null;
        ShotFrame? previous = null;
        ShotFrame? free = null;
        var (frames, damage) = await decode(Analyze).ConfigureAwait(false);
        var source = await metadata.ConfigureAwait(false);
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
            sampler ??= new(streamed.Width, streamed.Height, layout, _options.MaxSide);
            var frame = free ?? new ShotFrame(sampler.Width, sampler.Height);
            sampler.Apply(streamed.Pixels.Span, frame);
            frame.Set(streamed.Index, streamed.Time, previous);
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
