using System.Net;

namespace OpenSora.Preparation.Captions;

/// <summary>The exception that is thrown when the server that writes captions cannot be used at all: the model or the key is wrong, or many requests
/// in a row failed. Captions that were written before remain in the cache, so the work can be continued later.</summary>
public sealed class CaptionServerException : IOException
{
    /// <summary>Initializes a new instance.</summary>
    /// <param name="message">The message, which says what to do.</param>
    /// <param name="innerException">The cause.</param>
    public CaptionServerException(string message, Exception? innerException = null)
        : base(message, innerException) { }
}

/// <summary>An error that a server answered, with what clients of chat services leave out: the time to wait and the server's own words.</summary>
internal sealed class ChatStatusException(HttpStatusCode status, string message, TimeSpan? retryAfter)
    : HttpRequestException(message, inner: null, status)
{
    /// <summary>The time after which the server accepts requests again; null if it did not say.</summary>
    public TimeSpan? RetryAfter { get; } = retryAfter;
}
