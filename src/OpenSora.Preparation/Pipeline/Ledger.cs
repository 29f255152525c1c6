using System.Globalization;
using System.Text.Json;
using Microsoft.Data.Sqlite;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Manifests;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Pipeline;

/// <summary>A record, in an SQLite file, of every source and clip: what is done, and what was dropped and why. A program that is stopped at any
/// moment continues from it.</summary>
/// <remarks>Each method is one transaction, and instances are thread-safe.</remarks>
internal sealed class Ledger : IDisposable
{
    private const int Version = 1;

    private readonly SqliteConnection _connection;
    private readonly Lock _lock = new();

    /// <summary>Opens a ledger, or creates it.</summary>
    /// <exception cref="IOException">Another process uses the ledger, or it is not a ledger of this version.</exception>
    internal Ledger(string path)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        _connection = new SqliteConnection(
            new SqliteConnectionStringBuilder
            {
                DataSource = path,
                Pooling = false,
                DefaultTimeout = 1,
            }.ToString()
        );
        try
        {
            _connection.Open();
            // The lock is held until the connection is closed, so that two processes never prepare the same folder.
            Execute("PRAGMA locking_mode = EXCLUSIVE");
            Execute("PRAGMA journal_mode = WAL");
            Execute("PRAGMA synchronous = NORMAL");
            Execute("BEGIN EXCLUSIVE; COMMIT");
            CreateTables();
            if (
                Setting("version") is { } version
                && !string.Equals(version, Version.ToString(CultureInfo.InvariantCulture), StringComparison.Ordinal)
            )
            {
                throw new IOException($"'{path}' has version {version} of the ledger; this library reads version {Version}. Use another folder.");
            }

            SetSetting("version", Version.ToString(CultureInfo.InvariantCulture));
        }
        catch (SqliteException exception)
        {
            _connection.Dispose();
            throw exception.SqliteErrorCode is 5 or 6 // SQLITE_BUSY, SQLITE_LOCKED
                ? new IOException($"'{path}' is in use: another process prepares this folder. Wait until it ends, or use another folder.", exception)
                : new IOException(
                    $"'{path}' is not a readable ledger: {exception.Message}. Use another folder, or delete it to begin again.",
                    exception
                );
        }
        catch
        {
            _connection.Dispose();
            throw;
        }
    }

    private void CreateTables() =>
        Execute(
            """
            CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS source (
                id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL, version TEXT NOT NULL, detected INTEGER NOT NULL DEFAULT 0,
                reason TEXT, message TEXT, info TEXT, damage TEXT, shots INTEGER NOT NULL DEFAULT 0, short_shots INTEGER NOT NULL DEFAULT 0);
            CREATE TABLE IF NOT EXISTS clip (
                id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES source (id) ON DELETE CASCADE, number INTEGER NOT NULL,
                start INTEGER NOT NULL, end INTEGER NOT NULL, path TEXT NOT NULL, given_caption TEXT, state INTEGER NOT NULL DEFAULT 0,
                stage TEXT, reason TEXT, message TEXT, frames INTEGER NOT NULL DEFAULT 0, width INTEGER NOT NULL DEFAULT 0,
                height INTEGER NOT NULL DEFAULT 0, rate REAL NOT NULL DEFAULT 0, hash TEXT NOT NULL DEFAULT '', scores TEXT,
                caption_key TEXT, caption TEXT, caption_source TEXT, UNIQUE (source, number));
            CREATE INDEX IF NOT EXISTS clip_state ON clip (state, id) WHERE stage IS NULL;
            PRAGMA foreign_keys = ON;
            """
        );

    /// <summary>Gets a setting that the ledger was made with; null if it has none of this name.</summary>
    internal string? Setting(string name) => Query("SELECT value FROM setting WHERE name = $a", row => row.GetString(0), name).FirstOrDefault();

    /// <summary>Stores a setting.</summary>
    internal void SetSetting(string name, string value) => Execute("INSERT OR REPLACE INTO setting VALUES ($a, $b)", name, value);

    /// <summary>Adds a source. If it is known and its file changed, everything about it is forgotten.</summary>
    /// <param name="name">The unique name.</param>
    /// <param name="path">The full path of the file.</param>
    /// <param name="version">A text that differs if the file or its settings change.</param>
    internal void AddSource(string name, string path, string version)
    {
        lock (_lock)
        {
            using var transaction = _connection.BeginTransaction();
            Execute("DELETE FROM source WHERE name = $a AND version <> $b", name, version);
            Execute("INSERT INTO source (name, path, version) VALUES ($a, $b, $c) ON CONFLICT (name) DO UPDATE SET path = $b", name, path, version);
            transaction.Commit();
        }
    }

    /// <summary>Forgets sources that are not in a set of names.</summary>
    internal void KeepSources(IReadOnlySet<string> names)
    {
        foreach (var name in Query("SELECT name FROM source", row => row.GetString(0)).Where(name => !names.Contains(name)))
        {
            Execute("DELETE FROM source WHERE name = $a", name);
        }
    }

    /// <summary>Gets the sources with shots that are not known yet, in the order of their names.</summary>
    internal IReadOnlyList<SourceRow> PendingSources() =>
        Query("SELECT id, name, path FROM source WHERE detected = 0 AND reason IS NULL ORDER BY name", ReadSource);

    /// <summary>Records that a source cannot be prepared.</summary>
    internal void DropSource(SourceRow source, string reason, string message) =>
        Execute("UPDATE source SET reason = $a, message = $b WHERE id = $c", reason, message, source.Id);

    /// <summary>Records the shots of a source and the clips to cut from it.</summary>
    internal void AddClips(
        SourceRow source,
        SourceInfo info,
        string? damage,
        int shots,
        int shortShots,
        IReadOnlyList<(TimeRange Range, string Path, string? Caption)> clips
    )
    {
        lock (_lock)
        {
            using var transaction = _connection.BeginTransaction();
            for (var i = 0; i < clips.Count; i++)
            {
                Execute(
                    "INSERT INTO clip (source, number, start, end, path, given_caption) VALUES ($a, $b, $c, $d, $e, $f)",
                    source.Id,
                    i + 1,
                    clips[i].Range.Start.Ticks,
                    clips[i].Range.End.Ticks,
                    clips[i].Path,
                    clips[i].Caption
                );
            }

            Execute(
                "UPDATE source SET detected = 1, info = $a, damage = $b, shots = $c, short_shots = $d WHERE id = $e",
                JsonSerializer.Serialize(info, PipelineJson.Default.SourceInfo),
                damage,
                shots,
                shortShots,
                source.Id
            );
            transaction.Commit();
        }
    }

    /// <summary>Gets the clips of a state that were not dropped, in order, a page at a time.</summary>
    /// <param name="state">The state.</param>
    /// <param name="after">The identifier of the last clip of the page before; 0 for the first page.</param>
    /// <param name="count">The maximum number of clips.</param>
    internal IReadOnlyList<ClipRow> Clips(ClipState state, long after, int count = 256) =>
        Query(
            ClipQuery + "WHERE clip.stage IS NULL AND clip.state = $a AND clip.id > $b ORDER BY clip.id LIMIT $c",
            ReadClip,
            (int)state,
            after,
            count
        );

    /// <summary>Gets the scored clips that were not dropped in the order of the manifest, a page at a time.</summary>
    /// <param name="after">The last clip of the page before; null for the first page.</param>
    /// <param name="count">The maximum number of clips.</param>
    internal IReadOnlyList<ClipRow> OrderedClips(ClipRow? after, int count = 256) =>
        Query(
            ClipQuery
                + "WHERE clip.stage IS NULL AND clip.state = 2 AND (source.name, clip.number) > ($a, $b) ORDER BY source.name, clip.number LIMIT $c",
            ReadClip,
            after?.Source.Name ?? "",
            after?.Number ?? 0,
            count
        );

    /// <summary>Gets the number of clips that <see cref="OrderedClips"/> returns.</summary>
    internal long OrderedCount() => Count("SELECT COUNT(*) FROM clip WHERE stage IS NULL AND state = 2");

    /// <summary>Records that a clip is cut.</summary>
    internal void SetCut(ClipRow clip, ClipFile file, string hash) =>
        Execute(
            "UPDATE clip SET state = 1, frames = $a, width = $b, height = $c, rate = $d, hash = $e WHERE id = $f",
            file.Frames,
            file.Width,
            file.Height,
            file.FramesPerSecond,
            hash,
            clip.Id
        );

    /// <summary>Records the scores of a clip.</summary>
    internal void SetScores(ClipRow clip, string scores) => Execute("UPDATE clip SET state = 2, scores = $a WHERE id = $b", scores, clip.Id);

    /// <summary>Forgets all scores, which other settings computed, and what was decided by them.</summary>
    internal void ForgetScores() => Execute("UPDATE clip SET state = 1, scores = NULL, stage = NULL, reason = NULL WHERE state = 2");

    /// <summary>Forgets which clips the filters, the search for duplicates and the captioner dropped, because they are applied again.</summary>
    internal void ForgetSelection() => Execute("UPDATE clip SET stage = NULL, reason = NULL, message = NULL WHERE state = 2");

    /// <summary>Records that a clip was dropped.</summary>
    internal void DropClip(long clip, string stage, string reason, string? message = null) =>
        Execute("UPDATE clip SET stage = $a, reason = $b, message = $c WHERE id = $d", stage, reason, message, clip);

    /// <summary>Records a caption.</summary>
    /// <param name="clip">The clip.</param>
    /// <param name="key">A text that differs if the captioner or its settings change.</param>
    /// <param name="caption">The caption; null if the captioner gave none.</param>
    /// <param name="source">Where the caption is from, or the reason why there is none.</param>
    internal void SetCaption(ClipRow clip, string key, string? caption, string source) =>
        Execute("UPDATE clip SET caption_key = $a, caption = $b, caption_source = $c WHERE id = $d", key, caption, source, clip.Id);

    /// <summary>Forgets captions that another captioner wrote.</summary>
    internal void ForgetCaptions(string key) =>
        Execute("UPDATE clip SET caption_key = NULL, caption = NULL, caption_source = NULL WHERE caption_key <> $a", key);

    /// <summary>Counts what was dropped, by stage and reason.</summary>
    internal IReadOnlyList<DroppedCount> Dropped() =>
        Query(
            """
            SELECT 'source' AS stage, reason, COUNT(*) FROM source WHERE reason IS NOT NULL GROUP BY reason
            UNION ALL SELECT 'shot', 'too short', SUM(short_shots) FROM source HAVING SUM(short_shots) > 0
            UNION ALL SELECT stage, reason, COUNT(*) FROM clip WHERE stage IS NOT NULL GROUP BY stage, reason
            ORDER BY stage, reason
            """,
            row => new DroppedCount(row.GetString(0), row.GetString(1), row.GetInt64(2))
        );

    /// <summary>Gets the sources that were dropped, with messages.</summary>
    internal IReadOnlyList<(string Name, string Message)> DroppedSources() =>
        Query("SELECT name, message FROM source WHERE reason IS NOT NULL ORDER BY name", row => (row.GetString(0), row.GetString(1)));

    /// <summary>Gets one number, such as a count.</summary>
    internal long Count(string query) => Query(query, row => row.IsDBNull(0) ? 0 : row.GetInt64(0)).Single();

    /// <inheritdoc/>
    public void Dispose() => _connection.Dispose();

    private const string ClipQuery =
        """
            SELECT source.id, source.name, source.path, source.info, source.damage, clip.id, clip.number, clip.start, clip.end, clip.path,
                clip.given_caption, clip.frames, clip.width, clip.height, clip.rate, clip.hash, clip.scores, clip.caption, clip.caption_source
            FROM clip JOIN source ON source.id = clip.source
            """ + " ";

    private static SourceRow ReadSource(SqliteDataReader row) => new(row.GetInt64(0), row.GetString(1), row.GetString(2));

    private static ClipRow ReadClip(SqliteDataReader row) =>
        new()
        {
            Source = ReadSource(row),
            Info = JsonSerializer.Deserialize(row.GetString(3), PipelineJson.Default.SourceInfo)!,
            IsDamaged = !row.IsDBNull(4),
            Id = row.GetInt64(5),
            Number = row.GetInt32(6),
            Range = new(TimeSpan.FromTicks(row.GetInt64(7)), TimeSpan.FromTicks(row.GetInt64(8))),
            Path = row.GetString(9),
            GivenCaption = Text(row, 10),
            Frames = row.GetInt32(11),
            Width = row.GetInt32(12),
            Height = row.GetInt32(13),
            FramesPerSecond = row.GetDouble(14),
            Hash = row.GetString(15),
            Scores = Text(row, 16),
            Caption = Text(row, 17),
            CaptionSource = Text(row, 18),
        };

    private static string? Text(SqliteDataReader row, int column) => row.IsDBNull(column) ? null : row.GetString(column);

    private void Execute(string sql, params object?[] values)
    {
        lock (_lock)
        {
            using var command = Command(sql, values);
            command.ExecuteNonQuery();
        }
    }

    private List<T> Query<T>(string sql, Func<SqliteDataReader, T> read, params object?[] values)
    {
        lock (_lock)
        {
            using var command = Command(sql, values);
            using var reader = command.ExecuteReader();
            List<T> rows = [];
            while (reader.Read())
            {
                rows.Add(read(reader));
            }

            return rows;
        }
    }

    // Parameters are $a, $b, $c ...
    private SqliteCommand Command(string sql, object?[] values)
    {
        var command = _connection.CreateCommand();
        command.CommandText = sql;
        for (var i = 0; i < values.Length; i++)
        {
            command.Parameters.AddWithValue($"${(char)('a' + i)}", values[i] ?? DBNull.Value);
        }

        return command;
    }
}
