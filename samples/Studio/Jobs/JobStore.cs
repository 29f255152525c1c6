using System.Globalization;
using System.Text.Json;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Options;

namespace OpenSora.Studio.Jobs;

/// <summary>The outcome of <see cref="JobStore.Add"/>.</summary>
internal enum AddOutcome
{
    Added,

    /// <summary>A job of this user with this identifier and the same settings exists.</summary>
    Exists,

    /// <summary>The identifier belongs to a job with other settings, or of another user.</summary>
    Conflict,

    /// <summary>The user has as many unfinished jobs as one user can have.</summary>
    UserLimit,

    /// <summary>There are as many unfinished jobs as the server accepts.</summary>
    ServerLimit,
}

/// <summary>The jobs in an SQLite database, and their files. Every change of a status is one statement that names the status it changes from, so two
/// callers cannot both make it.</summary>
internal sealed class JobStore : IDisposable
{
    private const string Columns =
        "number, id, owner, settings, seed, status, created, started, finished, attempts, cancel_requested, error, result, revision";

    private static readonly JsonSerializerOptions Json = JsonSerializerOptions.Web;

    private readonly StudioOptions _options;
    private readonly string _connectionString;
    private readonly FileStream _lock;

    public JobStore(IOptions<StudioOptions> options)
    {
        _options = options.Value;
        Folder = Path.GetFullPath(_options.DataFolder);
        Directory.CreateDirectory(Path.Combine(Folder, "videos"));
        try
        {
            // Released by the operating system when the process ends, however it ends.
            _lock = new FileStream(Path.Combine(Folder, "lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e)
        {
            throw new InvalidOperationException(
                $"The folder '{Folder}' is in use by another process. Stop that process, or set Studio:DataFolder to another folder.",
                e
            );
        }

        _connectionString = new SqliteConnectionStringBuilder { DataSource = Path.Combine(Folder, "jobs.db") }.ToString();
        Execute("PRAGMA journal_mode = WAL");
        Execute(
            """
            CREATE TABLE IF NOT EXISTS jobs (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                owner TEXT NOT NULL,
                settings TEXT NOT NULL,
                seed INTEGER NOT NULL,
                words TEXT NOT NULL,
                status TEXT NOT NULL,
                created INTEGER NOT NULL,
                started INTEGER,
                finished INTEGER,
                attempts INTEGER NOT NULL DEFAULT 0,
                cancel_requested INTEGER NOT NULL DEFAULT 0,
                error TEXT,
                result TEXT,
                revision INTEGER NOT NULL DEFAULT 0
            ) STRICT;
            CREATE INDEX IF NOT EXISTS jobs_of_owner ON jobs (owner, number);
            CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
            """
        );
    }

    /// <summary>The folder of the database and the videos.</summary>
    public string Folder { get; }

    public string VideoPath(Guid id) => Path.Combine(Folder, "videos", $"{id}.mp4");

    public string PosterPath(Guid id) => Path.Combine(Folder, "videos", $"{id}.png");

    /// <summary>Adds a job, unless it exists or a limit is reached.</summary>
    /// <returns>The outcome, and the job if it was added or exists.</returns>
    public (AddOutcome Outcome, Job? Job) Add(Guid id, string owner, JobSettings settings)
    {
        using var connection = Open();
        using var transaction = connection.BeginTransaction(deferred: false); // locks out other writers until the end
        if (Query(connection, "WHERE id = $id", ("$id", id.ToString())).SingleOrDefault() is { } existing)
        {
            return string.Equals(existing.Owner, owner, StringComparison.Ordinal) && existing.Settings == settings
                ? (AddOutcome.Exists, existing)
                : (AddOutcome.Conflict, null);
        }

        const string unfinished = "SELECT COUNT(*) FROM jobs WHERE status IN ('queued', 'running')";
        if (Count(connection, unfinished) >= _options.MaxJobs)
        {
            return (AddOutcome.ServerLimit, null);
        }

        if (Count(connection, unfinished + " AND owner = $owner", ("$owner", owner)) >= _options.MaxJobsPerUser)
        {
            return (AddOutcome.UserLimit, null);
        }

        Execute(
            connection,
            "INSERT INTO jobs (id, owner, settings, seed, words, status, created) VALUES ($id, $owner, $settings, $seed, $words, 'queued', $now)",
            ("$id", id.ToString()),
            ("$owner", owner),
            ("$settings", JsonSerializer.Serialize(settings, Json)),
            ("$seed", settings.Seed ?? Random.Shared.NextInt64(uint.MaxValue)),
            ("$words", $"{settings.Prompt} {settings.NegativePrompt}".ToLowerInvariant()),
            ("$now", Now())
        );
        var job = Query(connection, "WHERE id = $id", ("$id", id.ToString())).Single();
        transaction.Commit();
        return (AddOutcome.Added, job);
    }

    public Job? Find(Guid id)
    {
        using var connection = Open();
        return Query(connection, "WHERE id = $id", ("$id", id.ToString())).SingleOrDefault();
    }

    /// <summary>Lists the jobs of a user, the latest first.</summary>
    /// <param name="owner">The user.</param>
    /// <param name="search">Words that the prompt or the negative prompt must contain.</param>
    /// <param name="status">The status of the jobs; null for all.</param>
    /// <param name="before">The number that the numbers of the jobs are below; null for no limit.</param>
    /// <param name="limit">The maximum number of jobs.</param>
    public IReadOnlyList<Job> List(string owner, string? search = null, JobStatus? status = null, long? before = null, int limit = 20)
    {
        var words = (search ?? "").ToLowerInvariant().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        List<(string, object?)> parameters = [("$owner", owner), ("$before", before ?? long.MaxValue), ("$limit", limit)];
        var filter = "WHERE owner = $owner AND number < $before";
        if (status is { } one)
        {
            filter += " AND status = $status";
            parameters.Add(("$status", Name(one)));
        }

        for (var i = 0; i < words.Length; i++)
        {
            var parameter = string.Create(CultureInfo.InvariantCulture, $"$word{i}");
            filter += $" AND instr(words, {parameter}) > 0";
            parameters.Add((parameter, words[i]));
        }

        using var connection = Open();
        return Query(connection, filter + " ORDER BY number DESC LIMIT $limit", [.. parameters]);
    }

    /// <summary>Lists the waiting jobs of all users in the order in which they will run.</summary>
    public IReadOnlyList<Job> ListQueued()
    {
        using var connection = Open();
        return Query(connection, "WHERE status = 'queued' ORDER BY number");
    }

    /// <summary>Counts the waiting jobs before a job.</summary>
    public int CountQueuedBefore(long number)
    {
        using var connection = Open();
        return Count(connection, "SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND number < $number", ("$number", number));
    }

    /// <summary>Changes a job from queued to running.</summary>
    /// <returns>The job; null if it is not queued, because it was canceled or another worker has it.</returns>
    public Job? TryStart(Guid id) =>
        Change(
            "status = 'running', started = $now, attempts = attempts + 1 WHERE id = $id AND status = 'queued'",
            ("$id", id.ToString()),
            ("$now", Now())
        );

    /// <summary>Changes a running job to a final status.</summary>
    public Job? Finish(Guid id, JobStatus status, JobResult? result = null, string? error = null) =>
        Change(
            "status = $status, finished = $now, result = $result, error = $error WHERE id = $id AND status = 'running'",
            ("$id", id.ToString()),
            ("$status", Name(status)),
            ("$now", Now()),
            ("$result", result is null ? null : JsonSerializer.Serialize(result, Json)),
            ("$error", error)
        );

    /// <summary>Cancels a queued job, or notes that a running one is to be canceled.</summary>
    /// <returns>The job; null if it has finished or does not exist.</returns>
    public Job? RequestCancel(Guid id) =>
        Change(
            """
            cancel_requested = 1,
            finished = CASE status WHEN 'queued' THEN $now ELSE NULL END,
            status = CASE status WHEN 'queued' THEN 'canceled' ELSE status END
            WHERE id = $id AND status IN ('queued', 'running')
            """,
            ("$id", id.ToString()),
            ("$now", Now())
        );

    /// <summary>Puts a running job back, because the application is stopping. The attempt does not count.</summary>
    public Job? Requeue(Guid id) =>
        Change("status = 'queued', started = NULL, attempts = attempts - 1 WHERE id = $id AND status = 'running'", ("$id", id.ToString()));

    /// <summary>Puts the jobs back that were running when the last process ended. A job that was canceled stays so, and one that was interrupted too
    /// often fails, because it may be what ended the process.</summary>
    public void Recover()
    {
        using var connection = Open();
        using var transaction = connection.BeginTransaction(deferred: false);
        Execute(
            connection,
            "UPDATE jobs SET revision = revision + 1, status = 'canceled', finished = $now WHERE status = 'running' AND cancel_requested = 1",
            ("$now", Now())
        );
        Execute(
            connection,
            "UPDATE jobs SET revision = revision + 1, status = 'failed', finished = $now, error = $error "
                + "WHERE status = 'running' AND attempts >= $attempts",
            ("$now", Now()),
            ("$attempts", _options.MaxAttempts),
            ("$error", $"The server stopped {_options.MaxAttempts} times while it generated this video. Try smaller settings.")
        );
        Execute(connection, "UPDATE jobs SET revision = revision + 1, status = 'queued', started = NULL WHERE status = 'running'");
        transaction.Commit();

        // Videos that were being written are written again under other temporary names.
        foreach (var file in Directory.EnumerateFiles(Path.Combine(Folder, "videos"), "*.tmp"))
        {
            if (Guid.TryParse(Path.GetFileName(file).Split('.')[0], out _))
            {
                File.Delete(file);
            }
        }
    }

    /// <summary>Deletes a finished job and its files.</summary>
    /// <returns>True if it was deleted; false if it has not finished.</returns>
    public bool Delete(Guid id)
    {
        using var connection = Open();
        using var command = Command(connection, "DELETE FROM jobs WHERE id = $id AND status NOT IN ('queued', 'running')", [("$id", id.ToString())]);
        if (command.ExecuteNonQuery() == 0)
        {
            return false;
        }

        File.Delete(VideoPath(id));
        File.Delete(PosterPath(id));
        return true;
    }

    public void Dispose()
    {
        using (var connection = new SqliteConnection(_connectionString))
        {
            SqliteConnection.ClearPool(connection);
        }

        _lock.Dispose();
    }

    private static string Name(JobStatus status) => status.ToString().ToLowerInvariant();

    private static long Now() => DateTimeOffset.UtcNow.ToUnixTimeMilliseconds();

    private SqliteConnection Open()
    {
        var connection = new SqliteConnection(_connectionString);
        connection.Open();
        return connection;
    }

    private Job? Change(string change, params (string Name, object? Value)[] parameters)
    {
        using var connection = Open();
        using var command = Command(connection, $"UPDATE jobs SET revision = revision + 1, {change} RETURNING {Columns}", parameters);
        return Read(command).SingleOrDefault();
    }

    private void Execute(string sql, params (string Name, object? Value)[] parameters)
    {
        using var connection = Open();
        Execute(connection, sql, parameters);
    }

    private static void Execute(SqliteConnection connection, string sql, params (string Name, object? Value)[] parameters)
    {
        using var command = Command(connection, sql, parameters);
        command.ExecuteNonQuery();
    }

    private static int Count(SqliteConnection connection, string sql, params (string Name, object? Value)[] parameters)
    {
        using var command = Command(connection, sql, parameters);
        return Convert.ToInt32(command.ExecuteScalar(), CultureInfo.InvariantCulture);
    }

    private static List<Job> Query(SqliteConnection connection, string filter, params (string Name, object? Value)[] parameters)
    {
        using var command = Command(connection, $"SELECT {Columns} FROM jobs {filter}", parameters);
        return Read(command);
    }

    private static SqliteCommand Command(SqliteConnection connection, string sql, (string Name, object? Value)[] parameters)
    {
        var command = connection.CreateCommand(); // takes part in the transaction of the connection, if there is one
        command.CommandText = sql;
        foreach (var (name, value) in parameters)
        {
            command.Parameters.AddWithValue(name, value ?? DBNull.Value);
        }

        return command;
    }

    private static List<Job> Read(SqliteCommand command)
    {
        List<Job> jobs = [];
        using var row = command.ExecuteReader();
        while (row.Read())
        {
            jobs.Add(
                new Job(
                    row.GetInt64(0),
                    Guid.Parse(row.GetString(1)),
                    row.GetString(2),
                    JsonSerializer.Deserialize<JobSettings>(row.GetString(3), Json)!,
                    row.GetInt64(4)
                )
                {
                    Status = Enum.Parse<JobStatus>(row.GetString(5), ignoreCase: true),
                    Created = DateTimeOffset.FromUnixTimeMilliseconds(row.GetInt64(6)),
                    Started = row.IsDBNull(7) ? null : DateTimeOffset.FromUnixTimeMilliseconds(row.GetInt64(7)),
                    Finished = row.IsDBNull(8) ? null : DateTimeOffset.FromUnixTimeMilliseconds(row.GetInt64(8)),
                    Attempts = row.GetInt32(9),
                    CancelRequested = row.GetInt32(10) != 0,
                    Error = row.IsDBNull(11) ? null : row.GetString(11),
                    Result = row.IsDBNull(12) ? null : JsonSerializer.Deserialize<JobResult>(row.GetString(12), Json),
                    Revision = row.GetInt64(13),
                }
            );
        }

        return jobs;
    }
}
