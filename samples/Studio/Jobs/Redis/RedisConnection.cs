using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace OpenSora.Studio.Jobs;

/// <summary>The connection to Redis. It is opened at the first use and again whenever it is lost.</summary>
internal sealed class RedisConnection(IOptions<StudioOptions> options) : IAsyncDisposable
{
    /// <summary>What all keys begin with. The braces keep them on one node of a cluster.</summary>
    public const string Prefix = "{studio}";

    private readonly Lazy<Task<ConnectionMultiplexer>> _connection = new(() => ConnectAsync(options.Value.Redis!));

    /// <summary>Calls Redis.</summary>
    /// <exception cref="JobStoreUnavailableException">Redis cannot be reached, does not answer in time, or reports an error.</exception>
    public async Task<T> CallAsync<T>(Func<IDatabase, Task<T>> callAsync)
    {
        var connection = await _connection.Value;
        try
        {
            return await callAsync(connection.GetDatabase());
        }
        catch (Exception e) when (e is RedisException or TimeoutException)
        {
            var server = string.Join(", ", connection.GetEndPoints().Select(EndPointCollection.ToString));
            var problem = e is RedisServerException ? $"reports '{e.Message}'" : "does not answer";
            throw new JobStoreUnavailableException($"The queue is not available: Redis at {server} {problem}. Try again in a moment.", e);
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (_connection.IsValueCreated)
        {
            await (await _connection.Value).DisposeAsync();
        }
    }

    private static async Task<ConnectionMultiplexer> ConnectAsync(string setting)
    {
        var configuration = ConfigurationOptions.Parse(setting);
        configuration.AbortOnConnectFail = false; // Studio can start before Redis
        configuration.ReconnectRetryPolicy = new LinearRetry(500);
        return await ConnectionMultiplexer.ConnectAsync(configuration);
    }
}
