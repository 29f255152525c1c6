using System.Globalization;
using System.Text;

namespace OpenSora.Preparation.Scores;

/// <summary>The number of clips that a condition of a filter removed.</summary>
/// <param name="Condition">The condition.</param>
/// <param name="Checked">The number of clips that met all conditions before this one.</param>
/// <param name="Removed">The number of those that this condition removed.</param>
/// <param name="Missing">The number of the removed ones that lacked a value.</param>
public sealed record FilterStep(string Condition, long Checked, long Removed, long Missing);

/// <summary>Counts what each condition of a filter removed. Threads can add decisions at the same time.</summary>
public sealed class FilterReport
{
    private readonly IReadOnlyList<string> _conditions;
    private readonly long[] _removed;
    private readonly long[] _missing;
    private long _total;

    /// <summary>Initializes an empty report.</summary>
    /// <param name="filter">The filter whose decisions are counted.</param>
    public FilterReport(ClipFilter filter)
    {
        ArgumentNullException.ThrowIfNull(filter);
        _conditions = filter.Conditions;
        (_removed, _missing) = (new long[_conditions.Count], new long[_conditions.Count]);
    }

    /// <summary>Gets the number of clips that were checked.</summary>
    public long Total => Interlocked.Read(ref _total);

    /// <summary>Gets the number of clips that were kept.</summary>
    public long Kept => Total - _removed.Sum();

    /// <summary>Gets the conditions in order, with what each removed.</summary>
    public IReadOnlyList<FilterStep> Steps
    {
        get
        {
            var steps = new List<FilterStep>();
            var left = Total;
            for (var i = 0; i < _conditions.Count; i++)
            {
                steps.Add(new(_conditions[i], left, _removed[i], _missing[i]));
                left -= _removed[i];
            }

            return steps;
        }
    }

    /// <summary>Counts the decision on a clip.</summary>
    /// <param name="decision">The decision of the filter.</param>
    public void Add(FilterDecision decision)
    {
        Interlocked.Increment(ref _total);
        if (decision.Condition is { } condition)
        {
            Interlocked.Increment(ref _removed[condition]);
            if (decision.IsMissing)
            {
                Interlocked.Increment(ref _missing[condition]);
            }
        }
    }

    /// <summary>Returns the report as lines of text.</summary>
    public override string ToString()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{Kept} of {Total} clips kept");
        foreach (var step in Steps)
        {
            text.Append(CultureInfo.InvariantCulture, $"\n{step.Removed, 10} of {step.Checked} removed by {step.Condition}");
            if (step.Missing > 0)
            {
                text.Append(CultureInfo.InvariantCulture, $" ({step.Missing} without a value)");
            }
        }

        return text.ToString();
    }
}
