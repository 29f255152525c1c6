using System.Globalization;
using System.Text;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Prints a line at intervals with steps, the last and the mean losses, speed and time left, and other events as they happen. Only whole
/// lines are printed, so that the output suits terminals and log files.</summary>
/// <param name="output">The output; null for the console.</param>
/// <param name="every">The time between lines; null for 15 seconds. The first and the last step of a stage always print a line.</param>
/// <param name="time">The clock; null for the system clock.</param>
internal sealed class ConsoleProgress(TextWriter? output = null, TimeSpan? every = null, TimeProvider? time = null) : ITrainingCallback
{
    private const double Window = 100; // steps that losses are smoothed over

    private readonly TimeProvider _time = time ?? TimeProvider.System;
    private readonly TimeSpan _every = every ?? TimeSpan.FromSeconds(15);
    private readonly Dictionary<string, (double Sum, double Weight, double Last)> _smoothed = new(StringComparer.Ordinal);
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
                + (stage.TimeLimit is { } limit ? $", or until {Duration(limit)} of training have passed" : "")
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

        var done = progress.Step >= progress.Steps || progress.TimeLeft == TimeSpan.Zero;
        if (!done && _last is { } then && _time.GetElapsedTime(then) < _every)
        {
            return default;
        }

        _last = _time.GetTimestamp();

        var line = new StringBuilder();
        line.Append(CultureInfo.InvariantCulture, $"{progress.Stage}  {Position(run.Stage, progress)}");
        foreach (var (name, (sum, weight, last)) in _smoothed)
        {
            line.Append(CultureInfo.InvariantCulture, $"  {name} {Number(last)} (mean {Number(sum / weight)})");
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
    public ValueTask AnnouncedAsync(TrainingRun run, string name)
    {
        Print($"{name}  started");
        return default;
    }

    /// <inheritdoc/>
    public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
    {
        ArgumentNullException.ThrowIfNull(run);
        ArgumentNullException.ThrowIfNull(observation);
        var parts = observation
            .Scalars.Select(pair => $"{pair.Key} {Number(pair.Value)}")
            .Concat(observation.Videos.Count == 0 ? [] : [string.Join(", ", observation.Videos.Keys)])
            .Concat(observation.Text is { } text ? [text] : []);
        Print($"{observation.Name}  {string.Join("  ", parts)}");
        return default;
    }

    /// <inheritdoc/>
    public ValueTask CheckpointWrittenAsync(TrainingRun run, string path)
    {
        Print($"written: {Path.GetFileName(path)}");
        return default;
    }

    // The completed part: of the steps, or of the time if that is what ends the stage.
    private static string Position(TrainingStage stage, TrainingProgress progress)
    {
        var (steps, most) = (Steps(progress.Step), Steps(progress.Steps));
        return stage.TimeLimit is { } limit && progress.Elapsed / limit > (double)progress.Step / progress.Steps
            ? string.Create(CultureInfo.InvariantCulture, $"{steps.PadLeft(most.Length)} steps  {progress.Fraction, 5:P0} of {Duration(limit)}")
            : string.Create(CultureInfo.InvariantCulture, $"{steps.PadLeft(most.Length)}/{most} {(double)progress.Step / progress.Steps, 5:P0}");

        static string Steps(long count) => count.ToString("N0", CultureInfo.InvariantCulture);
    }

    // A running mean over about the last hundred steps, unbiased from the first step.
    private void Smooth(TrainingProgress progress)
    {
        foreach (var (name, value) in progress.Parts.Prepend(new("loss", progress.Loss)))
        {
            var (sum, weight, _) = _smoothed.GetValueOrDefault(name);
            var keep = 1 - 1 / Window;
            _smoothed[name] = (sum * keep + value, weight * keep + 1, value);
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
