using System.Diagnostics.Metrics;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>What every run tells System.Diagnostics.Metrics, for OpenTelemetry, dotnet-counters and the like; costs nothing where nobody
/// listens.</summary>
internal static class TrainingMetrics
{
    private static readonly Meter Meter = new("OpenSora.Training");
    private static readonly Counter<long> Steps = Meter.CreateCounter<long>("opensora.training.steps", "{step}", "Optimizer steps done.");
    private static readonly Counter<long> SkippedSteps = Meter.CreateCounter<long>(
        "opensora.training.skipped_steps",
        "{step}",
        "Steps not taken because of spikes."
    );
    private static readonly Counter<long> Samples = Meter.CreateCounter<long>("opensora.training.samples", "{sample}", "Samples trained with.");
    private static readonly Gauge<double> Loss = Meter.CreateGauge<double>("opensora.training.loss", description: "The last step's loss.");
    private static readonly Gauge<double> GradientNorm = Meter.CreateGauge<double>(
        "opensora.training.gradient_norm",
        description: "The norm of the last step's gradients before cutting."
    );
    private static readonly Histogram<double> StepDuration = Meter.CreateHistogram<double>("opensora.training.step.duration", "s", "Time of a step.");

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
