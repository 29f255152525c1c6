using System.Text.Json;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using StackExchange.Redis;

namespace OpenSora.Studio.Jobs;

/// <summary>Stores the description of the worker's model in Redis, for processes that do not load it.</summary>
internal sealed partial class RedisModelPublisher(RedisConnection redis, IVideoGenerator generator, ILogger<RedisModelPublisher> logger)
    : BackgroundService
{
    /// <summary>The key of the description, a JSON document.</summary>
    public const string Key = RedisConnection.Prefix + ":model";

    // Again and again, because Redis may have been away, or started with an empty database.
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(TimeSpan.FromSeconds(5));
        do
        {
            try
            {
                var model = JsonSerializer.Serialize(await generator.DescribeAsync(stoppingToken));
                await redis.CallAsync(database => database.StringSetAsync(Key, model));
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                LogNotPublished(e);
            }
        } while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "The description of the model could not be published; it is tried again")]
    private partial void LogNotPublished(Exception e);
}

/// <summary>Describes the model of the workers in a process that does not load it and does not generate.</summary>
internal sealed class RedisModelReader(RedisConnection redis) : IVideoGenerator
{
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(500);

    // Waits for Redis, too.
    public async Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        while (true)
        {
            try
            {
                await DescribeAsync(cancellationToken);
                return;
            }
            catch (JobStoreUnavailableException)
            {
                await Task.Delay(PollInterval, cancellationToken);
            }
        }
    }

    // Waits for the first worker.
    public async Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default)
    {
        while (true)
        {
            var model = await redis.CallAsync(database => database.StringGetAsync(RedisModelPublisher.Key));
            if (!model.IsNull)
            {
                return JsonSerializer.Deserialize<ModelDescription>(model.ToString())!;
            }

            await Task.Delay(PollInterval, cancellationToken);
        }
    }

    public Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => throw new NotSupportedException("This process does not generate videos. Set Studio:Role to Both or Worker.");
}
