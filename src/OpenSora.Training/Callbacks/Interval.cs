using System.Diagnostics;

namespace OpenSora.Training.Callbacks;

/// <summary>Tells when something is due that is done every so many steps of a stage, or every so often, whichever comes first.</summary>
internal sealed class Interval
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private long _last = -1; // of all stages together: the next stage counts its own steps anew

    public bool IsDue(TrainingRun run, int? everySteps, TimeSpan? every) => !IsDone(run) && (run.Step % everySteps == 0 || _clock.Elapsed >= every);

    public void Done(TrainingRun run)
    {
        _last = run.TotalStep;
        _clock.Restart();
    }

    /// <summary>Whether it was done at this very step.</summary>
    public bool IsDone(TrainingRun run) => run.TotalStep == _last;

    /// <summary>A number of steps that can be gone by.</summary>
    public static int? Checked(int? everySteps) =>
        everySteps is null or > 0
            ? everySteps
            : throw new ArgumentOutOfRangeException(nameof(everySteps), everySteps, "The number of steps must be above 0, or null.");
}
