using System.Globalization;
using System.Text;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Prints a line at intervals with steps, losses, speed and time left, and other events as they happen. Only whole lines are printed, so
/// that the output suits terminals and log files.</summary>
/// <param name="output">The output; null for the console.</param>
/// <param name="every">The time between lines; null for 15 seconds. The first and the last step of a stage always print a line.</param>
/// <param name="time">The clock; null for the system clock.</param>
internal sealed class ConsoleProgress(TextWriter? output = null, TimeSpan? every = null, TimeProvider? time = null) : ITrainingCallback
{
    private const double Steps = 100; // that losses are smoothed over

    private readonly TimeProvider _time = time ?? TimeProvider.System;
    private readonly TimeSpan _every = every ?? TimeSpan.FromSeconds(15);
    private readonly Dictionary<string, (double Sum, double Weight)> _smoothed = new(StringComparer.Ordinal);
    private long? _last;

    /// <inheritdoc/>
    public ValueTask StageStartedAsync(TrainingRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        _smoothed.Clear();
        _last = null;
        var stage = run.Stage;
        Print(
            string.Create(CultureInfo.InvariantCulture, $"{stage.Name}: {stage.Steps:N0} steps of {stage.BatchSize * stage.Accumulation} samples")
                + (stage.TimeLimit is { } limit ? $", at most {Duration(limit)}" : "")
                + (run.Step > 0 ? string.Create(CultureInfo.InvariantCulture, $", resumed after step {run.Step:N0}") : "")
        );
        return default;
    }

    /// <inheritdoc/>
    public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(progress);
        if (progress.Spike is { } spike)
        {
            Print(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{progress.Stage}  step {progress.Step:N0}{(run.Stage.Spikes!.SkipSteps ? " skipped" : "")}: {spike}"
                )
            );
        }
        else
        {
            Smooth(progress);
        }

        var done = progress.Step == progress.Steps || progress.TimeLeft == TimeSpan.Zero;
        if (!done && _last is { } then && _time.GetElapsedTime(then) < _every)
        {
            return default;
        }

        _last = _time.GetTimestamp();

        var line = new StringBuilder();
        var width = string.Create(CultureInfo.InvariantCulture, $"{progress.Steps:N0}").Length;
        line.Append(
            CultureInfo.InvariantCulture,
            $"{progress.Stage}  {progress.Step.ToString("N0", CultureInfo.InvariantCulture).PadLeft(width)}/{progress.Steps:N0} "
                + $"{(double)progress.Step / progress.Steps, 5:P0}"
        );
        foreach (var (name, (sum, weight)) in _smoothed)
        {
            line.Append(CultureInfo.InvariantCulture, $"  {name} {Number(sum / weight)}");
        }

        line.Append(
            CultureInfo.InvariantCulture,
            $"  norm {Number(progress.GradientNorm)}  lr {progress.LearningRate:0.0e+00}  {progress.SamplesPerSecond:0.0} samples/s"
        );
        if (progress.SkippedSteps > 0)
        {
            line.Append(CultureInfo.InvariantCulture, $"  {progress.SkippedSteps:N0} skipped");
        }

        line.Append(done ? "  done" : $"  {Duration(progress.TimeLeft)} left");
        Print(line.ToString());
        return default;
    }

    /// <inheritdoc/>
    public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(observation);
        var parts = observation
            .Scalars.Select(pair => $"{pair.Key} {Number(pair.Value)}")
            .Concat(observation.Videos.Count == 0 ? [] : [string.Join(", ", observation.Videos.Keys)]);
        Print($"{observation.Name}  {string.Join("  ", parts)}");
        return default;
    }

    /// <inheritdoc/>
    public ValueTask CheckpointWrittenAsync(TrainingRun run, string path)
    {
        Print($"written: {Path.GetFileName(path)}");
        return default;
    }

    // A running mean over about the last hundred steps, unbiased from the first step.
    private void Smooth(TrainingProgress progress)
    {
        foreach (var (name, value) in progress.Parts.Prepend(new("loss", progress.Loss)))
        {
            var (sum, weight) = _smoothed.GetValueOrDefault(name);
            var keep = 1 - 1 / Steps;
            _smoothed[name] = (sum * keep + value, weight * keep + 1);
        }
    }

    private void Print(string line) =>
        (output ?? Console.Out).WriteLine(string.Create(CultureInfo.InvariantCulture, $"{_time.GetLocalNow():HH:mm:ss}  {line}"));

    private static string Number(double value) =>
        value == 0 || Math.Abs(value) is >= 0.01 and < 10000
            ? value.ToString("0.0000", CultureInfo.InvariantCulture)
            : value.ToString("0.000e+00", CultureInfo.InvariantCulture);

    private static string Duration(TimeSpan value) => string.Create(CultureInfo.InvariantCulture, $"{(long)value.TotalHours}:{value:mm\\:ss}");
}
