using System.Diagnostics;

namespace OpenSora.Training.Callbacks;

/// <summary>Decides when a task is due that runs every number of steps of a stage or after a time, whichever comes first.</summary>
internal sealed class Interval
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private long _last = -1; // of all stages together: every stage counts its own steps from 0

    public bool IsDue(TrainingRun run, int? everySteps, TimeSpan? every) => !IsDone(run) && (run.Step % everySteps == 0 || _clock.Elapsed >= every);

    public void Done(TrainingRun run)
    {
        _last = run.TotalStep;
        _clock.Restart();
    }

    /// <summary>Determines whether the task ran at the current step.</summary>
    public bool IsDone(TrainingRun run) => run.TotalStep == _last;

    /// <summary>Validates a number of steps.</summary>
    public static int? Checked(int? everySteps) =>
        everySteps is null or > 0
            ? everySteps
            : throw new ArgumentOutOfRangeException(nameof(everySteps), everySteps, "The number of steps must be above 0, or null.");
}
