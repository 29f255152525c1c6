using System.Net;
using System.Threading.RateLimiting;
using Microsoft.Extensions.AI;
using Polly;
using Polly.Retry;
using Polly.Timeout;

namespace OpenSora.Preparation.Captions;

/// <summary>Sends requests to a chat service: a bounded number at the same time and in a minute, each with a time-out, repeated after failures that
/// can pass.</summary>
internal sealed class ChatRequests : IDisposable
{
    private readonly IChatClient _client;
    private readonly ChatCaptionerOptions _options;
    private readonly RateLimiter? _rate;
    private readonly ResiliencePipeline _clip,
        _attempt;
    private long _resumeTicks; // no request is sent before this time, because the server asked for it
    private int _failuresInARow;

    internal ChatRequests(IChatClient client, ChatCaptionerOptions options)
    {
        (_client, _options) = (client, options);
        _rate = options.RequestsPerMinute is { } perMinute ? LimiterFor(perMinute) : null;
        var clip = new ResiliencePipelineBuilder().AddConcurrencyLimiter(options.MaxConcurrentRequests, int.MaxValue);
        if (options.MaxRetries > 0)
        {
            clip.AddRetry(
                new RetryStrategyOptions
                {
                    MaxRetryAttempts = options.MaxRetries,
                    BackoffType = DelayBackoffType.Exponential,
                    UseJitter = true,
                    Delay = options.RetryDelay,
                    MaxDelay = options.MaxRetryDelay,
                    ShouldHandle = arguments => ValueTask.FromResult(CanRepeat(arguments.Outcome.Exception, arguments.Context.CancellationToken)),
                    DelayGenerator = arguments => ValueTask.FromResult(WaitOf(arguments.Outcome.Exception)),
                }
            );
        }

        _clip = clip.Build();
        var attempt = new ResiliencePipelineBuilder();
        if (_rate is not null)
        {
            attempt.AddRateLimiter(_rate);
        }

        _attempt = attempt.AddTimeout(options.RequestTimeout).Build();
    }

    public void Dispose() => _rate?.Dispose();

    /// <summary>Sends a request.</summary>
    /// <returns>The response; or null, and the result that says why there is none.</returns>
    /// <exception cref="CaptionServerException">The server cannot be used at all.</exception>
    internal async Task<(ChatResponse? Response, CaptionResult? Failure)> SendAsync(
        ChatMessage message,
        ChatOptions options,
        CancellationToken cancellationToken
    )
    {
        try
        {
            var response = await _clip
                .ExecuteAsync(
                    async token =>
                    {
                        await PauseAsync(token).ConfigureAwait(false);
                        return await _attempt
                            .ExecuteAsync(async inner => await _client.GetResponseAsync([message], options, inner).ConfigureAwait(false), token)
                            .ConfigureAwait(false);
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
            Interlocked.Exchange(ref _failuresInARow, 0);
            return (response, null);
        }
        catch (Exception e) when (!cancellationToken.IsCancellationRequested)
        {
            var status = StatusOf(e);
            if (status is HttpStatusCode.Unauthorized or HttpStatusCode.Forbidden or HttpStatusCode.NotFound or HttpStatusCode.MethodNotAllowed)
            {
                throw new CaptionServerException(
                    $"The server does not write captions: {MessageOf(e)} Check its address, the key and the name of the model '{options.ModelId}'; "
                        + "Ollama needs 'ollama pull' before a model can be used.",
                    e
                );
            }

            if (Interlocked.Increment(ref _failuresInARow) >= _options.MaxFailuresInARow)
            {
                throw new CaptionServerException(
                    $"{_options.MaxFailuresInARow} clips in a row have no captions because of the server; the last error: {MessageOf(e)} "
                        + "Check whether the server is running and has enough memory, then continue: finished captions are kept.",
                    e
                );
            }

            return (null, CaptionResult.None(ReasonOf(e, status), MessageOf(e), IsTemporary(e)));
        }
    }

    private static TokenBucketRateLimiter LimiterFor(int perMinute)
    {
        const int mostPeriods = 1200; // of 50 ms; timers are not precise enough for shorter ones
        var periods = Math.Min(perMinute, mostPeriods);
        return new TokenBucketRateLimiter(
            new TokenBucketRateLimiterOptions
            {
                TokenLimit = perMinute / periods,
                TokensPerPeriod = perMinute / periods,
                ReplenishmentPeriod = TimeSpan.FromMinutes(1.0 / periods),
                QueueLimit = int.MaxValue,
                QueueProcessingOrder = QueueProcessingOrder.OldestFirst,
            }
        );
    }

    private async Task PauseAsync(CancellationToken cancellationToken)
    {
        while (Interlocked.Read(ref _resumeTicks) - DateTime.UtcNow.Ticks is > 0 and var ticks)
        {
            await Task.Delay(TimeSpan.FromTicks(ticks) + TimeSpan.FromMilliseconds(1), cancellationToken).ConfigureAwait(false);
        }
    }

    // The time that the server asked for applies to all requests, not only to the one that it refused.
    private TimeSpan? WaitOf(Exception? exception)
    {
        if (Find<ChatStatusException>(exception)?.RetryAfter is not { } wait)
        {
            return null;
        }

        var resume = (DateTime.UtcNow + wait).Ticks;
        for (var seen = Interlocked.Read(ref _resumeTicks); seen < resume; )
        {
            var before = Interlocked.CompareExchange(ref _resumeTicks, resume, seen);
            if (before == seen)
            {
                break;
            }

            seen = before;
        }

        return wait;
    }

    private bool CanRepeat(Exception? exception, CancellationToken cancellationToken) =>
        exception is not null
        && !cancellationToken.IsCancellationRequested
        && IsTemporary(exception)
        && (Find<ChatStatusException>(exception)?.RetryAfter ?? TimeSpan.Zero) <= _options.MaxRetryDelay;

    private static bool IsTemporary(Exception exception) =>
        StatusOf(exception) switch
        {
            null => true, // no connection, a broken connection, a time-out or an answer that cannot be read
            HttpStatusCode.RequestTimeout or HttpStatusCode.TooManyRequests or (HttpStatusCode)425 => true,
            var status => (int)status >= 500,
        };

    private static string ReasonOf(Exception exception, HttpStatusCode? status) =>
        status switch
        {
            HttpStatusCode.TooManyRequests => "the server is overloaded",
            { } code when (int)code >= 500 => "server error",
            { } => "rejected by the server",
            null when exception is TimeoutRejectedException or OperationCanceledException => "no answer in time",
            null when Find<HttpRequestException>(exception) is not null || Find<IOException>(exception) is not null => "no connection to the server",
            null => "unreadable answer",
        };

    private static string MessageOf(Exception exception)
    {
        var message = (Find<ChatStatusException>(exception) ?? exception).Message;
        return message is [.., '.' or '!' or '?'] ? message : message + ".";
    }

    private static HttpStatusCode? StatusOf(Exception? exception) => Find<HttpRequestException>(exception)?.StatusCode;

    private static T? Find<T>(Exception? exception)
        where T : Exception
    {
        for (var each = exception; each is not null; each = each.InnerException)
        {
            if (each is T found)
            {
                return found;
            }
        }

        return null;
    }
}
