using System.Diagnostics;

namespace OpenSora.Training;

/// <summary>Tells when something is due that is done every so many steps, or every so often, whichever comes first.</summary>
internal sealed class Interval
{
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private long last = -1;

    public bool IsDue(long step, int? everySteps, TimeSpan? every) => step != last && (step % everySteps == 0 || clock.Elapsed >= every);

    public void Done(long step)
    {
        last = step;
        clock.Restart();
    }

    /// <summary>Whether it was done at this very step.</summary>
    public bool IsDone(long step) => step == last;
}
