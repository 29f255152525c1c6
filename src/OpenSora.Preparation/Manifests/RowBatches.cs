using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Manifests;

/// <summary>Groups rows that are written together, and verifies that a file can contain them.</summary>
internal static class RowBatches
{
    private const int Rows = 16_384; // also the rows of a Parquet row group
    private const int Characters = 4_000_000;

    /// <summary>The number of characters of the longest text in a manifest.</summary>
    internal const int LongestText = 1 << 20;

    internal static async IAsyncEnumerable<IReadOnlyList<ManifestRow>> ReadAsync(
        IAsyncEnumerable<ManifestRow> rows,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        List<ManifestRow> batch = [];
        var (number, characters) = (0L, 0);
        await foreach (var row in rows.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            number++;
            if (Problem(row) is { } problem)
            {
                throw new PreparationException("not valid in a manifest", $"Row {number} of the manifest ('{row.Path}') {problem}. Correct the row.");
            }

            batch.Add(row);
            characters += row.Path.Length + row.Text.Length;
            foreach (var value in row.Columns.Values)
            {
                characters += value.Text?.Length ?? 0;
            }

            if (batch.Count >= Rows || characters >= Characters)
            {
                yield return batch;
                batch = [];
                characters = 0;
            }
        }

        if (batch.Count > 0)
        {
            yield return batch;
        }
    }

    private static string? Problem(ManifestRow row)
    {
        if (string.IsNullOrWhiteSpace(row.Path))
        {
            return "has no path";
        }

        if (row.NumFrames < 0 || row.Height < 0 || row.Width < 0 || row.Resolution < 0)
        {
            return "has a negative number of frames or a negative size";
        }

        if (row.AspectRatio is not (null or (>= 0 and < double.PositiveInfinity)) || row.Fps is not (null or (>= 0 and < double.PositiveInfinity)))
        {
            return "has an aspect ratio or a frame rate that is negative or not finite";
        }

        var problem = Problem(row.Path) ?? Problem(row.Text);
        foreach (var name in row.Columns.Names)
        {
            problem ??= Problem(name);
        }

        foreach (var value in row.Columns.Values)
        {
            problem ??= Problem(value.Text);
        }

        return problem;
    }

    private static string? Problem(ReadOnlySpan<char> text)
    {
        if (text.Length > LongestText)
        {
            return $"contains a text of {text.Length} characters; expected at most {LongestText}";
        }

        if (text.Contains('\0'))
        {
            return "contains a null character";
        }

        for (var i = text.IndexOfAnyInRange('\uD800', '\uDFFF'); i >= 0 && i < text.Length; i++)
        {
            if (char.IsSurrogate(text[i]))
            {
                if (i + 1 == text.Length || !char.IsSurrogatePair(text[i], text[i + 1]))
                {
                    return "contains half of a surrogate pair, which is not a character";
                }

                i++;
            }
        }

        return null;
    }
}
