using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace OpenSora.Generation;

/// <summary>The activities and metrics of generation. They contain sizes, times and names of models, but no prompts.</summary>
internal static class Telemetry
{
    private static readonly ActivitySource Source = new(VideoGenerator.DiagnosticsName);
    private static readonly Meter Meter = new(VideoGenerator.DiagnosticsName);
    private static readonly Histogram<double> Duration = Meter.CreateHistogram<double>(
        "opensora.generation.duration",
        "s",
        "The time from the start of a generation to its frames, without the time spent waiting."
    );
    private static readonly Histogram<double> Waiting = Meter.CreateHistogram<double>(
        "opensora.generation.waiting",
        "s",
        "The time that a request waited for others."
    );
    private static readonly Counter<long> Frames = Meter.CreateCounter<long>("opensora.generation.frames", "{frame}", "The generated frames.");
    private static readonly UpDownCounter<int> Active = Meter.CreateUpDownCounter<int>(
        "opensora.generation.active",
        "{request}",
        "The requests that are being generated."
    );

    /// <summary>Records the time that a request waited.</summary>
    public static void Waited(TimeSpan time) => Waiting.Record(time.TotalSeconds);

    /// <summary>Measures a generation.</summary>
    /// <param name="model">The name of the model.</param>
    /// <param name="backend">The name of the backend.</param>
    /// <param name="plan">The request.</param>
    /// <param name="generate">Generates the video.</param>
    public static GeneratedVideo Measure(string model, string backend, RequestPlan plan, Func<GeneratedVideo> generate)
    {
        var watch = Stopwatch.StartNew();
        using var activity = Source.StartActivity($"generate_video {model}");
        if (activity is not null)
        {
            activity.SetTag("opensora.model", model);
            activity.SetTag("opensora.backend", backend);
            activity.SetTag("opensora.frames", plan.Settings.Frames);
            activity.SetTag("opensora.width", plan.Settings.Width);
            activity.SetTag("opensora.height", plan.Settings.Height);
            activity.SetTag("opensora.steps", plan.Steps);
            activity.SetTag("opensora.guidance_scale", plan.Settings.GuidanceScale);
        }

        var tags = new TagList { { "opensora.model", model }, { "opensora.backend", backend } };
        Active.Add(1, tags);
        try
        {
            var video = generate();
            activity?.SetStatus(ActivityStatusCode.Ok);
            Frames.Add(video.Frames.Count, tags);
            return video;
        }
        catch (Exception e)
        {
            activity?.SetStatus(ActivityStatusCode.Error);
            activity?.SetTag("error.type", e.GetType().FullName);
            tags.Add("error.type", e.GetType().FullName);
            throw;
        }
        finally
        {
            Active.Add(-1, new TagList { { "opensora.model", model }, { "opensora.backend", backend } });
            Duration.Record(watch.Elapsed.TotalSeconds, tags);
        }
    }
}
