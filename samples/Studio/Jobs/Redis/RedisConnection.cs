using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace OpenSora.Studio.Jobs;

/// <summary>The connection to Redis. It is opened at the first use and again whenever it is lost.</summary>
internal sealed class RedisConnection(IOptions<StudioOptions> options) : IDisposable
{
    /// <summary>What all keys begin with. The braces keep them on one node of a cluster.</summary>
    public const string Prefix = "{studio}";

    private readonly Lazy<Task<ConnectionMultiplexer>> _connection = new(() => ConnectAsync(options.Value.Redis!));

    /// <summary>Calls Redis.</summary>
    /// <exception cref="JobStoreUnavailableException">Redis cannot be reached, or does not answer in time.</exception>
    public async Task<T> CallAsync<T>(Func<IDatabase, Task<T>> callAsync)
    {
        var connection = await _connection.Value;
        try
        {
            return await callAsync(connection.GetDatabase());
        }
        catch (Exception e) when (e is RedisException or TimeoutException)
        {
            var server = string.Join(", ", connection.GetEndPoints().Select(each => each.ToString()));
            throw new JobStoreUnavailableException($"The queue is not available: Redis at {server} does not answer. Try again in a moment.", e);
        }
    }

    public void Dispose()
    {
        if (_connection is { IsValueCreated: true, Value.IsCompletedSuccessfully: true })
        {
            _connection.Value.Result.Dispose();
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
