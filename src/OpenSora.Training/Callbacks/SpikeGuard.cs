using OpenSora.Training.Stages;

namespace OpenSora.Training.Callbacks;

/// <summary>Guards a stage against steps that are out of proportion: a loss or a gradient norm far above the median of the steps before.</summary>
/// <remarks>The median is that of a window of steps, the first of which are not judged until it is full. Skipped steps do not enter it. Where data of
/// different kinds take turns, the factor must be large enough for the harder kind.</remarks>
public class SpikeGuard
{
    /// <summary>How many times the median is too much.</summary>
    public double Factor { get; set; } = 5;

    /// <summary>Steps that the median is taken of.</summary>
    public int Window { get; set; } = 100;

    /// <summary>Whether a step that is out of proportion is skipped: the weights stay as they are, and the next batch's turn comes.</summary>
    public bool SkipSteps { get; set; } = true;

    /// <summary>How many such steps in a row end the run with a <see cref="TrainingDivergedException"/>, before the last of them is taken; null: they
    /// never do.
    /// No checkpoint is due amid them, so the newest one is from before, unless the stage ended or was cancelled just then.</summary>
    public int? StopAfter { get; set; } = 10;
}

/// <summary>What the guard knows of the steps before; part of a checkpoint.</summary>
internal sealed record SpikeHistory(double[] Losses, double[] Norms, int InARow, long Skipped);

/// <summary>Judges one step after the other.</summary>
internal sealed class SpikeWatch(SpikeGuard guard, SpikeHistory? history)
{
    public SpikeHistory History { get; private set; } = history ?? new SpikeHistory([], [], 0, 0);

    public int InARow => History.InARow;

    public bool MustStop => InARow >= guard.StopAfter;

    /// <summary>What is out of proportion in a step, and where; null if nothing is.</summary>
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
