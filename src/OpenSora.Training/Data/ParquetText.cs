using Parquet;
using Parquet.Schema;

namespace OpenSora.Training.Data;

/// <summary>Reads columns of text of Parquet files.</summary>
internal static class ParquetText
{
    /// <summary>Reads some columns.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="choose">Returns the indices of the columns to read, from the names of all columns.</param>
    /// <returns>The texts of the columns; empty texts for missing values.</returns>
    /// <exception cref="InvalidDataException">The file is not a Parquet file or is damaged, or a column does not contain text.</exception>
    internal static async Task<IReadOnlyList<string>[]> ReadAsync(string path, Func<string[], int[]> choose)
    {
        var stream = File.OpenRead(path);
        await using var closed = stream.ConfigureAwait(false);
        var reader = await ReadableAsync(path, () => ParquetReader.CreateAsync(stream, leaveStreamOpen: true)).ConfigureAwait(false);
        await using var _ = reader.ConfigureAwait(false);
        var all = await ReadableAsync(path, () => Task.FromResult(reader.Schema.Fields)).ConfigureAwait(false);
        DataField[] chosen = [.. choose([.. all.Select(field => field.Name)]).Select(index => TextField(path, all[index]))];
        var texts = chosen.Select(_ => new List<string>()).ToArray();
        for (var group = 0; group < reader.RowGroupCount; group++)
        {
            var columns = await ReadableAsync(path, () => GroupAsync(reader, group, chosen)).ConfigureAwait(false);
            for (var i = 0; i < columns.Length; i++)
            {
                texts[i].AddRange(columns[i].Select(value => value ?? ""));
            }
        }

        return texts;
    }

    private static async Task<string?[][]> GroupAsync(ParquetReader reader, int index, DataField[] fields)
    {
        using var group = reader.OpenRowGroupReader(index);
        var columns = new string?[fields.Length][];
        for (var i = 0; i < columns.Length; i++)
        {
            columns[i] = new string?[checked((int)group.RowCount)];
            await group.ReadAsync(fields[i], columns[i].AsMemory()!).ConfigureAwait(false);
        }

        return columns;
    }

    // Parquet.Net throws exceptions of many types for damaged files.
    private static async Task<T> ReadableAsync<T>(string path, Func<Task<T>> read)
    {
        try
        {
            return await read().ConfigureAwait(false);
        }
        catch (Exception e)
        {
            throw new InvalidDataException($"'{path}' is not a Parquet file, or is damaged: {e.Message}", e);
        }
    }

    private static DataField TextField(string path, Field field) =>
        field is DataField { IsArray: false } data && (data.ClrType == typeof(string) || data.ClrType == typeof(ReadOnlyMemory<char>))
            ? data
            : throw new InvalidDataException($"The column '{field.Name}' of '{path}' does not contain text.");
}
