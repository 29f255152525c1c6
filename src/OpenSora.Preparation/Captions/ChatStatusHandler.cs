using System.Globalization;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;

namespace OpenSora.Preparation.Captions;

/// <summary>An HTTP handler that passes the errors of a chat server on to a <see cref="ChatCaptioner"/> unchanged: the status, the server's message
/// and the time to wait (<c>Retry-After</c>). Clients of different services report these in different ways, or not at all.</summary>
/// <remarks>Use it in the <see cref="HttpClient"/> of an Ollama or OpenAI client, and leave time-outs and retries to the captioner.</remarks>
public sealed class ChatStatusHandler : DelegatingHandler
{
    private const int MostBytes = 2048;

    /// <summary>Initializes a new instance that sends requests to the network.</summary>
    public ChatStatusHandler()
        : base(new SocketsHttpHandler { PooledConnectionLifetime = TimeSpan.FromMinutes(5) }) { }

    /// <summary>Initializes a new instance that sends requests through another handler.</summary>
    /// <param name="innerHandler">The handler that sends requests.</param>
    public ChatStatusHandler(HttpMessageHandler innerHandler)
        : base(innerHandler) { }

    /// <summary>Creates an HTTP client with this handler and without a time-out of its own.</summary>
    /// <param name="address">The base address of the server; null if the chat client knows it.</param>
    public static HttpClient CreateClient(Uri? address = null) =>
        new(new ChatStatusHandler()) { BaseAddress = address, Timeout = Timeout.InfiniteTimeSpan };

    /// <inheritdoc/>
    protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
    {
        var response = await base.SendAsync(request, cancellationToken).ConfigureAwait(false);
        if ((int)response.StatusCode < 400)
        {
            response.Content = await BoundedContent.OfAsync(response.Content, cancellationToken).ConfigureAwait(false);
            return response;
        }

        using (response)
        {
            var text = await StartOfAsync(response, cancellationToken).ConfigureAwait(false);
            throw new ChatStatusException(
                response.StatusCode,
                $"{request.RequestUri} answered {(int)response.StatusCode} ({response.ReasonPhrase})" + (text.Length > 0 ? $": {text}" : ""),
                WaitOf(response.Headers)
            );
        }
    }

    private static async Task<string> StartOfAsync(HttpResponseMessage response, CancellationToken cancellationToken)
    {
        try
        {
            var body = await response.Content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false);
            await using (body.ConfigureAwait(false))
            {
                var bytes = new byte[MostBytes];
                var count = await body.ReadAtLeastAsync(bytes, MostBytes, throwOnEndOfStream: false, cancellationToken).ConfigureAwait(false);
                return CaptionAnswer.OneLine(WordsOf(bytes.AsMemory(0, count)));
            }
        }
        catch (Exception e) when (e is IOException or HttpRequestException)
        {
            return ""; // the status is known, and says more than a broken connection
        }
    }

    // Ollama: {"error": "..."}; OpenAI: {"error": {"message": "..."}}.
    private static string WordsOf(ReadOnlyMemory<byte> body)
    {
        try
        {
            using var json = JsonDocument.Parse(body);
            if (json.RootElement.ValueKind is JsonValueKind.Object && json.RootElement.TryGetProperty("error", out var error))
            {
                error = error.ValueKind is JsonValueKind.Object && error.TryGetProperty("message", out var message) ? message : error;
                return error.ValueKind is JsonValueKind.String ? error.GetString()! : error.GetRawText();
            }
        }
        catch (JsonException)
        {
            // The text is shown as it is.
        }

        return Encoding.UTF8.GetString(body.Span);
    }

    private static TimeSpan? WaitOf(HttpResponseHeaders headers)
    {
        if (
            headers.TryGetValues("retry-after-ms", out var values)
            && double.TryParse(values.First(), NumberStyles.Float, CultureInfo.InvariantCulture, out var milliseconds)
            && milliseconds is >= 0 and < int.MaxValue
        )
        {
            return TimeSpan.FromMilliseconds(milliseconds);
        }

        var wait = headers.RetryAfter?.Delta ?? headers.RetryAfter?.Date - (headers.Date ?? DateTimeOffset.UtcNow);
        return wait < TimeSpan.Zero ? TimeSpan.Zero : wait;
    }
}
