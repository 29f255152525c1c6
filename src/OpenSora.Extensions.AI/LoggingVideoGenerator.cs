using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;
using OpenSora.Media;

namespace OpenSora.Extensions.AI;

/// <summary>A generator that logs the start and the end of each generation at the level Debug, and failures at the level Error. Prompts and settings
/// can be confidential, so they are logged at the level Trace only.</summary>
public partial class LoggingVideoGenerator : DelegatingVideoGenerator
{
    private readonly ILogger _logger;

    /// <summary>Initializes a generator that logs.</summary>
    /// <param name="innerGenerator">The generator to pass calls on to.</param>
    /// <param name="logger">The logger.</param>
    public LoggingVideoGenerator(IVideoGenerator innerGenerator, ILogger logger)
        : base(innerGenerator)
    {
        ArgumentNullException.ThrowIfNull(logger);
        _logger = logger;
    }

    /// <inheritdoc/>
    public override async Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        var start = Start(request);
        try
        {
            var video = await base.GenerateAsync(request, progress, cancellationToken).ConfigureAwait(false);
            LogEnd(video.Frames.Count, video.Frames.Width, video.Frames.Height, video.Model, Stopwatch.GetElapsedTime(start).TotalSeconds);
            return video;
        }
        catch (Exception exception)
        {
            Fail(exception, start);
            throw;
        }
    }

    /// <inheritdoc/>
    public override IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        var start = 0L;
        return FrameStreams.Observe(
            () =>
            {
                start = Start(request);
                return base.GenerateStreamingAsync(request, progress, cancellationToken);
            },
            (frames, exception) =>
            {
                if (exception is null)
                {
                    LogStreamEnd(frames, Stopwatch.GetElapsedTime(start).TotalSeconds);
                }
                else
                {
                    Fail(exception, start);
                }
            },
            cancellationToken
        );
    }

    private long Start(VideoRequest request)
    {
        if (_logger.IsEnabled(LogLevel.Trace))
        {
            LogPrompt(request.Prompt, Settings(request));
        }
        else
        {
            LogStart();
        }

        return Stopwatch.GetTimestamp();
    }

    private void Fail(Exception exception, long start)
    {
        if (exception is OperationCanceledException)
        {
            LogCanceled(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        else
        {
            LogFailed(exception);
        }
    }

    // The settings that a request sets, such as "Frames 16, Seed 7".
    private static string Settings(VideoRequest request)
    {
        (string Name, object? Value)[] all =
        [
            (nameof(request.NegativePrompt), request.NegativePrompt),
            (nameof(request.Frames), request.Frames),
            (nameof(request.Width), request.Width),
            (nameof(request.Height), request.Height),
            (nameof(request.Steps), request.Steps),
            (nameof(request.GuidanceScale), request.GuidanceScale),
            (nameof(request.FramesPerSecond), request.FramesPerSecond),
            (nameof(request.Seed), request.Seed),
            (nameof(request.WindowFrames), request.WindowFrames),
            (nameof(request.WindowOverlap), request.WindowOverlap),
            (nameof(request.PromptWeighting), request.PromptWeighting),
        ];
        return string.Join(", ", all.Where(s => s.Value is not null).Select(s => string.Create(CultureInfo.InvariantCulture, $"{s.Name} {s.Value}")));
    }

    [LoggerMessage(Level = LogLevel.Debug, Message = "Generating a video")]
    private partial void LogStart();

    [LoggerMessage(Level = LogLevel.Trace, Message = "Generating a video of '{Prompt}'. Settings: {Settings}")]
    private partial void LogPrompt(string prompt, string settings);

    [LoggerMessage(Level = LogLevel.Debug, Message = "Generated {Frames} frames of {Width}x{Height} with {Model} in {Seconds:F1} s")]
    private partial void LogEnd(int frames, int width, int height, string model, double seconds);

    [LoggerMessage(Level = LogLevel.Debug, Message = "Generated {Frames} frames in {Seconds:F1} s")]
    private partial void LogStreamEnd(int frames, double seconds);

    [LoggerMessage(Level = LogLevel.Debug, Message = "The generation was canceled after {Seconds:F1} s")]
    private partial void LogCanceled(double seconds);

    [LoggerMessage(Level = LogLevel.Error, Message = "The generation failed")]
    private partial void LogFailed(Exception exception);
}
