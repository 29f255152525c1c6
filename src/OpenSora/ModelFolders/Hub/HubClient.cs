using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Runtime.CompilerServices;
using OpenSora.Weights;
using Polly;

namespace OpenSora.ModelFolders;

/// <summary>Speaks with the hub: repeats what fails for a while, follows redirects, and shows the token to the hub alone.</summary>
internal sealed class HubClient : IDisposable
{
    private const int MaxRedirects = 10,
        MaxListing = 64 << 20;

    private readonly HttpClient _http;
    private readonly Uri _endpoint;
    private readonly ModelHubOptions _options;
    private readonly ResiliencePipeline _retries;

    public HubClient(ModelHubOptions options, Uri endpoint, HttpMessageHandler? handler)
    {
        (_options, _endpoint, _retries) = (options, endpoint, HubRetries.Pipeline(options));
        _http = new HttpClient(
            handler ?? new SocketsHttpHandler { AllowAutoRedirect = false, ConnectTimeout = options.StallTimeout },
            disposeHandler: handler is null
        )
        {
            Timeout = Timeout.InfiniteTimeSpan,
        };
        _http.DefaultRequestHeaders.UserAgent.Add(
            new ProductInfoHeaderValue("OpenSora.Lib", typeof(HubClient).Assembly.GetName().Version?.ToString(2))
        );
        _http.DefaultRequestHeaders.AcceptEncoding.Add(new StringWithQualityHeaderValue("identity"));
    }

    /// <summary>The commit of a revision and the files in it.</summary>
    public Task<(string Commit, IReadOnlyList<string> Files)> ListAsync(string repository, string revision, CancellationToken cancellationToken) =>
        RepeatAsync(
            async () =>
            {
                var url = new Uri(_endpoint, $"api/models/{repository}/revision/{Uri.EscapeDataString(revision)}");
                using var response = await FollowAsync(HttpMethod.Get, url, null, stopAt: null, cancellationToken).ConfigureAwait(false);
                Check(response, $"'{repository}' at revision '{revision}'");
                using var listing = new MemoryStream();
                await foreach (var part in PartsAsync(response, cancellationToken).ConfigureAwait(false))
                {
                    if (listing.Length + part.Length > MaxListing)
                    {
                        throw new ModelHubException(
                            $"The hub's list of the files of '{repository}' is longer than {MaxListing >> 20} MB. Is the endpoint a hub?"
                        );
                    }

                    listing.Write(part.Span);
                }

                return HubListing.Parse(repository, listing.ToArray());
            },
            cancellationToken
        );

    /// <summary>A file's checksum and size, if the hub says it.</summary>
    public Task<(string Hash, long? Size)> DescribeAsync(string repository, string commit, string file, CancellationToken cancellationToken) =>
        RepeatAsync(
            async () =>
            {
                // Large files are redirected to a store, and the hub's own answer has what we need.
                using var response = await FollowAsync(
                        HttpMethod.Head,
                        UrlOf(repository, commit, file),
                        null,
                        stopAt: answer => Header(answer, "X-Linked-Etag") is not null,
                        cancellationToken
                    )
                    .ConfigureAwait(false);
                var linked = Header(response, "X-Linked-Etag");
                if (linked is null)
                {
                    Check(response, $"'{file}' of '{repository}'");
                }

                var tag = linked ?? Header(response, "ETag") ?? "";
                var hash = (tag.StartsWith("W/", StringComparison.Ordinal) ? tag[2..] : tag).Trim('"').ToLowerInvariant();
                if (!HubNames.IsHash(hash))
                {
                    throw new ModelHubException(
                        $"The hub says no checksum of '{file}' of '{repository}'; its tag is '{Shortened(tag)}'. "
                            + "Expected a SHA-256 or a git SHA-1. Is the endpoint a hub?"
                    );
                }

                var size =
                    Header(response, "X-Linked-Size") is { } text && long.TryParse(text, CultureInfo.InvariantCulture, out var said) ? said
                    : linked is null ? response.Content.Headers.ContentLength
                    : null;
                return (hash, size);
            },
            cancellationToken
        );

    /// <summary>Downloads a file, going on where an earlier download stopped.</summary>
    /// <param name="repository">The repository.</param>
    /// <param name="commit">The commit.</param>
    /// <param name="file">The file's path in it.</param>
    /// <param name="size">Its size; null where the hub did not say it.</param>
    /// <param name="path">What there is so far, or nothing.</param>
    /// <param name="report">Takes the bytes that are on disk.</param>
    /// <param name="cancellationToken">Ends the download; what there is stays.</param>
    public async Task DownloadAsync(
        string repository,
        string commit,
        string file,
        long? size,
        string path,
        Action<long> report,
        CancellationToken cancellationToken
    )
    {
        using var target = new FileStream(path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read, 1 << 20, FileOptions.Asynchronous);
        if (target.Length > (size ?? long.MaxValue))
        {
            target.SetLength(0);
        }

        var most = target.Length;
        while (size is null || target.Length < size)
        {
            var complete = await RepeatAsync(
                    async () =>
                    {
                        try
                        {
                            return await ContinueAsync(target).ConfigureAwait(false);
                        }
                        catch (Exception exception) when (HubRetries.IsTransient(exception, cancellationToken) && target.Length > most)
                        {
                            most = target.Length;
                            return false; // it failed, but not without progress
                        }
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
            if (complete)
            {
                break;
            }
        }

        await target.FlushAsync(cancellationToken).ConfigureAwait(false);
        target.Flush(flushToDisk: true);

        async Task<bool> ContinueAsync(FileStream stream)
        {
            var range = stream.Length == 0 ? null : new RangeHeaderValue(stream.Length, null);
            using var response = await FollowAsync(HttpMethod.Get, UrlOf(repository, commit, file), range, stopAt: null, cancellationToken)
                .ConfigureAwait(false);
            if (response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
            {
                stream.SetLength(0);
                throw new IOException("The server does not have the part that is missing.");
            }

            Check(response, $"'{file}' of '{repository}'");
            var resumes = response.StatusCode == HttpStatusCode.PartialContent;
            if (resumes && response.Content.Headers.ContentRange?.From != stream.Length)
            {
                stream.SetLength(0);
                throw new IOException("The server sends another part of the file than was asked for.");
            }

            if (!resumes)
            {
                stream.SetLength(0); // all of it comes, from the start
            }

            stream.Position = stream.Length;

            await foreach (var part in PartsAsync(response, cancellationToken).ConfigureAwait(false))
            {
                if (stream.Length + part.Length > (size ?? long.MaxValue))
                {
                    stream.SetLength(0);
                    throw new IOException($"The server sends more than the {size} bytes that the file has.");
                }

                await stream.WriteAsync(part, cancellationToken).ConfigureAwait(false);
                report(stream.Length);
            }

            if (size is { } expected && stream.Length < expected)
            {
                throw new IOException($"The connection ended after {stream.Length} of {expected} bytes.");
            }

            return true;
        }
    }

    public void Dispose() => _http.Dispose();

    // An answer as it comes, each part valid until the next; that none comes for a while ends it.
    private async IAsyncEnumerable<ReadOnlyMemory<byte>> PartsAsync(
        HttpResponseMessage response,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        using var content = await response.Content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false);
        var buffer = new byte[1 << 17];
        while (true)
        {
            using var watch = Watch(cancellationToken);
            var count = await content.ReadAsync(buffer, watch.Token).ConfigureAwait(false);
            if (count == 0)
            {
                yield break;
            }

            yield return buffer.AsMemory(0, count);
        }
    }

    private Uri UrlOf(string repository, string commit, string file) =>
        new(_endpoint, $"{repository}/resolve/{commit}/{string.Join('/', file.Split('/').Select(Uri.EscapeDataString))}");

    /// <summary>Sends a request, and again to where the answer leads.</summary>
    /// <param name="method">The method.</param>
    /// <param name="url">The address.</param>
    /// <param name="range">The part of the file that is wanted; null: all.</param>
    /// <param name="stopAt">Says of a redirect whether it is the answer already.</param>
    /// <param name="cancellationToken">Cancels.</param>
    private async Task<HttpResponseMessage> FollowAsync(
        HttpMethod method,
        Uri url,
        RangeHeaderValue? range,
        Func<HttpResponseMessage, bool>? stopAt,
        CancellationToken cancellationToken
    )
    {
        for (var hop = 0; hop <= MaxRedirects; hop++)
        {
            using var request = new HttpRequestMessage(method, url);
            request.Headers.Range = range;
            if (_options.ResolvedToken is { } token && IsEndpoint(url) && (IsEncrypted(url) || url.IsLoopback))
            {
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
            }

            using var watch = Watch(cancellationToken);
            var response = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, watch.Token).ConfigureAwait(false);
            if (
                (int)response.StatusCode is not (301 or 302 or 303 or 307 or 308)
                || response.Headers.Location is not { } location
                || stopAt?.Invoke(response) == true
            )
            {
                return response;
            }

            response.Dispose();
            var next = new Uri(url, location);
            if (!IsEncrypted(next) && (IsEncrypted(url) || !string.Equals(next.Scheme, Uri.UriSchemeHttp, StringComparison.Ordinal)))
            {
                throw new ModelHubException(
                    $"The hub redirects from {url.Scheme} to {next.Scheme} at '{next.Host}', which is less safe; it was not followed."
                );
            }

            url = next;
        }

        throw new ModelHubException($"The hub redirects more than {MaxRedirects} times.");
    }

    private static bool IsEncrypted(Uri url) => string.Equals(url.Scheme, Uri.UriSchemeHttps, StringComparison.Ordinal);

    private bool IsEndpoint(Uri url) =>
        Uri.Compare(url, _endpoint, UriComponents.SchemeAndServer, UriFormat.UriEscaped, StringComparison.OrdinalIgnoreCase) == 0;

    private async Task<T> RepeatAsync<T>(Func<Task<T>> action, CancellationToken cancellationToken)
    {
        try
        {
            return await _retries.ExecuteAsync(async _ => await action().ConfigureAwait(false), cancellationToken).ConfigureAwait(false);
        }
        catch (Exception exception) when (HubRetries.IsTransient(exception, cancellationToken))
        {
            var reason = exception is OperationCanceledException ? $"no data arrived for {_options.StallTimeout.TotalSeconds} s." : exception.Message;
            throw new ModelHubException(
                $"The hub at {_endpoint.Host} could not be reached or did not finish in {_options.Retries + 1} attempts: {reason} "
                    + "What was downloaded is kept; try again later, or use what is in the cache with ModelHubOptions.Offline.",
                (exception as HubBusyException)?.Status,
                exception
            );
        }
    }

    private CancellationTokenSource Watch(CancellationToken cancellationToken)
    {
        var source = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        source.CancelAfter(_options.StallTimeout);
        return source;
    }

    /// <summary>Throws what an answer that is no success means.</summary>
    private void Check(HttpResponseMessage response, string what)
    {
        if (response.IsSuccessStatusCode)
        {
            return;
        }

        var said = Header(response, "X-Error-Message") is { Length: > 0 } message ? $" It says: {Shortened(message)}" : "";
        var (status, code) = (response.StatusCode, (int)response.StatusCode);
        throw status switch
        {
            HttpStatusCode.RequestTimeout or HttpStatusCode.TooManyRequests or >= HttpStatusCode.InternalServerError => new HubBusyException(
                $"it answers {code} for {what}.{said}",
                status,
                response.Headers.RetryAfter is { } after ? after.Delta ?? after.Date - DateTimeOffset.UtcNow : null
            ),
            HttpStatusCode.Unauthorized => new ModelHubException(
                $"The hub refuses {what} (401): it does not exist, or it is for certain people only. "
                    + (
                        _options.ResolvedToken is null
                            ? "Check the name, or set HF_TOKEN or ModelHubOptions.Token."
                            : "Check the name and whether the token is valid."
                    )
                    + said,
                status
            ),
            HttpStatusCode.Forbidden => new ModelHubException(
                $"The hub refuses {what} (403): its terms may have to be accepted on its page first, by whom the token belongs to.{said}",
                status
            ),
            HttpStatusCode.NotFound => new ModelHubException(
                $"The hub has no {what} (404). Check the names of the repository, the revision and the file.{said}",
                status
            ),
            _ => new ModelHubException($"The hub answers {code} for {what}.{said}", status),
        };
    }

    private static string? Header(HttpResponseMessage response, string name) =>
        response.Headers.TryGetValues(name, out var values) ? values.FirstOrDefault() : null;

    internal static string Shortened(string text) => text.Length > 200 ? text[..200] + "..." : text;
}
