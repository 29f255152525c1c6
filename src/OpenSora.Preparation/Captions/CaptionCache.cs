using Microsoft.Data.Sqlite;
using OpenSora.Runtime;

namespace OpenSora.Preparation.Captions;

/// <summary>An answer of a model, as it was written.</summary>
/// <param name="Text">The text before cleaning.</param>
/// <param name="End">The reason why the model stopped: <c>stop</c>, <c>length</c> or <c>content_filter</c>; null if it is unknown.</param>
/// <param name="InputTokens">The number of tokens that the model read.</param>
/// <param name="OutputTokens">The number of tokens that the model wrote.</param>
internal sealed record ChatAnswer(string Text, string? End, long? InputTokens, long? OutputTokens);

/// <summary>A file (SQLite) with the answers of models, by frames, prompt and model. Answers are stored before they are cleaned, so that other length
/// limits need no new requests.</summary>
/// <remarks>The file holds millions of answers, can be used by several programs at the same time, and is intact after a program was killed at any
/// moment. Instances are thread-safe.</remarks>
public sealed class CaptionCache : IDisposable
{
    private const int ApplicationId = 0x4F536361, // "OSca"
        Version = 1;

    private readonly Lock _lock = new();
    private readonly SqliteConnection _connection;
    private readonly SqliteCommand _find,
        _add;

    /// <summary>Opens a cache, or creates it.</summary>
    /// <param name="path">The path of the file. Its folder is created if it does not exist.</param>
    /// <exception cref="IOException">The file is not a cache of captions, was written by a newer version, or cannot be opened.</exception>
    public CaptionCache(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        var target = OutputPath.Resolve(path);
        if (target.IsDevice)
        {
            throw new IOException($"'{path}' cannot be a cache of captions: it is a device. Specify the path of a file.");
        }

        Directory.CreateDirectory(Path.GetDirectoryName(target.Path)!);
        _connection = new SqliteConnection(
            new SqliteConnectionStringBuilder
            {
                DataSource = target.Path,
                Pooling = false,
                DefaultTimeout = 60,
            }.ToString()
        );
        try
        {
            _connection.Open();
            Prepare(path);
            _find = Command("SELECT text, end, input_tokens, output_tokens FROM answers WHERE key = $key");
            _add = Command("INSERT OR REPLACE INTO answers VALUES ($key, $text, $end, $input, $output)");
        }
        catch (SqliteException e)
        {
            _connection.Dispose();
            throw new IOException($"'{path}' cannot be used as a cache of captions: {e.Message} Delete the file, or specify another path.", e);
        }
        catch
        {
            _connection.Dispose();
            throw;
        }
    }

    /// <summary>Gets the number of answers.</summary>
    public long Count
    {
        get
        {
            lock (_lock)
            {
                using var command = Command("SELECT count(*) FROM answers");
                return (long)command.ExecuteScalar()!;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_lock)
        {
            _find.Dispose();
            _add.Dispose();
            _connection.Dispose();
        }
    }

    /// <summary>Finds an answer.</summary>
    internal ChatAnswer? Find(byte[] key)
    {
        lock (_lock)
        {
            _find.Parameters.Clear();
            _find.Parameters.AddWithValue("$key", key);
            using var row = _find.ExecuteReader();
            return row.Read() ? new ChatAnswer(row.GetString(0), row.IsDBNull(1) ? null : row.GetString(1), Number(row, 2), Number(row, 3)) : null;
        }
    }

    /// <summary>Adds or replaces an answer.</summary>
    internal void Add(byte[] key, ChatAnswer answer)
    {
        lock (_lock)
        {
            _add.Parameters.Clear();
            _add.Parameters.AddWithValue("$key", key);
            _add.Parameters.AddWithValue("$text", answer.Text);
            _add.Parameters.AddWithValue("$end", (object?)answer.End ?? DBNull.Value);
            _add.Parameters.AddWithValue("$input", (object?)answer.InputTokens ?? DBNull.Value);
            _add.Parameters.AddWithValue("$output", (object?)answer.OutputTokens ?? DBNull.Value);
            try
            {
                _add.ExecuteNonQuery();
            }
            catch (SqliteException e)
            {
                throw new IOException(
                    $"The cache of captions '{_connection.DataSource}' cannot be written: {e.Message} Check the space on the disk.",
                    e
                );
            }
        }
    }

    // A log ahead of the file (WAL) keeps the file intact when a program is killed. With NORMAL, a power failure loses the last answers at most.
    private void Prepare(string path)
    {
        // One statement sees one state, also while another program creates the file.
        const string state =
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id, pragma_user_version";
        long application,
            version;
        bool isNew;
        using (var command = Command(state))
        using (var row = command.ExecuteReader())
        {
            row.Read();
            (application, version) = (row.GetInt64(0), row.GetInt64(1));
            isNew = application == 0 && version == 0 && row.GetInt64(2) == 0;
        }

        if (!isNew && application != ApplicationId)
        {
            throw new IOException($"'{path}' is an SQLite database, but not a cache of captions. Specify another path.");
        }

        if (version > Version)
        {
            throw new IOException($"The cache of captions '{path}' was written by a newer version. Update this program, or specify another path.");
        }

        Run("PRAGMA journal_mode = WAL");
        Run("PRAGMA synchronous = NORMAL");
        if (isNew)
        {
            Run(
                $"""
                BEGIN IMMEDIATE;
                CREATE TABLE IF NOT EXISTS answers (
                    key BLOB PRIMARY KEY, text TEXT NOT NULL, end TEXT, input_tokens INTEGER, output_tokens INTEGER
                ) WITHOUT ROWID;
                PRAGMA application_id = {ApplicationId};
                PRAGMA user_version = {Version};
                COMMIT;
                """
            );
        }
    }

    private static long? Number(SqliteDataReader row, int column) => row.IsDBNull(column) ? null : row.GetInt64(column);

    private SqliteCommand Command(string text)
    {
        var command = _connection.CreateCommand();
        command.CommandText = text;
        return command;
    }

    private void Run(string text)
    {
        using var command = Command(text);
        command.ExecuteNonQuery();
    }
}
