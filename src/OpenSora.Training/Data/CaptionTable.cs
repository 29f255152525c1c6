using OpenSora.Runtime;

namespace OpenSora.Training.Data;

/// <summary>A video or image with its captions.</summary>
/// <param name="Name">The path as the user wrote it, or relative to the folder.</param>
/// <param name="File">The file.</param>
/// <param name="Captions">The captions, at least one.</param>
internal sealed record CaptionedFile(string Name, FileInfo File, IReadOnlyList<string> Captions);

/// <summary>Reads a CSV or Parquet file with paths and captions.</summary>
/// <param name="csv">The path of the file. The extension <c>.parquet</c> means Parquet.</param>
/// <param name="pathColumn">The name of the column of paths; null for <c>path</c>.</param>
/// <param name="captionColumn">The name of the column of captions; null for <c>caption</c> or <c>text</c>.</param>
internal sealed class CaptionTable(string csv, string? pathColumn, string? captionColumn)
{
    private readonly string _folder = Path.GetDirectoryName(Path.GetFullPath(csv))!;
    private readonly List<CaptionedFile> _files = [];
    private readonly Dictionary<string, List<string>> _captions = new(StringComparer.Ordinal);
    private readonly List<(string Path, string Reason)> _missing = [];

    /// <summary>Determines whether a file is a Parquet file, by its extension. It can only be read asynchronously.</summary>
    public static bool IsParquet(string path) => Path.GetExtension(path).Equals(".parquet", StringComparison.OrdinalIgnoreCase);

    /// <summary>Reads all rows of a CSV file.</summary>
    /// <param name="leaveOutMissing">true to leave out files that do not exist; false to fail.</param>
    /// <exception cref="FileNotFoundException">Files do not exist; the message has their number and the first of them.</exception>
    /// <exception cref="InvalidDataException">The file lacks a column or has no rows, a row is malformed, the text is not UTF-8, or the file is
    /// damaged.</exception>
    public (IReadOnlyList<CaptionedFile> Files, IReadOnlyList<(string Path, string Reason)> Missing) Read(bool leaveOutMissing)
    {
        TextFile.Read(csv, ReadRows);
        return Result(leaveOutMissing);
    }

    /// <summary>Reads all rows of a CSV or Parquet file; see <see cref="Read"/>.</summary>
    public async Task<(IReadOnlyList<CaptionedFile> Files, IReadOnlyList<(string Path, string Reason)> Missing)> ReadAsync(bool leaveOutMissing)
    {
        if (!IsParquet(csv))
        {
            return Read(leaveOutMissing);
        }

        await ReadParquetAsync().ConfigureAwait(false);
        return Result(leaveOutMissing);
    }

    private (IReadOnlyList<CaptionedFile> Files, IReadOnlyList<(string Path, string Reason)> Missing) Result(bool leaveOutMissing)
    {
        if (_missing.Count > 0 && (!leaveOutMissing || _files.Count == 0))
        {
            throw Missing();
        }

        return _files.Count > 0 ? (_files, _missing) : throw new InvalidDataException($"'{csv}' lists no files.");
    }

    private async Task ReadParquetAsync()
    {
        var columns = await ParquetText
            .ReadAsync(csv, names =>
                Columns(names) is (>= 0 and var path, >= 0 and var caption)
                    ? [path, caption]
                    : throw new InvalidDataException(
                        $"'{csv}' needs the columns {pathColumn ?? "path"} and {captionColumn ?? "caption (or text)"}; it has "
                            + $"{string.Join(", ", names)}. Name other columns with pathColumn and captionColumn."
                    )
            )
            .ConfigureAwait(false);
        for (var row = 0; row < columns[0].Count; row++)
        {
            if (string.IsNullOrWhiteSpace(columns[0][row]))
            {
                throw new InvalidDataException($"Record {row + 1} of '{csv}' has no path.");
            }

            Add(columns[0][row], columns[1][row], row + 1);
        }
    }

    private bool ReadRows(TextReader reader)
    {
        // A program that writes line breaks twice ends lines with \r\r\n.
        string? first;
        while ((first = reader.ReadLine()) is not null && string.IsNullOrWhiteSpace(first)) { }

        var (separator, columns) = Header(TextFile.Checked(first ?? ""));
        var number = 1;
        foreach (var fields in Csv.Records(reader, separator, isTrimmed: true))
        {
            number++;
            Array.ForEach(fields, field => TextFile.Checked(field));
            if (fields.Length == 1 && string.IsNullOrWhiteSpace(fields[0]) && columns.Count > 1)
            {
                continue;
            }

            if (fields.Length != columns.Count || string.IsNullOrWhiteSpace(fields[columns.Path]))
            {
                throw new InvalidDataException(
                    $"Record {number} of '{csv}' has {fields.Length} fields and the path '{fields.ElementAtOrDefault(columns.Path)}'; "
                        + $"expected {columns.Count} fields, as in the first line, and a path."
                );
            }

            Add(fields[columns.Path], fields[columns.Caption], number);
        }

        return true;
    }

    // Finds the separator with which the first line has the columns.
    private (char Separator, (int Path, int Caption, int Count) Columns) Header(string line)
    {
        string[]? shown = null;
        InvalidDataException? malformed = null;
        foreach (var separator in ",;\t")
        {
            string[] names;
            try
            {
                using var reader = new StringReader(line);
                names = [.. (Csv.Records(reader, separator, isTrimmed: true).FirstOrDefault() ?? []).Select(name => name.Trim(' ', '\t', '\uFEFF'))];
            }
            catch (InvalidDataException e)
            {
                malformed ??= e;
                continue;
            }

            var (path, caption) = Columns(names);
            if (path >= 0 && caption >= 0)
            {
                return (separator, (path, caption, names.Length));
            }

            shown = shown?.Length >= names.Length ? shown : names;
        }

        throw shown is null && malformed is not null
            ? malformed
            : new InvalidDataException(
                $"'{csv}' needs the columns {pathColumn ?? "path"} and {captionColumn ?? "caption (or text)"}, separated by commas, semicolons or "
                    + $"tabs; it has {string.Join(", ", shown ?? [])}. Name other columns with pathColumn and captionColumn."
            );
    }

    // -1 for a column that does not exist.
    private (int Path, int Caption) Columns(string[] names) =>
        (
            Find(names, pathColumn ?? "path"),
            captionColumn is null && Find(names, "caption") is var own and >= 0 ? own : Find(names, captionColumn ?? "text")
        );

    private int Find(string[] names, string wanted)
    {
        var found = Array.FindIndex(names, Is);
        return found >= 0 && Array.FindLastIndex(names, Is) != found
            ? throw new InvalidDataException($"'{csv}' has several columns with the name '{wanted}'. Rename or remove all but one.")
            : found;

        bool Is(string name) => name.Equals(wanted.Trim(), StringComparison.OrdinalIgnoreCase);
    }

    private void Add(string name, string caption, int number)
    {
        var file = new FileInfo(Path.Combine(_folder, name));
        if (!file.Exists && name.Contains('\\', StringComparison.Ordinal))
        {
            file = new FileInfo(Path.Combine(_folder, name.Replace('\\', '/'))); // a table from Windows
        }

        if (_captions.TryGetValue(file.FullName, out var captions))
        {
            captions.Add(caption);
        }
        else if (FileKinds.Of(file.FullName) is not FileKind.Regular and var kind)
        {
            var reason = kind is FileKind.Missing ? "does not exist" : $"is {kind.Describe()}, not a file";
            _missing.Add((file.FullName, $"record {number} of '{csv}': the file {reason}"));
        }
        else
        {
            _captions[file.FullName] = captions = [caption];
            _files.Add(new CaptionedFile(name, file, captions));
        }
    }

    private FileNotFoundException Missing()
    {
        const int shown = 5;
        var paths = _missing.Select(file => file.Path).Distinct(StringComparer.Ordinal).ToArray();
        var (all, more) = (paths.Length + _files.Count, paths.Length - shown);
        return new FileNotFoundException(
            $"{paths.Length} of the {all} files in '{csv}' do not exist or are not files: "
                + string.Join(", ", paths.Take(shown).Select(path => $"'{path}'"))
                + (more > 0 ? $" and {more} more" : "")
                + $". Paths are relative to the folder of '{Path.GetFileName(csv)}'. Correct them, or set leaveOutMissing to use the other files.",
            paths[0]
        );
    }
}
