namespace OpenSora.Preparation.Manifests;

/// <summary>The distribution of the numbers of a stream, with bounded memory. The result does not depend on their order.</summary>
/// <remarks>Numbers are counted in bins whose width is a power of two. When there are too many bins, the width is doubled. The minimum, the maximum and
/// the mean are exact.</remarks>
internal sealed class Distribution
{
    private const int MaximumBins = 4096;
    private const int FirstExponent = -30;
    private const double Largest = 1e290;
    private Dictionary<double, (long Count, double Mean)> _bins = [];
    private double _width = Math.ScaleB(1, FirstExponent);
    private double _sum;

    internal long Count { get; private set; }

    internal double Minimum { get; private set; } = double.PositiveInfinity;

    internal double Maximum { get; private set; } = double.NegativeInfinity;

    internal double Sum => _sum;

    internal double Mean => _sum / Count;

    /// <summary>Gets the bins in ascending order: the mean of their numbers, and how many there are.</summary>
    internal IReadOnlyList<(double Value, long Count)> Bins =>
        [.. _bins.OrderBy(bin => bin.Key).Select(bin => (bin.Value.Mean, bin.Value.Count))];

    /// <summary>Adds a number. NaN is not counted, and numbers that are not finite are counted as very large ones.</summary>
    internal void Add(double value)
    {
        if (double.IsNaN(value))
        {
            return;
        }

        value = Math.Clamp(value, -Largest, Largest);
        Count++;
        _sum += value;
        (Minimum, Maximum) = (Math.Min(Minimum, value), Math.Max(Maximum, value));
        Merge(_bins, Math.Floor(value / _width), 1, value);
        while (_bins.Count > MaximumBins)
        {
            _width *= 2;
            var wider = new Dictionary<double, (long, double)>(MaximumBins);
            foreach (var (key, (count, mean)) in _bins.OrderBy(bin => bin.Key))
            {
                Merge(wider, Math.Floor(key / 2), count, mean);
            }

            _bins = wider;
        }
    }

    /// <summary>Gets the number below which a fraction of the numbers lie.</summary>
    internal double Quantile(double fraction)
    {
        var rank = fraction * Count;
        foreach (var (value, count) in Bins)
        {
            rank -= count;
            if (rank <= 0)
            {
                return Math.Clamp(value, Minimum, Maximum);
            }
        }

        return Maximum;
    }

    private static void Merge(Dictionary<double, (long Count, double Mean)> bins, double key, long count, double mean)
    {
        var old = bins.GetValueOrDefault(key);
        var total = old.Count + count;
        // Equal numbers keep their exact value.
        bins[key] = (total, old.Count == 0 || old.Mean.Equals(mean) ? mean : old.Mean + (mean - old.Mean) * count / total);
    }
}

/// <summary>Counts the most frequent texts of a stream, with bounded memory. When there are too many different texts, those that occurred least often
/// are forgotten.</summary>
internal sealed class FrequencyTable
{
    private const int MaximumTexts = 200_000;
    private Dictionary<string, long> _counts = new(StringComparer.Ordinal);
    private Dictionary<string, long>.AlternateLookup<ReadOnlySpan<char>> _lookup;
    private long _rarest;

    internal FrequencyTable() => _lookup = _counts.GetAlternateLookup<ReadOnlySpan<char>>();

    internal long Total { get; private set; }

    /// <summary>Gets the number of different texts that are counted.</summary>
    internal int Distinct => _counts.Count;

    internal void Add(ReadOnlySpan<char> text)
    {
        Total++;
        _lookup[text] = (_lookup.TryGetValue(text, out var count) ? count : 0) + 1;
        while (_counts.Count > MaximumTexts)
        {
            _rarest++;
            _counts = new(_counts.Where(each => each.Value > _rarest), StringComparer.Ordinal);
            _lookup = _counts.GetAlternateLookup<ReadOnlySpan<char>>();
        }
    }

    /// <summary>Gets the most frequent texts, the most frequent one first.</summary>
    internal IReadOnlyList<(string Text, long Count)> Top(int number) =>
        [
            .. _counts
                .OrderByDescending(each => each.Value)
                .ThenBy(each => each.Key, StringComparer.Ordinal)
                .Take(number)
                .Select(each => (each.Key, each.Value)),
        ];
}
