using System.Globalization;
using Microsoft.Data.Sqlite;

namespace OpenSora.Preparation.PublicSets;

/// <summary>The state of a file in a <see cref="DownloadLedger"/>.</summary>
public enum DownloadState
{
    /// <summary>The address was exported for a site's own tool, and no file has been imported yet.</summary>
    Listed,

    /// <summary>A part of the file is downloaded.</summary>
    Partial,

    /// <summary>The file is complete and verified, but does not have its final name yet.</summary>
    Finishing,

    /// <summary>The file is complete.</summary>
    Done,

    /// <summary>The file could not be downloaded.</summary>
    Failed,
}

/// <summary>A file in a <see cref="DownloadLedger"/>.</summary>
public sealed record LedgerFile
{
    /// <summary>The address; <c>#t=START,END</c> (seconds) is appended for a section of a video.</summary>
    public required string Source { get; init; }

    /// <summary>The state.</summary>
    public DownloadState State { get; init; }

    /// <summary>Why the file failed, in a few words that are the same for all files with this problem; null for other states.</summary>
    public string? Reason { get; init; }

    /// <summary>The failure with details; null for other states.</summary>
    public string? Message { get; init; }

    /// <summary>Indicates that a failure does not go away by trying again, such as <c>not found</c>.</summary>
    public bool IsFinal { get; init; }

    /// <summary>The path of the complete file, relative to the folder; null if there is none.</summary>
    public string? Path { get; init; }

    /// <summary>The size in bytes; null if it is not known.</summary>
    public long? Bytes { get; init; }

    /// <summary>The SHA-256 of the complete file; null if it was not computed.</summary>
    public string? Sha256 { get; init; }

    /// <summary>The ETag that the server sent; null if there is none.</summary>
    public string? ETag { get; init; }

    /// <summary>The time of the last change that the server sent; null if there is none.</summary>
    public DateTimeOffset? LastModified { get; init; }

    /// <summary>The identifier of the video in its data set.</summary>
    public string VideoId { get; init; } = "";

    /// <summary>Identifies the run that changed the row last.</summary>
    internal string Run { get; init; } = "";
}

/// <summary>Records every file of a download folder: done, failed and why, size and hash. It is a SQLite database <c>downloads.db</c>.</summary>
/// <remarks>Every change is one transaction, so a process can be killed at any moment. One process at a time can open the ledger of a folder. All
/// members can be called from several threads.</remarks>
public sealed class DownloadLedger : IDisposable
{
    private const int Version = 1;
    private readonly Lock _lock = new();
    private readonly SqliteConnection _database;
    private readonly FileStream _lease;

    private DownloadLedger(string folder, SqliteConnection database, FileStream lease) => (Folder, _database, _lease) = (folder, database, lease);

    /// <summary>Gets the full path of the download folder.</summary>
    public string Folder { get; }

    /// <summary>Opens the ledger of a folder, and creates both if they do not exist.</summary>
    /// <param name="folder">The download folder.</param>
    /// <exception cref="PreparationException">Another process uses the ledger, or it is damaged.</exception>
    public static DownloadLedger Open(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        folder = Path.GetFullPath(folder);
        Directory.CreateDirectory(folder);
        var path = Path.Combine(folder, "downloads.db");
        FileStream? lease = null;
        SqliteConnection? database = null;
        try
        {
            lease = new FileStream(path + ".lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            database = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = path, Pooling = false }.ToString());
            database.Open();
            Run(database, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;");
            var version = Convert.ToInt32(Scalar(database, "PRAGMA user_version"), CultureInfo.InvariantCulture);
            if (version > Version)
            {
                throw new PreparationException("ledger is newer", $"'{path}' was written by a newer version of this library. Update the library.");
            }

            Run(
                database,
                $"""
                CREATE TABLE IF NOT EXISTS files (
                    source TEXT PRIMARY KEY, state INTEGER NOT NULL, reason TEXT, message TEXT, final INTEGER NOT NULL, path TEXT, bytes INTEGER,
                    sha256 TEXT, etag TEXT, modified TEXT, video TEXT NOT NULL, run TEXT NOT NULL, changed TEXT NOT NULL
                ) WITHOUT ROWID;
                PRAGMA user_version={Version};
                """
            );
            return new(folder, database, lease);
        }
        catch (Exception e)
        {
            database?.Dispose();
            lease?.Dispose();
            throw e switch
            {
                SqliteException => new PreparationException(
                    "ledger is damaged",
                    $"'{path}' cannot be read as a ledger: {e.Message} Delete it to start over; complete files are downloaded again.",
                    e
                ),
                IOException and not PreparationException when lease is null => new PreparationException(
                    "folder is in use",
                    $"The download folder '{folder}' cannot be locked: {e.Message} Is another process downloading to it?",
                    e
                ),
                _ => e,
            };
        }
    }

    /// <summary>Finds a file by its address.</summary>
    /// <param name="source">The address.</param>
    /// <returns>The file; null if the ledger does not contain it.</returns>
    public LedgerFile? Find(string source)
    {
        ArgumentNullException.ThrowIfNull(source);
        lock (_lock)
        {
            using var command = Command("SELECT * FROM files WHERE source = $source", ("$source", source));
            using var reader = command.ExecuteReader();
            return reader.Read() ? Row(reader) : null;
        }
    }

    /// <summary>Finds the section of a video by its address and times. yt-dlp shortens a section that ends after the video, so one with another
    /// end time is found if there is none with the same.</summary>
    /// <param name="prefix">The key up to the comma before the end time.</param>
    /// <param name="end">The rest of the key.</param>
    internal LedgerFile? FindSection(string prefix, string end)
    {
        if (Find(prefix + end) is { } exact)
        {
            return exact;
        }

        lock (_lock)
        {
            using var command = Command(
                "SELECT * FROM files WHERE source >= $first AND source < $last LIMIT 1",
                ("$first", prefix),
                ("$last", prefix[..^1] + (char)(prefix[^1] + 1))
            );
            using var reader = command.ExecuteReader();
            return reader.Read() ? Row(reader) : null;
        }
    }

    /// <summary>Lists all files, sorted by address. Changes during the enumeration do not disturb it.</summary>
    public IEnumerable<LedgerFile> List()
    {
        const int page = 500;
        for (var last = ""; ; )
        {
            List<LedgerFile> rows = [];
            lock (_lock)
            {
                using var command = Command($"SELECT * FROM files WHERE source > $last ORDER BY source LIMIT {page}", ("$last", last));
                using var reader = command.ExecuteReader();
                while (reader.Read())
                {
                    rows.Add(Row(reader));
                }
            }

            foreach (var row in rows)
            {
                yield return row;
            }

            if (rows.Count < page)
            {
                yield break;
            }

            last = rows[^1].Source;
        }
    }

    /// <summary>Counts the files by state, and failed files by reason.</summary>
    public IReadOnlyDictionary<string, long> Count()
    {
        SortedDictionary<string, long> counts = new(StringComparer.Ordinal);
        lock (_lock)
        {
            using var command = Command("SELECT state, reason, COUNT(*) FROM files GROUP BY state, reason");
            using var reader = command.ExecuteReader();
            while (reader.Read())
            {
                var state = (DownloadState)reader.GetInt32(0);
                var name = state == DownloadState.Failed ? reader.GetString(1) : state.ToString().ToLowerInvariant();
                counts[name] = counts.GetValueOrDefault(name) + reader.GetInt64(2);
            }
        }

        return counts;
    }

    /// <summary>Closes the ledger.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _database.Dispose();
            _lease.Dispose();
        }
    }

    /// <summary>Gets the full path of a complete file; null if it is not done or was deleted.</summary>
    internal string? PathOf(LedgerFile? file) =>
        file is { State: DownloadState.Done, Path: { } path } && Path.GetFullPath(Path.Combine(Folder, path)) is var full && File.Exists(full)
            ? full
            : null;

    internal void Save(LedgerFile file)
    {
        lock (_lock)
        {
            using var command = Command(
                """
                INSERT OR REPLACE INTO files (source, state, reason, message, final, path, bytes, sha256, etag, modified, video, run, changed)
                VALUES ($source, $state, $reason, $message, $final, $path, $bytes, $sha256, $etag, $modified, $video, $run, $changed)
                """,
                ("$source", file.Source),
                ("$state", (int)file.State),
                ("$reason", file.Reason),
                ("$message", file.Message),
                ("$final", file.IsFinal ? 1 : 0),
                ("$path", file.Path),
                ("$bytes", file.Bytes),
                ("$sha256", file.Sha256),
                ("$etag", file.ETag),
                ("$modified", file.LastModified?.ToString("R", CultureInfo.InvariantCulture)),
                ("$video", file.VideoId),
                ("$run", file.Run),
                ("$changed", DateTimeOffset.UtcNow.ToString("O", CultureInfo.InvariantCulture))
            );
            command.ExecuteNonQuery();
        }
    }

    /// <summary>Records that files are exported in this run.</summary>
    /// <returns>true for each file that is exported the first time in this run and is not done.</returns>
    internal bool[] TryList(IReadOnlyList<(string Source, string VideoId)> files, string run)
    {
        lock (_lock)
        {
            using var transaction = _database.BeginTransaction(); // much faster than one for each row
            using var command = Command(
                $"""
                INSERT INTO files (source, state, final, video, run, changed) VALUES ($source, {(int)DownloadState.Listed}, 0, $video, $run, $changed)
                ON CONFLICT (source) DO UPDATE SET state = {(int)DownloadState.Listed}, reason = NULL, message = NULL, final = 0, run = $run
                WHERE run <> $run AND state <> {(int)DownloadState.Done}
                """,
                ("$source", ""),
                ("$video", ""),
                ("$run", run),
                ("$changed", DateTimeOffset.UtcNow.ToString("O", CultureInfo.InvariantCulture))
            );
            command.Transaction = transaction;
            var isListed = new bool[files.Count];
            for (var i = 0; i < files.Count; i++)
            {
                (command.Parameters["$source"].Value, command.Parameters["$video"].Value) = files[i];
                isListed[i] = command.ExecuteNonQuery() > 0;
            }

            transaction.Commit();
            return isListed;
        }
    }

    private static void Run(SqliteConnection database, string text)
    {
        using var command = database.CreateCommand();
        command.CommandText = text;
        command.ExecuteNonQuery();
    }

    private static object? Scalar(SqliteConnection database, string text)
    {
        using var command = database.CreateCommand();
        command.CommandText = text;
        return command.ExecuteScalar();
    }

    private SqliteCommand Command(string text, params ReadOnlySpan<(string Name, object? Value)> parameters)
    {
        var command = _database.CreateCommand();
        command.CommandText = text;
        foreach (var (name, value) in parameters)
        {
            command.Parameters.AddWithValue(name, value ?? DBNull.Value);
        }

        return command;
    }

    private static LedgerFile Row(SqliteDataReader row)
    {
        return new()
        {
            Source = Text("source")!,
            State = (DownloadState)row.GetInt32(row.GetOrdinal("state")),
            Reason = Text("reason"),
            Message = Text("message"),
            IsFinal = row.GetInt32(row.GetOrdinal("final")) != 0,
            Path = Text("path"),
            Bytes = row.GetOrdinal("bytes") is var bytes && row.IsDBNull(bytes) ? null : row.GetInt64(bytes),
            Sha256 = Text("sha256"),
            ETag = Text("etag"),
            LastModified = Text("modified") is { } time ? DateTimeOffset.ParseExact(time, "R", CultureInfo.InvariantCulture) : null,
            VideoId = Text("video")!,
            Run = Text("run")!,
        };

        string? Text(string column) => row.GetOrdinal(column) is var index && row.IsDBNull(index) ? null : row.GetString(index);
    }
}
