using System.Net;
using Polly;
using Polly.Retry;

namespace OpenSora.ModelFolders;

/// <summary>Decides which failed requests to the hub are repeated, and when.</summary>
internal static class HubRetries
{
    private static readonly TimeSpan MaxWait = TimeSpan.FromMinutes(1);

    /// <summary>Creates the policy that repeats requests. It waits twice as long after every attempt, and at least as long as a busy hub
    /// asks for.</summary>
    public static ResiliencePipeline Pipeline(ModelHubOptions options) =>
        options.Retries == 0
            ? ResiliencePipeline.Empty
            : new ResiliencePipelineBuilder()
                .AddRetry(
                    new RetryStrategyOptions
                    {
                        MaxRetryAttempts = options.Retries,
                        ShouldHandle = args =>
                            ValueTask.FromResult(args.Outcome.Exception is { } exception && IsTransient(exception, args.Context.CancellationToken)),
                        DelayGenerator = args =>
                        {
                            var wait = options.RetryDelay * Math.Pow(2, Math.Min(args.AttemptNumber, 16));
                            if (args.Outcome.Exception is HubBusyException { Wait: { } asked } && asked > wait)
                            {
                                wait = asked;
                            }

                            return ValueTask.FromResult<TimeSpan?>(wait < MaxWait ? wait : MaxWait);
                        },
                    }
                )
                .Build();

    /// <summary>Returns whether a request that failed with this exception may succeed when it is repeated.</summary>
    public static bool IsTransient(Exception exception, CancellationToken cancellationToken) =>
        !cancellationToken.IsCancellationRequested
        && (
            exception is HubBusyException or (HttpRequestException and not ModelHubException) or OperationCanceledException
            || (exception is IOException and not (FileNotFoundException or DirectoryNotFoundException) && !IsDisk(exception))
        );

    // Errors of the connection have the code of IOException itself; those of the disk one of the system's.
    private static bool IsDisk(Exception exception) =>
        exception is not HttpIOException && exception.InnerException is null && exception.HResult != new IOException().HResult;
}

/// <summary>The hub is overloaded, or the client has sent too many requests; a later request may succeed.</summary>
internal sealed class HubBusyException(string message, HttpStatusCode status, TimeSpan? wait) : Exception(message)
{
    public HttpStatusCode Status { get; } = status;

    public TimeSpan? Wait { get; } = wait;
}
