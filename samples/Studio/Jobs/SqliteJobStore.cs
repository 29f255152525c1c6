using System.Collections.Concurrent;
using System.Globalization;
using System.Text.Json;
using System.Threading.Channels;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Options;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>The jobs of one process in an SQLite database, first come, first served. Every change of a status is one statement that names the status
/// it changes from. The progress of running jobs is in memory.</summary>
internal sealed class SqliteJobStore : IJobStore, IHostedService, IDisposable
{
    private const string Columns = """
        number, id, owner, settings, seed, status, created, started, finished, attempts, cancel_requested, error, result, revision,
        CASE status WHEN 'queued' THEN (SELECT COUNT(*) FROM jobs AS others WHERE others.status = 'queued' AND others.number <= jobs.number) END
        """;

    private static readonly JsonSerializerOptions Json = JsonSerializerOptions.Web;

    private readonly StudioOptions _options;
    private readonly string _connectionString;
    private readonly FileStream _lock;
    private readonly Channel<JobChange> _changes = Channel.CreateUnbounded<JobChange>();
    private readonly SemaphoreSlim _queued = new(0);
    private readonly ConcurrentDictionary<Guid, Running> _running = new();

    public SqliteJobStore(IOptions<StudioOptions> options)
    {
        _options = options.Value;
        var folder = Path.GetFullPath(_options.DataFolder);
        Directory.CreateDirectory(folder);
        try
        {
            // Released by the operating system when the process ends, however it ends.
            _lock = new FileStream(Path.Combine(folder, "lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e)
        {
            throw new InvalidOperationException(
                $"The folder '{folder}' is in use by another process. Stop that process, or set Studio:DataFolder to another folder.",
                e
            );
        }

        _connectionString = new SqliteConnectionStringBuilder { DataSource = Path.Combine(folder, "jobs.db") }.ToString();
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

    public ChannelReader<JobChange> Changes => _changes.Reader;

    /// <summary>Recovers the jobs that the last process did not finish.</summary>
    public Task StartAsync(CancellationToken cancellationToken)
    {
        Recover();
        return Task.CompletedTask;
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    /// <summary>Puts the jobs back that were running when the last process ended. A job that was canceled stays so, and one that was interrupted too
    /// often fails.</summary>
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
            ("$error", Job.Interrupted(_options.MaxAttempts))
        );
        Execute(connection, "UPDATE jobs SET revision = revision + 1, status = 'queued', started = NULL WHERE status = 'running'");
        transaction.Commit();
    }

    public Task<(AddOutcome Outcome, Job? Job)> AddAsync(Job job) => Task.FromResult(Add(job));

    public Task<Job?> FindAsync(Guid id)
    {
        using var connection = Open();
        return Task.FromResult(Query(connection, "WHERE id = $id", ("$id", id.ToString())).SingleOrDefault());
    }

    public Task<IReadOnlyList<Job>> ListAsync(string owner, string? search = null, JobStatus? status = null, long? before = null, int limit = 20)
    {
        List<(string, object?)> parameters = [("$owner", owner), ("$before", before ?? long.MaxValue), ("$limit", limit)];
        var filter = "WHERE owner = $owner AND number < $before";
        if (status is { } one)
        {
            filter += " AND status = $status";
            parameters.Add(("$status", Name(one)));
        }

        var words = Job.Split(search);
        for (var i = 0; i < words.Length; i++)
        {
            var parameter = string.Create(CultureInfo.InvariantCulture, $"$word{i}");
            filter += $" AND instr(words, {parameter}) > 0";
            parameters.Add((parameter, words[i]));
        }

        using var connection = Open();
        return Task.FromResult<IReadOnlyList<Job>>(Query(connection, filter + " ORDER BY number DESC LIMIT $limit", [.. parameters]));
    }

    public Task<int> CountQueuedAsync()
    {
        using var connection = Open();
        return Task.FromResult(Count(connection, "SELECT COUNT(*) FROM jobs WHERE status = 'queued'"));
    }

    public Task<Job?> TryTakeAsync()
    {
        var job = Change(
            true,
            "status = 'running', started = $now, attempts = attempts + 1 WHERE number = (SELECT MIN(number) FROM jobs WHERE status = 'queued')",
            ("$now", Now())
        );
        return Task.FromResult(job);
    }

    public Task WaitAsync(CancellationToken cancellationToken) => _queued.WaitAsync(cancellationToken);

    // No other process can take the job.
    public async Task<bool> RenewAsync(Job job) => await FindAsync(job.Id) is { Status: JobStatus.Running, CancelRequested: false };

    public Task ShowProgressAsync(Job job, JobProgress progress) =>
        ShowAsync(job, new Running(progress, null, null), running => running with { Progress = progress });

    public Task ShowPreviewAsync(Job job, int step, Preview preview) =>
        ShowAsync(job, new Running(null, step, preview), running => running.Step >= step ? running : running with { Step = step, Preview = preview });

    public Task<Preview?> FindPreviewAsync(Guid id) => Task.FromResult(_running.GetValueOrDefault(id)?.Preview);

    public Task<Job?> FinishAsync(Job job, JobStatus status, JobResult? result = null, string? error = null)
    {
        _running.TryRemove(job.Id, out _);
        var finished = Change(
            false,
            "status = $status, finished = $now, result = $result, error = $error WHERE id = $id AND status = 'running'",
            ("$id", job.Id.ToString()),
            ("$status", Name(status)),
            ("$now", Now()),
            ("$result", result is null ? null : JsonSerializer.Serialize(result, Json)),
            ("$error", error)
        );
        return Task.FromResult(finished);
    }

    public Task<Job?> RequeueAsync(Job job)
    {
        _running.TryRemove(job.Id, out _);
        var queued = Change(
            true,
            "status = 'queued', started = NULL, attempts = attempts - 1 WHERE id = $id AND status = 'running'",
            ("$id", job.Id.ToString())
        );
        _queued.Release();
        return Task.FromResult(queued);
    }

    public Task<Job?> RequestCancelAsync(Guid id) =>
        Task.FromResult(
            Change(
                true,
                """
                cancel_requested = 1,
                finished = CASE status WHEN 'queued' THEN $now ELSE NULL END,
                status = CASE status WHEN 'queued' THEN 'canceled' ELSE status END
                WHERE id = $id AND status IN ('queued', 'running')
                """,
                ("$id", id.ToString()),
                ("$now", Now())
            )
        );

    public Task<bool> DeleteAsync(Guid id)
    {
        using var connection = Open();
        using var command = Command(connection, "DELETE FROM jobs WHERE id = $id AND status NOT IN ('queued', 'running')", [("$id", id.ToString())]);
        return Task.FromResult(command.ExecuteNonQuery() > 0);
    }

    public void Dispose()
    {
        using (var connection = new SqliteConnection(_connectionString))
        {
            SqliteConnection.ClearPool(connection);
        }

        _lock.Dispose();
        _queued.Dispose();
    }

    private (AddOutcome Outcome, Job? Job) Add(Job job)
    {
        using var connection = Open();
        using var transaction = connection.BeginTransaction(deferred: false); // locks out other writers until the end
        if (Query(connection, "WHERE id = $id", ("$id", job.Id.ToString())).SingleOrDefault() is { } existing)
        {
            return (existing.Compare(job), existing);
        }

        const string unfinished = "SELECT COUNT(*) FROM jobs WHERE status IN ('queued', 'running')";
        if (Count(connection, unfinished) >= _options.MaxJobs)
        {
            return (AddOutcome.ServerLimit, null);
        }

        if (Count(connection, unfinished + " AND owner = $owner", ("$owner", job.Owner)) >= _options.MaxJobsPerUser)
        {
            return (AddOutcome.UserLimit, null);
        }

        Execute(
            connection,
            "INSERT INTO jobs (id, owner, settings, seed, words, status, created) VALUES ($id, $owner, $settings, $seed, $words, 'queued', $now)",
            ("$id", job.Id.ToString()),
            ("$owner", job.Owner),
            ("$settings", JsonSerializer.Serialize(job.Settings, Json)),
            ("$seed", job.Seed),
            ("$words", job.Words),
            ("$now", Now())
        );
        var added = Query(connection, "WHERE id = $id", ("$id", job.Id.ToString())).Single();
        transaction.Commit();
        _changes.Writer.TryWrite(new(job.Id, job.Owner, IsQueueChanged: false));
        _queued.Release();
        return (AddOutcome.Added, added);
    }

    private Task ShowAsync(Job job, Running first, Func<Running, Running> change)
    {
        _running.AddOrUpdate(job.Id, first, (_, running) => change(running));
        _changes.Writer.TryWrite(new(job.Id, job.Owner, IsQueueChanged: false));
        return Task.CompletedTask;
    }

    private static string Name(JobStatus status) => status.ToString().ToLowerInvariant();

    private static long Now() => DateTimeOffset.UtcNow.ToUnixTimeMilliseconds();

    private SqliteConnection Open()
    {
        var connection = new SqliteConnection(_connectionString);
        connection.Open();
        return connection;
    }

    private Job? Change(bool isQueueChanged, string change, params (string Name, object? Value)[] parameters)
    {
        using var connection = Open();
        using var command = Command(connection, $"UPDATE jobs SET revision = revision + 1, {change} RETURNING {Columns}", parameters);
        var job = Read(command).SingleOrDefault();
        if (job is not null)
        {
            _changes.Writer.TryWrite(new(job.Id, job.Owner, isQueueChanged));
        }

        return job;
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

    private List<Job> Query(SqliteConnection connection, string filter, params (string Name, object? Value)[] parameters)
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

    private List<Job> Read(SqliteCommand command)
    {
        List<Job> jobs = [];
        using var row = command.ExecuteReader();
        while (row.Read())
        {
            var id = Guid.Parse(row.GetString(1));
            var running = _running.GetValueOrDefault(id);
            jobs.Add(
                new Job(row.GetInt64(0), id, row.GetString(2), JsonSerializer.Deserialize<JobSettings>(row.GetString(3), Json)!, row.GetInt64(4))
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
                    QueuePosition = row.IsDBNull(14) ? null : row.GetInt32(14),
                    Progress = running?.Progress,
                    PreviewStep = running?.Step,
                }
            );
        }

        return jobs;
    }

    private sealed record Running(JobProgress? Progress, int? Step, Preview? Preview);
}
