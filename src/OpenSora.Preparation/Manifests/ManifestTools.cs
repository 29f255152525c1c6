using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Manifests;

/// <summary>Combines and reduces manifests. The methods stream their rows; the operators of <see cref="AsyncEnumerable"/>, such as <c>Where</c> and
/// <c>Concat</c>, filter and concatenate manifests.</summary>
public static class ManifestTools
{
    /// <summary>Adds the values of another manifest to the rows with the same paths. Values of the other manifest replace those of the rows, unless
    /// they are empty; new columns are appended.</summary>
    /// <remarks>The rows keep their order. The other manifest is kept in a temporary file, not in memory.</remarks>
    /// <param name="rows">The rows.</param>
    /// <param name="other">The manifest whose values are added, with every path once. Its rows whose paths are not in <paramref name="rows"/> are
    /// dropped.</param>
    /// <param name="keepUnmatched">true to keep rows whose paths are not in the other manifest; false to drop them.</param>
    /// <param name="dropped">Counts the rows of both manifests that were dropped, by the stage <c>join</c>.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="PreparationException">The other manifest has several rows with the same path.</exception>
    public static async IAsyncEnumerable<ManifestRow> JoinAsync(
        this IAsyncEnumerable<ManifestRow> rows,
        IAsyncEnumerable<ManifestRow> other,
        bool keepUnmatched = true,
        DropReport? dropped = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        ArgumentNullException.ThrowIfNull(other);
        using var index = new RowIndex();
        await foreach (var row in other.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            index.Add(row);
        }

        await foreach (var row in rows.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            if (index.Join(row) is { } joined)
            {
                yield return joined;
            }
            else if (keepUnmatched)
            {
                yield return row;
            }
            else
            {
                dropped?.Add("join", "not in the other manifest");
            }
        }

        if (index.CountUnused() is > 0 and var unused)
        {
            dropped?.Add("join", "only in the other manifest", unused);
        }
    }

    /// <summary>Chooses rows at random, each with the same probability, and returns them in their order.</summary>
    /// <param name="rows">The rows. Only the chosen ones are in memory.</param>
    /// <param name="count">The number of rows to choose. All rows are returned if there are fewer.</param>
    /// <param name="seed">The seed. The same seed and rows result in the same choice.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    public static async Task<IReadOnlyList<ManifestRow>> SampleAsync(
        this IAsyncEnumerable<ManifestRow> rows,
        int count,
        int seed = 0,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        var reservoir = new Reservoir<ManifestRow>(count, seed);
        await foreach (var row in rows.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            reservoir.Add(row);
        }

        return reservoir.Chosen;
    }

    /// <summary>Makes paths that are relative to a folder relative to another folder, such as for manifests that are concatenated or written to another
    /// folder. Absolute paths do not change.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="from">The folder to which the paths are relative.</param>
    /// <param name="to">The folder to which the new paths are relative, which is usually that of the new manifest.</param>
    public static IAsyncEnumerable<ManifestRow> Rebase(this IAsyncEnumerable<ManifestRow> rows, string from, string to)
    {
        ArgumentNullException.ThrowIfNull(rows);
        ArgumentException.ThrowIfNullOrEmpty(from);
        ArgumentException.ThrowIfNullOrEmpty(to);
        return rows.Select(row =>
            Path.IsPathRooted(row.Path)
                ? row
                : row with
                {
                    Path = Path.GetRelativePath(to, Path.Combine(from, row.Path)).Replace(Path.DirectorySeparatorChar, '/'),
                }
        );
    }
}

/// <summary>Chooses items at random, each with the same probability, of a number that is not known (Vitter 1985, algorithm R).</summary>
internal sealed class Reservoir<T>
{
    private readonly List<(long Index, T Item)> _chosen = [];
    private readonly int _capacity;
    private readonly Random _random;
    private long _seen;

    internal Reservoir(int capacity, int seed)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(capacity);
        (_capacity, _random) = (capacity, new Random(seed));
    }

    /// <summary>Gets the chosen items in their order.</summary>
    internal IReadOnlyList<T> Chosen => [.. _chosen.OrderBy(each => each.Index).Select(each => each.Item)];

    internal void Add(T item)
    {
        if (_chosen.Count < _capacity)
        {
            _chosen.Add((_seen, item));
        }
        else if (_random.NextInt64(_seen + 1) is var place && place < _capacity)
        {
            _chosen[(int)place] = (_seen, item);
        }

        _seen++;
    }
}
