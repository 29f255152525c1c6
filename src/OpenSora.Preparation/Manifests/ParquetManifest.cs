using System.Globalization;
using System.Runtime.CompilerServices;
using Parquet;
using Parquet.Schema;

namespace OpenSora.Preparation.Manifests;

/// <summary>Reads manifests in Parquet, also those of other programs.</summary>
internal static class ParquetManifest
{
    private const long MaximumGroupRows = 1 << 26;

    internal static async IAsyncEnumerable<ManifestRow> ReadAsync(string path, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
        await using var _ = stream.ConfigureAwait(false);
        var reader = await ReadableAsync(path, () => ParquetReader.CreateAsync(stream, leaveStreamOpen: true, cancellationToken: cancellationToken))
            .ConfigureAwait(false);
        await using var __ = reader.ConfigureAwait(false);
        var fields = await ReadableAsync(path, () => Task.FromResult(reader.Schema.Fields.Select(field => FieldOf(path, field)).ToArray()))
            .ConfigureAwait(false);
        var layout = new RowLayout(path, [.. fields.Select(field => field.Name)]);
        var cells = new ManifestValue[fields.Length];
        var number = 0L;
        for (var group = 0; group < reader.RowGroupCount; group++)
        {
            var (rows, columns) = await ReadableAsync(path, () => GroupAsync(reader, group, fields, cancellationToken)).ConfigureAwait(false);
            for (var row = 0; row < rows; row++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                number++;
                for (var i = 0; i < cells.Length; i++)
                {
                    cells[i] = columns[i](row);
                }

                yield return layout.Create(cells, Where);
            }
        }

        string Where() => $"Row {number} of '{path}'";
    }

    private static async Task<(int Rows, Func<int, ManifestValue>[] Columns)> GroupAsync(
        ParquetReader reader,
        int index,
        DataField[] fields,
        CancellationToken cancellationToken
    )
    {
        using var group = reader.OpenRowGroupReader(index);
        if (group.RowCount is < 0 or > MaximumGroupRows)
        {
            throw new InvalidDataException($"Row group {index} has {group.RowCount} rows; expected at most {MaximumGroupRows}.");
        }

        var rows = (int)group.RowCount;
        var columns = new Func<int, ManifestValue>[fields.Length];
        for (var i = 0; i < fields.Length; i++)
        {
            columns[i] = await ColumnAsync(group, fields[i], rows, cancellationToken).ConfigureAwait(false);
        }

        return (rows, columns);
    }

    private static async Task<Func<int, ManifestValue>> ColumnAsync(ParquetRowGroupReader group, DataField field, int rows, CancellationToken token)
    {
        if (field.ClrType == typeof(string) || field.ClrType == typeof(ReadOnlyMemory<char>))
        {
            var texts = new string?[rows];
            await group.ReadAsync(field, texts.AsMemory()!, cancellationToken: token).ConfigureAwait(false);
            return row => ManifestValue.Verbatim(texts[row]);
        }

        var read = field.ClrType switch
        {
            var type when type == typeof(double) => ColumnAsync<double>(value => value),
            var type when type == typeof(float) => ColumnAsync<float>(value => Number(value.ToString(CultureInfo.InvariantCulture))),
            var type when type == typeof(int) => ColumnAsync<int>(value => value),
            var type when type == typeof(long) => ColumnAsync<long>(value => Number(value.ToString(CultureInfo.InvariantCulture))),
            var type when type == typeof(uint) => ColumnAsync<uint>(value => value),
            var type when type == typeof(ulong) => ColumnAsync<ulong>(value => Number(value.ToString(CultureInfo.InvariantCulture))),
            var type when type == typeof(short) => ColumnAsync<short>(value => value),
            var type when type == typeof(ushort) => ColumnAsync<ushort>(value => value),
            var type when type == typeof(sbyte) => ColumnAsync<sbyte>(value => value),
            var type when type == typeof(byte) => ColumnAsync<byte>(value => value),
            var type when type == typeof(decimal) => ColumnAsync<decimal>(value => Number(value.ToString(CultureInfo.InvariantCulture))),
            var type when type == typeof(bool) => ColumnAsync<bool>(value => value ? "true" : "false"),
            var type when type == typeof(DateTime) => ColumnAsync<DateTime>(value => value.ToString("O", CultureInfo.InvariantCulture)),
            _ => throw new NotSupportedException($"The column '{field.Name}' has the type {field.ClrType.Name}. Convert it to text or numbers."),
        };
        return await read.ConfigureAwait(false);

        async Task<Func<int, ManifestValue>> ColumnAsync<T>(Func<T, ManifestValue> convert)
            where T : struct
        {
            if (!field.IsNullable)
            {
                var values = new T[rows];
                await group.ReadAsync(field, values.AsMemory(), cancellationToken: token).ConfigureAwait(false);
                return row => convert(values[row]);
            }

            var nullable = new T?[rows];
            await group.ReadAsync(field, nullable.AsMemory(), cancellationToken: token).ConfigureAwait(false);
            return row => nullable[row] is { } value ? convert(value) : default;
        }

        // The shortest form of a number in decimal, or text if it has too many digits.
        static ManifestValue Number(string text) => text;
    }

    private static DataField FieldOf(string path, Field field) =>
        field is DataField { IsArray: false } data && field.SchemaType is SchemaType.Data
            ? data
            : throw RowLayout.Malformed(
                $"The column '{field.Name}' of '{path}' contains lists or structures. Write the file without it, or as text or numbers."
            );

    private static async Task<T> ReadableAsync<T>(string path, Func<Task<T>> read)
    {
        try
        {
            return await read().ConfigureAwait(false);
        }
        catch (Exception e) when (e is not (OperationCanceledException or PreparationException))
        {
            var problem = e is NotSupportedException ? "cannot be read as a manifest" : "is not a Parquet file, or is damaged";
            throw RowLayout.Malformed($"'{path}' {problem}: {e.Message}", e);
        }
    }
}

/// <summary>Writes manifests in Parquet.</summary>
internal sealed class ParquetManifestWriter : IManifestWriter
{
    private readonly ManifestSchema _columns;
    private readonly FileStream _stream;
    private readonly ParquetSchema _schema;
    private ParquetWriter? _writer;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="columns">The columns.</param>
    internal ParquetManifestWriter(string path, ManifestSchema columns)
    {
        _columns = columns;
        _schema = new ParquetSchema([
            new DataField<string>(StandardColumns.Names[StandardColumns.Path], nullable: false),
            new DataField<string>(StandardColumns.Names[StandardColumns.Text], nullable: true),
            new DataField<int?>(StandardColumns.Names[StandardColumns.NumFrames]),
            new DataField<int?>(StandardColumns.Names[StandardColumns.Height]),
            new DataField<int?>(StandardColumns.Names[StandardColumns.Width]),
            new DataField<double?>(StandardColumns.Names[StandardColumns.AspectRatio]),
            new DataField<double?>(StandardColumns.Names[StandardColumns.Fps]),
            new DataField<long?>(StandardColumns.Names[StandardColumns.Resolution]),
            .. columns.Names.Select(
                (name, i) => columns.IsText(i) ? (Field)new DataField<string>(name, nullable: true) : new DataField<double?>(name)
            ),
        ]);
        _stream = new FileStream(path, FileMode.Create, FileAccess.ReadWrite);
    }

    /// <inheritdoc/>
    public async Task WriteAsync(IReadOnlyList<ManifestRow> rows, CancellationToken cancellationToken)
    {
        await CompleteAsync(cancellationToken).ConfigureAwait(false);
        var cells = new ManifestValue[_columns.Names.Count][];
        var arranged = new ManifestValue[cells.Length];
        for (var column = 0; column < cells.Length; column++)
        {
            cells[column] = new ManifestValue[rows.Count];
        }

        for (var row = 0; row < rows.Count; row++)
        {
            _columns.Arrange(rows[row], arranged);
            for (var column = 0; column < cells.Length; column++)
            {
                cells[column][row] = arranged[column];
            }
        }

        using var group = _writer!.CreateRowGroup();
        var fields = new Queue<DataField>(_schema.DataFields);
        await TextAsync(row => row.Path).ConfigureAwait(false);
        await TextAsync(row => row.Text).ConfigureAwait(false);
        await NumbersAsync(row => row.NumFrames).ConfigureAwait(false);
        await NumbersAsync(row => row.Height).ConfigureAwait(false);
        await NumbersAsync(row => row.Width).ConfigureAwait(false);
        await NumbersAsync(row => row.AspectRatio).ConfigureAwait(false);
        await NumbersAsync(row => row.Fps).ConfigureAwait(false);
        await NumbersAsync(row => row.Resolution).ConfigureAwait(false);
        for (var column = 0; column < cells.Length; column++)
        {
            var field = fields.Dequeue();
            await (
                _columns.IsText(column)
                    ? group.WriteAsync(field, (string?[])[.. cells[column].Select(cell => cell.IsEmpty ? null : cell.ToString())]!)
                    : group.WriteAsync<double>(
                        field,
                        (double?[])[.. cells[column].Select(cell => cell.Number)],
                        cancellationToken: cancellationToken
                    )
            ).ConfigureAwait(false);
        }

        group.CompleteValidate();

        Task TextAsync(Func<ManifestRow, string> text) =>
            group.WriteAsync(fields.Dequeue(), (string?[])[.. rows.Select(text).Select(value => value.Length == 0 ? null : value)]!);

        Task NumbersAsync<T>(Func<ManifestRow, T?> number)
            where T : struct =>
            group.WriteAsync<T>(fields.Dequeue(), (T?[])[.. rows.Select(number)], cancellationToken: cancellationToken);
    }

    /// <inheritdoc/>
    public async Task CompleteAsync(CancellationToken cancellationToken)
    {
        var options = new ParquetOptions { CompressionMethod = CompressionMethod.Snappy };
        _writer ??= await ParquetWriter
            .CreateAsync(_schema, _stream, options, append: false, cancellationToken)
            .ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (_writer is not null)
        {
            await _writer.DisposeAsync().ConfigureAwait(false);
        }

        await _stream.DisposeAsync().ConfigureAwait(false);
    }
}
