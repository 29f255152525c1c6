using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Protects a stage against spikes: steps whose loss or gradient norm is far above the median of the previous steps.</summary>
/// <remarks>The median is taken over a window of steps; steps are not judged until the window is full, and skipped steps do not enter it. If
/// different kinds of data alternate, the factor must be large enough for the harder kind.</remarks>
public class SpikeGuard
{
    /// <summary>The multiple of the median above which a step is a spike.</summary>
    public double Factor { get; set; } = 5;

    /// <summary>The number of steps in the window.</summary>
    public int Window { get; set; } = 100;

    /// <summary>True to skip a spike: the weights stay unchanged, and training continues with the next batch.</summary>
    public bool SkipSteps { get; set; } = true;

    /// <summary>The number of spikes in a row that ends the run with a <see cref="TrainingDivergedException"/>, before the last of them is applied;
    /// null for no limit. No checkpoint is due during spikes, so the newest one is older than they are, unless the stage ended or was canceled at
    /// that moment.</summary>
    [MayDiffer]
    public int? StopAfter { get; set; } = 10;
}

/// <summary>The state of the guard; part of a checkpoint.</summary>
internal sealed record SpikeHistory(double[] Losses, double[] Norms, int InARow, long Skipped);

/// <summary>Judges each step.</summary>
internal sealed class SpikeWatch(SpikeGuard guard, SpikeHistory? history)
{
    public SpikeHistory History { get; private set; } = history ?? new SpikeHistory([], [], 0, 0);

    public int InARow => History.InARow;

    public bool MustStop => InARow >= guard.StopAfter;

    /// <summary>Returns a description of the spike in a step; null if there is none.</summary>
    public string? Judge(double loss, double norm, Func<(string Name, double Share)> largest)
    {
        var what = Compare("loss", loss, History.Losses) ?? Compare("gradients' norm", norm, History.Norms);
        var skip = what is not null && guard.SkipSteps;
        History = new SpikeHistory(
            skip ? History.Losses : Add(History.Losses, loss),
            skip ? History.Norms : Add(History.Norms, norm),
            what is null ? 0 : InARow + 1,
            History.Skipped + (skip ? 1 : 0)
        );
        if (what is null)
        {
            return null;
        }

        var (name, share) = largest();
        return FormattableString.Invariant($"{what}, the largest gradient is that of '{name}' ({share:P0} of all squares)");
    }

    private string? Compare(string what, double value, double[] before)
    {
        if (before.Length < guard.Window)
        {
            return null;
        }

        var median = before.Order().ElementAt(before.Length / 2);
        return median > 0 && value > guard.Factor * median
            ? FormattableString.Invariant($"the {what} of {value:G4} is {value / median:F1} times the median of {guard.Window} steps")
            : null;
    }

    private double[] Add(double[] before, double value) => [.. before.TakeLast(guard.Window - 1), value];
}
