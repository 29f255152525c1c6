using System.Globalization;
using System.Text.Json;
using System.Threading.Channels;
using Microsoft.Extensions.Options;
using OpenSora.Studio.Api;
using StackExchange.Redis;

namespace OpenSora.Studio.Jobs;

/// <summary>The jobs of any number of processes in Redis. Users take turns. The script jobs.lua makes every change and describes the keys; this class
/// calls it, and reads the stream of changes.</summary>
internal sealed partial class RedisJobStore(RedisConnection redis, IOptions<StudioOptions> options, ILogger<RedisJobStore> logger)
    : BackgroundService,
        IJobStore
{
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(100);
    private static readonly JsonSerializerOptions Json = JsonSerializerOptions.Web;
    private static readonly string Script = ReadScript();
    private static readonly string Worker = $"{Environment.MachineName}:{Environment.ProcessId}"; // for people who look at the stream
    private static readonly RedisKey[] Keys = [RedisConnection.Prefix];

    private readonly Channel<JobChange> _changes = Channel.CreateUnbounded<JobChange>();
    private readonly StudioOptions _options = options.Value;

    public ChannelReader<JobChange> Changes => _changes.Reader;

    private long LeaseMilliseconds => _options.LeaseSeconds * 1000L;

    public async Task<(AddOutcome Outcome, Job? Job)> AddAsync(Job job)
    {
        var answer = (RedisResult[])
            (
                await CallAsync(
                    "add",
                    Text(job.Id),
                    job.Owner,
                    JsonSerializer.Serialize(job.Settings, Json),
                    job.Seed,
                    job.Words,
                    _options.MaxJobs,
                    _options.MaxJobsPerUser
                )
            )!;
        var found = answer.Length > 1 ? Read(answer[1]) : null;
        return (string?)answer[0] switch
        {
            "added" => (AddOutcome.Added, found),
            "exists" => (found!.Compare(job), found),
            "user" => (AddOutcome.UserLimit, null),
            _ => (AddOutcome.ServerLimit, null),
        };
    }

    public async Task<Job?> FindAsync(Guid id) => Read(await CallAsync("find", Text(id)));

    public async Task<IReadOnlyList<Job>> ListAsync(
        string owner,
        string? search = null,
        JobStatus? status = null,
        long? before = null,
        int limit = 20
    )
    {
        RedisValue[] filter = [owner, status is { } one ? Name(one) : "", before is { } number ? $"({number}" : "+inf", limit];
        var jobs = await CallAsync("list", [.. filter, .. Job.Split(search).Select(word => (RedisValue)word)]);
        return [.. ((RedisResult[])jobs!).Select(job => Read(job)!)];
    }

    public async Task<int> CountQueuedAsync() => (int)await CallAsync("count");

    public async Task<Job?> TryTakeAsync() =>
        Read(await CallAsync("take", Worker, LeaseMilliseconds, _options.MaxAttempts, Job.Interrupted(_options.MaxAttempts)));

    public Task WaitAsync(CancellationToken cancellationToken) => Task.Delay(PollInterval, cancellationToken);

    public async Task<bool> RenewAsync(Job job) => (bool)await CallAsync("renew", Text(job.Id), job.Lease, Worker, LeaseMilliseconds);

    public Task ShowProgressAsync(Job job, JobProgress progress) =>
        CallAsync("progress", Text(job.Id), job.Lease, JsonSerializer.Serialize(progress, Json));

    public Task ShowPreviewAsync(Job job, int step, Preview preview) =>
        CallAsync("preview", Text(job.Id), job.Lease, step, preview.Bytes, preview.ContentType);

    public async Task<Preview?> FindPreviewAsync(Guid id) =>
        (RedisValue[])(await CallAsync("picture", Text(id)))! is [{ IsNull: false } bytes, var type] ? new((byte[])bytes!, type.ToString()) : null;

    public async Task<Job?> FinishAsync(Job job, JobStatus status, JobResult? result = null, string? error = null)
    {
        List<RedisValue> fields = ["status", Name(status)];
        if (result is not null)
        {
            fields.AddRange(["result", JsonSerializer.Serialize(result, Json)]);
        }

        if (error is not null)
        {
            fields.AddRange(["error", error]);
        }

        return Read(await CallAsync("finish", [Text(job.Id), job.Lease, .. fields]));
    }

    public async Task<Job?> RequeueAsync(Job job) => Read(await CallAsync("requeue", Text(job.Id), job.Lease));

    public async Task<Job?> RequestCancelAsync(Guid id) => Read(await CallAsync("cancel", Text(id)));

    public async Task<bool> DeleteAsync(Guid id) => (bool)await CallAsync("delete", Text(id));

    // Reads the stream of changes. It begins with the oldest one, because reading a job once more does no harm. Nothing is missed
    // while Redis is away.
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var last = (RedisValue)"0-0";
        var isAvailable = true;
        while (true)
        {
            try
            {
                var entries = await redis.CallAsync(database => database.StreamReadAsync($"{RedisConnection.Prefix}:events", last, 1000));
                foreach (var entry in entries)
                {
                    _changes.Writer.TryWrite(new(Guid.Parse(entry["id"].ToString()), entry["owner"].ToString(), (bool)entry["queue"]));
                    last = entry.Id;
                }

                if (!isAvailable)
                {
                    LogAvailable();
                    isAvailable = true;
                }

                if (entries.Length > 0)
                {
                    continue;
                }
            }
            catch (JobStoreUnavailableException e)
            {
                if (isAvailable)
                {
                    LogUnavailable(e.Message, e);
                    isAvailable = false;
                }
            }

            await Task.Delay(PollInterval, stoppingToken);
        }
    }

    private Task<RedisResult> CallAsync(string command, params RedisValue[] arguments) =>
        redis.CallAsync(database => database.ScriptEvaluateAsync(Script, Keys, [command, .. arguments]));

    private static Job? Read(RedisResult answer)
    {
        if (answer.IsNull)
        {
            return null;
        }

        var fields = answer.ToDictionary(StringComparer.Ordinal);
        return new Job(
            (long)fields["number"],
            Guid.Parse((string)fields["id"]!),
            (string)fields["owner"]!,
            JsonSerializer.Deserialize<JobSettings>((string)fields["settings"]!, Json)!,
            (long)fields["seed"]
        )
        {
            Status = Enum.Parse<JobStatus>((string)fields["status"]!, ignoreCase: true),
            Created = Time("created")!.Value,
            Started = Time("started"),
            Finished = Time("finished"),
            Attempts = (int)fields["attempts"],
            CancelRequested = fields.ContainsKey("cancel_requested"),
            Revision = (long)fields["revision"],
            Error = Field("error"),
            Result = Field("result") is { } result ? JsonSerializer.Deserialize<JobResult>(result, Json) : null,
            QueuePosition = Number("position"),
            Progress = Field("progress") is { } progress ? JsonSerializer.Deserialize<JobProgress>(progress, Json) : null,
            PreviewStep = Number("preview_step"),
            Lease = fields.TryGetValue("lease", out var lease) ? (long)lease : 0,
        };

        string? Field(string name) => fields.TryGetValue(name, out var value) ? (string?)value : null;

        int? Number(string name) => fields.TryGetValue(name, out var value) ? (int)value : null;

        DateTimeOffset? Time(string name) => fields.TryGetValue(name, out var value) ? DateTimeOffset.FromUnixTimeMilliseconds((long)value) : null;
    }

    private static string Text(Guid id) => id.ToString();

    private static string Name(JobStatus status) => status.ToString().ToLower(CultureInfo.InvariantCulture);

    private static string ReadScript()
    {
        using var reader = new StreamReader(typeof(RedisJobStore).Assembly.GetManifestResourceStream("jobs.lua")!);
        return reader.ReadToEnd();
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Message}")]
    private partial void LogUnavailable(string message, Exception e);

    [LoggerMessage(Level = LogLevel.Information, Message = "Redis is available again")]
    private partial void LogAvailable();
}
