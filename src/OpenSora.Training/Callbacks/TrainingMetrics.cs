using System.Diagnostics.Metrics;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>The metrics of every run for System.Diagnostics.Metrics, such as OpenTelemetry and dotnet-counters. They cost nothing without a
/// listener.</summary>
internal static class TrainingMetrics
{
    private static readonly Meter Meter = new("OpenSora.Training");
    private static readonly Counter<long> Steps = Meter.CreateCounter<long>("opensora.training.steps", "{step}", "Completed optimizer steps.");
    private static readonly Counter<long> SkippedSteps = Meter.CreateCounter<long>(
        "opensora.training.skipped_steps",
        "{step}",
        "Steps that were skipped because of spikes."
    );
    private static readonly Counter<long> Samples = Meter.CreateCounter<long>("opensora.training.samples", "{sample}", "Samples used for training.");
    private static readonly Gauge<double> Loss = Meter.CreateGauge<double>("opensora.training.loss", description: "Loss of the last step.");
    private static readonly Gauge<double> GradientNorm = Meter.CreateGauge<double>(
        "opensora.training.gradient_norm",
        description: "Gradient norm of the last step before clipping."
    );
    private static readonly Histogram<double> StepDuration = Meter.CreateHistogram<double>(
        "opensora.training.step.duration",
        "s",
        "Duration of a step."
    );

    public static void Record(TrainingProgress step, bool skipped)
    {
        var stage = new KeyValuePair<string, object?>("stage", step.Stage);
        Steps.Add(1, stage);
        SkippedSteps.Add(skipped ? 1 : 0, stage);
        Samples.Add(step.Samples, stage);
        Loss.Record(step.Loss, stage);
        GradientNorm.Record(step.GradientNorm, stage);
        StepDuration.Record(step.StepTime.TotalSeconds, stage);
    }
}
