using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using CsvHelper;
using CsvHelper.Configuration;
using OpenSora.Training.Data;

namespace OpenSora.Preparation.Manifests;

/// <summary>Writes batches of rows to a file.</summary>
internal interface IManifestWriter : IAsyncDisposable
{
    Task WriteAsync(IReadOnlyList<ManifestRow> rows, CancellationToken cancellationToken);

    /// <summary>Writes what a file needs even if it has no rows.</summary>
    Task CompleteAsync(CancellationToken cancellationToken);
}

/// <summary>Reads manifests in CSV.</summary>
internal static class CsvManifest
{
    private const int LongestField = 4 * RowBatches.LongestText; // a missing quotation mark would make the rest of the file one field

    internal static async IAsyncEnumerable<ManifestRow> ReadAsync(string path, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var stream = TextFile.Open(path);
        await using var _ = stream.ConfigureAwait(false);
        var encoding = TextFile.EncodingOf(stream);
        var (separator, columns, hasHeader) = await HeaderAsync(path, stream, encoding, cancellationToken).ConfigureAwait(false);
        var layout = new RowLayout(path, columns);
        stream.Position = 0;
        using var text = Text(stream, encoding);
        using var parser = Csv.Parser(text, separator, isTrimmed: true, LongestField);
        var cells = new ManifestValue[columns.Length];
        var isFirst = hasHeader;
        while (await NextAsync(path, stream, encoding, parser, cancellationToken).ConfigureAwait(false) is { } fields)
        {
            if (isFirst || (fields.Length == 1 && columns.Length > 1 && string.IsNullOrWhiteSpace(fields[0])))
            {
                isFirst = false;
                continue;
            }

            if (fields.Length != columns.Length)
            {
                throw RowLayout.Malformed($"{Where()} has {fields.Length} fields; expected {columns.Length}, as in the first line.");
            }

            for (var i = 0; i < fields.Length; i++)
            {
                cells[i] = ManifestValue.Verbatim(fields[i]);
            }

            yield return layout.Create(cells, Where);
        }

        string Where() => $"The record at line {parser.RawRow} of '{path}'";
    }

    // The separator with which the first record has the columns, or is a row without a line of names.
    private static async Task<(char Separator, string[] Columns, bool HasHeader)> HeaderAsync(
        string path,
        Stream stream,
        Encoding encoding,
        CancellationToken cancellationToken
    )
    {
        string[]? shown = null;
        PreparationException? malformed = null;
        foreach (var separator in ",;\t")
        {
            string[]? fields;
            try
            {
                stream.Position = 0;
                using var text = Text(stream, encoding);
                using var parser = Csv.Parser(text, separator, isTrimmed: true, LongestField);
                do
                {
                    fields = await NextAsync(path, stream, encoding, parser, cancellationToken).ConfigureAwait(false);
                } while (fields is [var only] && string.IsNullOrWhiteSpace(only));
            }
            catch (PreparationException e) when (e.InnerException is InvalidDataException)
            {
                malformed ??= e;
                continue;
            }

            string[] names = [.. (fields ?? []).Select(name => name.Trim(' ', '\t', '\uFEFF'))];
            if (names.Contains("path", StringComparer.OrdinalIgnoreCase))
            {
                return (separator, names, HasHeader: true);
            }

            if (names.Length == 3 && double.TryParse(names[2], NumberStyles.Float, CultureInfo.InvariantCulture, out var _))
            {
                return (separator, StandardColumns.Names[..3], HasHeader: false);
            }

            if (names.Length == 2 && Path.HasExtension(names[0]))
            {
                return (separator, StandardColumns.Names[..2], HasHeader: false);
            }

            shown = shown?.Length >= names.Length ? shown : names;
        }

        throw shown is null && malformed is not null
            ? malformed
            : RowLayout.Malformed(
                shown is null or []
                    ? $"'{path}' is empty. A manifest without rows has a line of column names."
                    : $"'{path}' needs the column path, or records of a path, a caption and a number of frames without a line of column names, "
                        + $"separated by commas, semicolons or tabs; its first record is {string.Join(", ", shown)}."
            );
    }

    private static StreamReader Text(Stream stream, Encoding encoding) =>
        new(stream, encoding, detectEncodingFromByteOrderMarks: false, leaveOpen: true);

    private static async Task<string[]?> NextAsync(
        string path,
        Stream stream,
        Encoding encoding,
        CsvParser parser,
        CancellationToken cancellationToken
    )
    {
        cancellationToken.ThrowIfCancellationRequested();
        try
        {
            if (!await parser.ReadAsync().ConfigureAwait(false))
            {
                return null;
            }

            var fields = parser.Record ?? [];
            Array.ForEach(fields, field => TextFile.Checked(field));
            return fields;
        }
        catch (DecoderFallbackException e)
        {
            stream.Position = 0;
            throw RowLayout.Malformed(TextFile.NotText(path, stream, encoding, e).Message, e);
        }
        catch (Exception e) when (e is InvalidDataException or MaxFieldSizeException)
        {
            var problem = e is InvalidDataException ? e.Message : "A field is too long. Is a quotation mark missing?";
            throw RowLayout.Malformed($"The record at line {parser.RawRow} of '{path}' is malformed: {problem}", e);
        }
    }
}

/// <summary>Writes manifests in CSV.</summary>
internal sealed class CsvManifestWriter : IManifestWriter
{
    private readonly CsvWriter _csv;
    private readonly ManifestSchema? _schema;
    private readonly ManifestValue[] _cells;
    private bool _hasHeader;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="separator">The character between fields.</param>
    /// <param name="schema">The columns; null for the layout without a line of column names.</param>
    internal CsvManifestWriter(string path, char separator, ManifestSchema? schema)
    {
        var options = new CsvConfiguration(CultureInfo.InvariantCulture)
        {
            Delimiter = separator.ToString(),
            NewLine = "\n",
            ShouldQuote = field => MustQuote(field.Field),
        };
        var encoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
        _csv = new CsvWriter(new StreamWriter(path, append: false, encoding), options);
        _schema = schema;
        _cells = new ManifestValue[schema?.Names.Count ?? 0];
    }

    /// <inheritdoc/>
    public async Task WriteAsync(IReadOnlyList<ManifestRow> rows, CancellationToken cancellationToken)
    {
        await CompleteAsync(cancellationToken).ConfigureAwait(false);
        foreach (var row in rows)
        {
            cancellationToken.ThrowIfCancellationRequested();
            for (var i = 0; i < (_schema is null ? 3 : StandardColumns.Names.Length); i++)
            {
                _csv.WriteField(StandardColumns.Get(row, i).ToString());
            }

            _schema?.Arrange(row, _cells);
            foreach (var cell in _cells)
            {
                _csv.WriteField(cell.ToString());
            }

            await _csv.NextRecordAsync().ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public async Task CompleteAsync(CancellationToken cancellationToken)
    {
        if (_schema is not null && !_hasHeader)
        {
            foreach (var name in StandardColumns.Names.Concat(_schema.Names))
            {
                _csv.WriteField(name);
            }

            await _csv.NextRecordAsync().ConfigureAwait(false);
            _hasHeader = true;
        }
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _csv.DisposeAsync();

    // Also separators that programs detect, and whitespace at the ends, which is removed from fields without quotation marks.
    private static bool MustQuote(string? field) =>
        field is { Length: > 0 } text
        && (text.AsSpan().IndexOfAny(",;\t\"\r\n\uFEFF") >= 0 || char.IsWhiteSpace(text[0]) || char.IsWhiteSpace(text[^1]));
}
