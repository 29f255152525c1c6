using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;

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
        if (_logger.IsEnabled(LogLevel.Trace))
        {
            LogPrompt(request.Prompt, Settings(request));
        }
        else
        {
            LogStart();
        }

        var start = Stopwatch.GetTimestamp();
        try
        {
            var video = await base.GenerateAsync(request, progress, cancellationToken).ConfigureAwait(false);
            LogEnd(video.Frames.Count, video.Frames.Width, video.Frames.Height, video.Model, Stopwatch.GetElapsedTime(start).TotalSeconds);
            return video;
        }
        catch (OperationCanceledException)
        {
            LogCanceled(Stopwatch.GetElapsedTime(start).TotalSeconds);
            throw;
        }
        catch (Exception exception)
        {
            LogFailed(exception);
            throw;
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
        ];
        return string.Join(", ", all.Where(s => s.Value is not null).Select(s => string.Create(CultureInfo.InvariantCulture, $"{s.Name} {s.Value}")));
    }

    [LoggerMessage(Level = LogLevel.Debug, Message = "Generating a video")]
    private partial void LogStart();

    [LoggerMessage(Level = LogLevel.Trace, Message = "Generating a video of '{Prompt}'. Settings: {Settings}")]
    private partial void LogPrompt(string prompt, string settings);

    [LoggerMessage(Level = LogLevel.Debug, Message = "Generated {Frames} frames of {Width}x{Height} with {Model} in {Seconds:F1} s")]
    private partial void LogEnd(int frames, int width, int height, string model, double seconds);

    [LoggerMessage(Level = LogLevel.Debug, Message = "The generation was canceled after {Seconds:F1} s")]
    private partial void LogCanceled(double seconds);

    [LoggerMessage(Level = LogLevel.Error, Message = "The generation failed")]
    private partial void LogFailed(Exception exception);
}
