namespace OpenSora.Preparation.Manifests;

/// <summary>The number of clips or files that a stage dropped for a reason.</summary>
/// <param name="Stage">The stage, such as <c>filter</c>.</param>
/// <param name="Reason">The reason in a few words.</param>
/// <param name="Count">The number of clips or files.</param>
public sealed record DroppedCount(string Stage, string Reason, long Count);

/// <summary>Counts what stages drop, and why. It can be used from several threads.</summary>
public sealed class DropReport
{
    private readonly Lock _lock = new();
    private readonly List<string> _stages = [];
    private readonly Dictionary<(string Stage, string Reason), long> _counts = [];

    /// <summary>Gets the counts: stages in the order in which they dropped something first, and the most frequent reasons of each first.</summary>
    public IReadOnlyList<DroppedCount> Counts
    {
        get
        {
            lock (_lock)
            {
                return
                [
                    .. _counts
                        .Select(each => new DroppedCount(each.Key.Stage, each.Key.Reason, each.Value))
                        .OrderBy(each => _stages.IndexOf(each.Stage))
                        .ThenByDescending(each => each.Count)
                        .ThenBy(each => each.Reason, StringComparer.Ordinal),
                ];
            }
        }
    }

    /// <summary>Counts dropped clips or files.</summary>
    /// <param name="stage">The stage.</param>
    /// <param name="reason">The reason in a few words, such as <see cref="PreparationException.Reason"/>.</param>
    /// <param name="count">The number of clips or files.</param>
    public void Add(string stage, string reason, long count = 1)
    {
        ArgumentException.ThrowIfNullOrEmpty(stage);
        ArgumentException.ThrowIfNullOrEmpty(reason);
        lock (_lock)
        {
            if (!_stages.Contains(stage))
            {
                _stages.Add(stage);
            }

            _counts[(stage, reason)] = _counts.GetValueOrDefault((stage, reason)) + count;
        }
    }
}
