using OpenSora.Media;

namespace OpenSora.Preparation.Manifests;

/// <summary>The formats of manifest files.</summary>
public enum ManifestFormat
{
    /// <summary>CSV with a line of column names, as in Open-Sora 1.1 and later: <c>path,text,num_frames,height,width,aspect_ratio,fps,resolution</c> and
    /// other columns such as scores.</summary>
    Csv,

    /// <summary>CSV without a line of column names, as in Open-Sora 1.0: path, caption and number of frames.</summary>
    CsvWithoutHeader,

    /// <summary>Apache Parquet with the same columns as <see cref="Csv"/>.</summary>
    Parquet,
}

/// <summary>Reads and writes manifests: lists of clips with their captions, sizes and scores. Rows are streamed, so that a manifest can have any
/// length.</summary>
/// <remarks>The format is that of the file extension: <c>.parquet</c>, or <c>.csv</c>, <c>.tsv</c> and <c>.txt</c> for CSV. The same rows result in
/// the same bytes, and both formats preserve all values.</remarks>
public static class Manifest
{
    /// <summary>Reads the rows of a manifest.</summary>
    /// <remarks>CSV files can have a line of column names or be in the layout of Open-Sora 1.0. Commas, semicolons or tabs separate the fields, column
    /// names are compared without regard to case and their order does not matter, <c>caption</c> can replace <c>text</c>, and the text is UTF-8, or
    /// UTF-16 with a byte order mark. Only the column of paths is required. One row group of a Parquet file is in memory at a time.</remarks>
    /// <param name="path">The path of the file.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="ArgumentException">The extension is not that of a supported format.</exception>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file is malformed. The message contains the file and the line or row.</exception>
    public static IAsyncEnumerable<ManifestRow> ReadAsync(string path, CancellationToken cancellationToken = default)
    {
        var format = FormatOf(path);
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The manifest '{path}' does not exist.", path);
        }

        return Read(path, format, cancellationToken);
    }

    /// <summary>Writes rows to a manifest. The file appears under its name when it is complete, so it can be the one that the rows are read
    /// from.</summary>
    /// <remarks>A column that only some rows have is empty in the others. Rows without columns for scores are valid.</remarks>
    /// <param name="path">The path of the file.</param>
    /// <param name="rows">The rows.</param>
    /// <param name="format">The format; null for that of the file extension. <see cref="ManifestFormat.CsvWithoutHeader"/> contains only the paths,
    /// captions and numbers of frames.</param>
    /// <param name="cancellationToken">Stops writing.</param>
    /// <returns>The number of rows.</returns>
    /// <exception cref="ArgumentException">The extension is not that of a supported format.</exception>
    /// <exception cref="PreparationException">A row has no path, or text that a file cannot contain.</exception>
    public static async Task<long> WriteAsync(
        string path,
        IAsyncEnumerable<ManifestRow> rows,
        ManifestFormat? format = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        var isTabbed = Path.GetExtension(path).Equals(".tsv", StringComparison.OrdinalIgnoreCase);
        var known = format ?? FormatOf(path);
        var count = 0L;
        await AtomicOutput
            .WriteFileAsync(
                path,
                async file => count = await WriteRowsAsync(file, rows, known, isTabbed ? '\t' : ',', cancellationToken).ConfigureAwait(false)
            )
            .ConfigureAwait(false);
        return count;
    }

    private static IAsyncEnumerable<ManifestRow> Read(string path, ManifestFormat format, CancellationToken cancellationToken) =>
        format is ManifestFormat.Parquet ? ParquetManifest.ReadAsync(path, cancellationToken) : CsvManifest.ReadAsync(path, cancellationToken);

    private static async Task<long> WriteRowsAsync(
        string path,
        IAsyncEnumerable<ManifestRow> rows,
        ManifestFormat format,
        char separator,
        CancellationToken cancellationToken
    )
    {
        var (count, schema) = (0L, new ManifestSchema());
        IManifestWriter? writer = null;
        try
        {
            await foreach (var batch in RowBatches.ReadAsync(rows, cancellationToken).ConfigureAwait(false))
            {
                var (hasNewColumns, hasNewTypes) = schema.Widen(batch);
                var isWider = format switch
                {
                    ManifestFormat.Csv => hasNewColumns,
                    ManifestFormat.Parquet => hasNewColumns || hasNewTypes,
                    _ => false,
                };
                if (writer is not null && isWider)
                {
                    // The columns are at the beginning of the file, so the rows up to here are written again.
                    await writer.DisposeAsync().ConfigureAwait(false);
                    writer = null;
                    writer = await RewriteAsync(path, format, separator, schema, cancellationToken).ConfigureAwait(false);
                }

                writer ??= Writer(path, format, separator, schema);
                await writer.WriteAsync(batch, cancellationToken).ConfigureAwait(false);
                count += batch.Count;
            }

            writer ??= Writer(path, format, separator, schema);
            await writer.CompleteAsync(cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            if (writer is not null)
            {
                await writer.DisposeAsync().ConfigureAwait(false);
            }
        }

        return count;
    }

    private static async Task<IManifestWriter> RewriteAsync(
        string path,
        ManifestFormat format,
        char separator,
        ManifestSchema schema,
        CancellationToken cancellationToken
    )
    {
        var narrow = path + ".narrow";
        File.Move(path, narrow);
        var writer = Writer(path, format, separator, schema);
        try
        {
            await foreach (var batch in RowBatches.ReadAsync(Read(narrow, format, cancellationToken), cancellationToken).ConfigureAwait(false))
            {
                await writer.WriteAsync(batch, cancellationToken).ConfigureAwait(false);
            }

            return writer;
        }
        catch
        {
            await writer.DisposeAsync().ConfigureAwait(false);
            throw;
        }
        finally
        {
            File.Delete(narrow);
        }
    }

    private static IManifestWriter Writer(string path, ManifestFormat format, char separator, ManifestSchema schema) =>
        format switch
        {
            ManifestFormat.Parquet => new ParquetManifestWriter(path, schema),
            _ => new CsvManifestWriter(path, separator, format is ManifestFormat.Csv ? schema : null),
        };

    private static ManifestFormat FormatOf(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return Path.GetExtension(path).ToUpperInvariant() switch
        {
            ".PARQUET" => ManifestFormat.Parquet,
            ".CSV" or ".TSV" or ".TXT" => ManifestFormat.Csv,
            _ => throw new ArgumentException($"'{path}' is not a manifest by its extension; expected .csv, .tsv, .txt or .parquet.", nameof(path)),
        };
    }
}
