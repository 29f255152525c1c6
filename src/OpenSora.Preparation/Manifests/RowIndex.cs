using System.Globalization;
using Microsoft.Data.Sqlite;

namespace OpenSora.Preparation.Manifests;

/// <summary>Finds rows by their paths. The rows are in a temporary SQLite file, because a manifest can be larger than the memory.</summary>
internal sealed class RowIndex : IDisposable
{
    private readonly string _file = Path.Combine(Path.GetTempPath(), $"opensora-join-{Guid.NewGuid():N}.tmp");
    private readonly SqliteConnection _connection;
    private readonly SqliteTransaction _transaction;
    private readonly ManifestSchema _schema = new();
    private SqliteCommand? _add;
    private SqliteCommand? _take;
    private ManifestValue[] _cells = [];

    internal RowIndex()
    {
        _connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = _file, Pooling = false }.ToString());
        _connection.Open();
        Execute("PRAGMA journal_mode = OFF");
        Execute("PRAGMA synchronous = OFF");
        _transaction = _connection.BeginTransaction();
        var standard = string.Join(", ", Enumerable.Range(1, StandardColumns.Names.Length - 1).Select(i => $"s{i}"));
        Execute($"CREATE TABLE rows (s0 TEXT PRIMARY KEY, used, {standard}) WITHOUT ROWID");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _add?.Dispose();
        _take?.Dispose();
        _transaction.Dispose();
        _connection.Dispose();
        File.Delete(_file);
    }

    /// <summary>Adds a row.</summary>
    /// <exception cref="PreparationException">There is a row with the same path.</exception>
    internal void Add(ManifestRow row)
    {
        var known = _schema.Names.Count;
        _schema.Widen([row]);
        for (var i = known; i < _schema.Names.Count; i++)
        {
            Execute(string.Create(CultureInfo.InvariantCulture, $"ALTER TABLE rows ADD COLUMN c{i}"));
        }

        if (_add is null || _schema.Names.Count > known)
        {
            _add?.Dispose();
            _cells = new ManifestValue[_schema.Names.Count];
            var columns = StandardColumns.Names.Select((_, i) => $"s{i}").Concat(_cells.Select((_, i) => $"c{i}")).ToArray();
            _add = Command($"INSERT INTO rows ({string.Join(", ", columns)}) VALUES ({string.Join(", ", columns.Select(name => $"${name}"))})");
            Array.ForEach(columns, name => _add.Parameters.Add(new SqliteParameter($"${name}", null)));
        }

        _schema.Arrange(row, _cells);
        for (var i = 0; i < _add.Parameters.Count; i++)
        {
            var standard = StandardColumns.Names.Length;
            var value = i < standard ? StandardColumns.Get(row, i) : _cells[i - standard];
            // SQLite has no NaN.
            _add.Parameters[i].Value = value.Number is { } number && !double.IsNaN(number) ? number : value.IsEmpty ? DBNull.Value : value.ToString();
        }

        try
        {
            _add.ExecuteNonQuery();
        }
        catch (SqliteException e) when (e.SqliteErrorCode == 19) // SQLITE_CONSTRAINT
        {
            throw new PreparationException(
                "duplicate path",
                $"Several rows of the manifest to join have the path '{row.Path}'. Remove all but one, because a row can get only one value.",
                e
            );
        }
    }

    /// <summary>Adds the values of the row with the same path to a row; null if there is none.</summary>
    internal ManifestRow? Join(ManifestRow row)
    {
        if (_take is null)
        {
            _take = Command("UPDATE rows SET used = 1 WHERE s0 = $path RETURNING *");
            _take.Parameters.Add(new SqliteParameter("$path", null));
        }

        _take.Parameters[0].Value = row.Path;
        using var reader = _take.ExecuteReader();
        if (!reader.Read())
        {
            return null;
        }

        var columns = row.Columns;
        for (var i = 0; i < _schema.Names.Count; i++)
        {
            var value = Value($"c{i}");
            if (!value.IsEmpty || columns[_schema.Names[i]].IsEmpty)
            {
                columns = columns.With(_schema.Names[i], value);
            }
        }

        return row with
        {
            Text = Value("s1") is { IsEmpty: false } text ? text.ToString() : row.Text,
            NumFrames = (int?)Value("s2").Number ?? row.NumFrames,
            Height = (int?)Value("s3").Number ?? row.Height,
            Width = (int?)Value("s4").Number ?? row.Width,
            AspectRatio = Value("s5").Number ?? row.AspectRatio,
            Fps = Value("s6").Number ?? row.Fps,
            Resolution = (long?)Value("s7").Number ?? row.Resolution,
            Columns = columns,
        };

        ManifestValue Value(string name) =>
            reader[name] switch
            {
                double number => number,
                string text => name[0] is 's' ? ManifestValue.Verbatim(text) : text,
                _ => default,
            };
    }

    /// <summary>Counts the rows whose paths no row had.</summary>
    internal long CountUnused()
    {
        using var command = Command("SELECT COUNT(*) FROM rows WHERE used IS NULL");
        return (long)command.ExecuteScalar()!;
    }

    private void Execute(string text)
    {
        using var command = Command(text);
        command.ExecuteNonQuery();
    }

    private SqliteCommand Command(string text)
    {
        var command = _connection.CreateCommand();
        command.CommandText = text;
        return command;
    }
}
