using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using CsvHelper;
using CsvHelper.Configuration;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>A row of a CSV file with a header.</summary>
/// <param name="Line">The line on which the row starts, from 1.</param>
/// <param name="Values">The values by column.</param>
internal sealed record CsvRow(long Line, IReadOnlyDictionary<string, string> Values)
{
    /// <summary>Gets a value without surrounding spaces; an empty text if the column does not exist.</summary>
    internal string this[string column] => Values.TryGetValue(column, out var value) ? value.Trim() : "";
}

/// <summary>Reads CSV files row by row.</summary>
internal static class CsvRows
{
    // Cells of Panda-70M's full list exceed 128 KiB; a cell that is much longer is a missing quote.
    private const double MaxCell = 64 << 20;

    /// <summary>Reads the rows of a file that has at least some columns.</summary>
    /// <exception cref="PreparationException">The file is not CSV, has other columns, or a row has another number of values.</exception>
    internal static async IAsyncEnumerable<CsvRow> ReadAsync(
        string path,
        string[] columns,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        using var text = new StreamReader(path, new UTF8Encoding(false, throwOnInvalidBytes: true));
        using var parser = new CsvParser(
            text,
            new CsvConfiguration(CultureInfo.InvariantCulture) { MaxFieldSize = MaxCell, LineBreakInQuotedFieldIsBadData = false }
        );
        if (await NextAsync(parser, path, 1, cancellationToken).ConfigureAwait(false) is not { } first)
        {
            throw ListValues.Error(path, 1, $"The file is empty. Expected a header with the columns {string.Join(", ", columns)}.");
        }

        var header = first.Select(name => name.Trim()).ToArray();
        if (columns.Except(header, StringComparer.Ordinal).ToArray() is { Length: > 0 } missing)
        {
            throw ListValues.Error(
                path,
                1,
                $"The header has no column {string.Join(", ", missing)}. It has: {string.Join(", ", header)}. Is this another list?"
            );
        }

        var line = parser.RawRow + 1L;
        while (await NextAsync(parser, path, line, cancellationToken).ConfigureAwait(false) is { } record)
        {
            if (record.Length != header.Length)
            {
                throw ListValues.Error(path, line, $"The row has {record.Length} values; the header has {header.Length}. Is a quote missing?");
            }

            var values = new Dictionary<string, string>(StringComparer.Ordinal);
            for (var i = 0; i < header.Length; i++)
            {
                values[header[i]] = record[i];
            }

            yield return new(line, values);
            line = parser.RawRow + 1L;
        }
    }

    private static async Task<string[]?> NextAsync(CsvParser parser, string path, long line, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        try
        {
            return await parser.ReadAsync().ConfigureAwait(false) ? parser.Record : null;
        }
        catch (DecoderFallbackException e)
        {
            throw ListValues.Error(path, line, "The text is not valid UTF-8. Save the file as UTF-8.", e);
        }
        catch (CsvHelperException e)
        {
            throw ListValues.Error(path, line, $"The row is not valid CSV: {e.Message.Split('\n')[0].Trim()}", e);
        }
    }
}
