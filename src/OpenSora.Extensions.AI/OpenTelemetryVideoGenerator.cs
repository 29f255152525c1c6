using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Text.Json;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Extensions.AI;

/// <summary>A generator that records a span and metrics for each generation, according to the semantic conventions of OpenTelemetry for generative
/// AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/). Prompts are recorded only if <see cref="EnableSensitiveData"/> is set.</summary>
/// <remarks>The conventions are experimental and define no attributes for videos yet, so sizes and settings of videos have the prefix
/// <c>gen_ai.request.video</c>.</remarks>
public sealed class OpenTelemetryVideoGenerator : DelegatingVideoGenerator
{
    /// <summary>The default name of the <see cref="ActivitySource"/> and the <see cref="Meter"/>.</summary>
    public const string DefaultSourceName = "OpenSora.Extensions.AI";

    private const string Operation = "generate_content";

    // The boundaries that the conventions recommend, in seconds, continued for videos, which take minutes.
    private static readonly double[] Boundaries = [0.01, 0.04, 0.16, 0.64, 2.56, 10.24, 40.96, 163.84, 655.36, 2621.44];

    private readonly ActivitySource _source;
    private readonly Meter _meter;
    private readonly Histogram<double> _duration;
    private readonly ILogger? _logger;
    private readonly bool _isLocal;

    /// <summary>Initializes a generator that records telemetry.</summary>
    /// <param name="innerGenerator">The generator to pass calls on to.</param>
    /// <param name="logger">The logger for errors; null for none.</param>
    /// <param name="sourceName">The name of the activity source and the meter; null for <see cref="DefaultSourceName"/>.</param>
    public OpenTelemetryVideoGenerator(IVideoGenerator innerGenerator, ILogger? logger = null, string? sourceName = null)
        : base(innerGenerator)
    {
        var name = string.IsNullOrEmpty(sourceName) ? DefaultSourceName : sourceName;
        (_logger, _source, _meter) = (logger, new ActivitySource(name), new Meter(name));
        _duration = _meter.CreateHistogram(
            "gen_ai.client.operation.duration",
            "s",
            "The duration of a generation.",
            tags: null,
            new InstrumentAdvice<double> { HistogramBucketBoundaries = Boundaries }
        );
        _isLocal = innerGenerator.GetService<VideoGenerator>() is not null;
    }

    /// <summary>Gets or sets a value that indicates whether prompts are recorded. By default, it is true if the environment variable
    /// <c>OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT</c> is <c>true</c>, and false otherwise.</summary>
    public bool EnableSensitiveData { get; set; } =
        string.Equals(
            Environment.GetEnvironmentVariable("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"),
            "true",
            StringComparison.OrdinalIgnoreCase
        );

    /// <summary>Gets or sets the name of the provider of the model in the telemetry.</summary>
    public string ProviderName { get; set; } = "opensora";

    /// <inheritdoc/>
    public override object? GetService(Type serviceType, object? serviceKey = null) =>
        serviceKey is null && serviceType == typeof(ActivitySource) ? _source : base.GetService(serviceType, serviceKey);

    /// <inheritdoc/>
    public override async Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        var model = Model();
        using var activity = Start(request, model);
        var start = Stopwatch.GetTimestamp();
        Exception? failure = null;
        try
        {
            var video = await base.GenerateAsync(request, progress, cancellationToken).ConfigureAwait(false);
            Describe(activity, video);
            model ??= video.Model.Length > 0 ? video.Model : null;
            return video;
        }
        catch (Exception exception)
        {
            failure = exception;
            throw;
        }
        finally
        {
            End(activity, model, start, failure);
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
        var (activity, model, start) = ((Activity?)null, (string?)null, 0L);
        return FrameStreams.Observe(
            () =>
            {
                model = Model();
                activity = Start(request, model);
                start = Stopwatch.GetTimestamp();
                return base.GenerateStreamingAsync(request, progress, cancellationToken);
            },
            (frames, exception) =>
            {
                activity?.SetTag("gen_ai.response.video.frames", frames);
                End(activity, model, start, exception);
                activity?.Dispose();
            },
            cancellationToken
        );
    }

    private string? Model() => _source.HasListeners() || _duration.Enabled ? InnerGenerator.GetService<ModelDescription>()?.Name : null;

    private void End(Activity? activity, string? model, long start, Exception? failure)
    {
        var tags = new TagList { { "gen_ai.operation.name", Operation }, { "gen_ai.provider.name", ProviderName } };
        if (model is not null)
        {
            tags.Add("gen_ai.request.model", model);
        }

        if (failure is not null)
        {
            var type = failure.GetType().FullName;
            tags.Add("error.type", type);
            Fail(activity, failure, type);
        }

        _duration.Record(Stopwatch.GetElapsedTime(start).TotalSeconds, tags);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _source.Dispose();
            _meter.Dispose();
        }

        base.Dispose(disposing);
    }

    private Activity? Start(VideoRequest request, string? model)
    {
        // The conventions ask for the kind Internal if the model runs in this process.
        var activity = _source.StartActivity(
            model is null ? Operation : $"{Operation} {model}",
            _isLocal ? ActivityKind.Internal : ActivityKind.Client
        );
        if (activity is not { IsAllDataRequested: true })
        {
            return activity;
        }

        activity.SetTag("gen_ai.operation.name", Operation);
        activity.SetTag("gen_ai.provider.name", ProviderName);
        activity.SetTag("gen_ai.output.type", "video");
        activity.SetTag("gen_ai.request.model", model); // a tag of value null is not added
        activity.SetTag("gen_ai.request.seed", request.Seed);
        activity.SetTag("gen_ai.request.video.frames", request.Frames);
        activity.SetTag("gen_ai.request.video.width", request.Width);
        activity.SetTag("gen_ai.request.video.height", request.Height);
        activity.SetTag("gen_ai.request.video.steps", request.Steps);
        activity.SetTag("gen_ai.request.video.guidance_scale", request.GuidanceScale);
        if (EnableSensitiveData)
        {
            activity.SetTag("gen_ai.input.messages", Message(request.Prompt));
            activity.SetTag("gen_ai.request.video.negative_prompt", request.NegativePrompt);
        }

        return activity;
    }

    private static void Describe(Activity? activity, GeneratedVideo video)
    {
        if (activity is not { IsAllDataRequested: true })
        {
            return;
        }

        activity.SetTag("gen_ai.response.model", video.Model.Length > 0 ? video.Model : null);
        activity.SetTag("gen_ai.response.video.frames", video.Frames.Count);
        activity.SetTag("gen_ai.response.video.width", video.Frames.Width);
        activity.SetTag("gen_ai.response.video.height", video.Frames.Height);
        activity.SetTag("gen_ai.response.video.steps", video.Steps);
        activity.SetTag("gen_ai.response.video.seed", video.Seed);
    }

    // The message of an exception can quote the prompt.
    private void Fail(Activity? activity, Exception exception, string? type)
    {
        activity?.SetTag("error.type", type);
        activity?.SetStatus(ActivityStatusCode.Error, EnableSensitiveData ? exception.Message : null);
        if (exception is not OperationCanceledException && _logger?.IsEnabled(LogLevel.Warning) == true)
        {
            _logger.Log(LogLevel.Warning, "A generation failed with {Type}", type);
        }
    }

    private static string Message(string prompt) =>
        JsonSerializer.Serialize(new[] { new { role = "user", parts = new[] { new { type = "text", content = prompt } } } });
}
