using System.Globalization;
using System.Net;
using System.Net.Http.Headers;

namespace OpenSora.Preparation.PublicSets.Downloads;

/// <summary>Downloads one file into a partial file that later attempts continue.</summary>
internal sealed class FileTransfer(
    HttpClient http,
    DownloadOptions options,
    TimeProvider time,
    DownloadLedger ledger,
    Func<string, long> freeBytes,
    Action<int> received
)
{
    private const int BufferBytes = 1 << 16;

    private static readonly string[] KnownExtensions = (
        ".avi .flv .gif .jpeg .jpg .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .png .ts .webm .webp .wmv"
    ).Split(' ');

    /// <summary>Sends one request and appends what it returns to the partial file.</summary>
    /// <param name="address">The address.</param>
    /// <param name="row">The row of the ledger; its ETag and time tell whether the partial file can be continued.</param>
    /// <param name="part">The path of the partial file.</param>
    /// <param name="host">The host.</param>
    /// <param name="cancellationToken">Stops the download; what was received stays.</param>
    /// <returns>The row with what the server said of the file, and the extension for its type.</returns>
    /// <exception cref="DownloadFailure">The file is not complete.</exception>
    internal async Task<(LedgerFile Row, string Extension)> ReceiveAsync(
        Uri address,
        LedgerFile row,
        string part,
        Host host,
        CancellationToken cancellationToken
    )
    {
        using var slot = await host.EnterAsync(cancellationToken).ConfigureAwait(false);
        var have = Length(part);
        RangeConditionHeaderValue? condition =
            row.ETag is { } tag && EntityTagHeaderValue.TryParse(tag, out var parsed) && !parsed.IsWeak ? new(parsed)
            : row.LastModified is { } changed ? new(changed)
            : null;
        using var request = Request(address);
        if (have > 0 && condition is not null)
        {
            request.Headers.Range = new RangeHeaderValue(have, null);
            request.Headers.IfRange = condition;
        }

        using var stall = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        stall.CancelAfter(options.StallTimeout);
        using var response = await NetworkAsync(
                () => http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, stall.Token),
                cancellationToken
            )
            .ConfigureAwait(false);
        if (response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable && have > 0)
        {
            File.Delete(part);
            throw DownloadFailure.Passing("range is not available", "The server does not have the rest of the file that it sent before.");
        }

        CheckStatus(response, host);
        var headers = response.Content.Headers;
        var isRest = response.StatusCode == HttpStatusCode.PartialContent;
        if (isRest && (request.Headers.Range is null || headers.ContentRange?.From != have || IsOther(response, row)))
        {
            File.Delete(part);
            throw DownloadFailure.Passing("file changed on the server", "The server sent a part of another version of the file.");
        }

        var total = isRest ? headers.ContentRange!.Length : headers.ContentLength;
        CheckType(headers);
        if (total > options.MaxFileBytes)
        {
            throw TooLarge(total.Value);
        }

        // Recorded before the first byte is written: a partial file always belongs to the recorded version.
        have = isRest ? have : 0;
        row = row with
        {
            State = DownloadState.Partial,
            Reason = null,
            Message = null,
            IsFinal = false,
            Bytes = total,
            ETag = response.Headers.ETag?.ToString() ?? (isRest ? row.ETag : null),
            LastModified = headers.LastModified ?? (isRest ? row.LastModified : null),
        };
        if (!isRest)
        {
            File.Delete(part);
        }

        ledger.Save(row);
        CheckSpace((total ?? 0) - have);
        await CopyAsync(response, part, have, total, host, stall, cancellationToken).ConfigureAwait(false);
        return (row, Extension(address, headers.ContentType?.MediaType));
    }

    /// <summary>Reads the rules of robots.txt. A host that has none, or does not let us read it, allows everything.</summary>
    internal async Task<RobotsRules> RobotsAsync(Uri address, Host host, CancellationToken cancellationToken)
    {
        const int longest = 512_000; // RFC 9309 asks for at least 500 KiB
        using var slot = await host.EnterAsync(cancellationToken).ConfigureAwait(false);
        using var stall = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        stall.CancelAfter(options.StallTimeout);
        using var request = Request(new Uri(address, "/robots.txt"));
        using var response = await NetworkAsync(
                () => http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, stall.Token),
                cancellationToken
            )
            .ConfigureAwait(false);
        if ((int)response.StatusCode is >= 400 and < 500 and not 429)
        {
            return RobotsRules.None;
        }

        CheckStatus(response, host);
        using var content = await NetworkAsync(() => response.Content.ReadAsStreamAsync(stall.Token), cancellationToken).ConfigureAwait(false);
        var bytes = new byte[longest];
        var count = await NetworkAsync(
                () => content.ReadAtLeastAsync(bytes, longest, throwOnEndOfStream: false, stall.Token).AsTask(),
                cancellationToken
            )
            .ConfigureAwait(false);
        return RobotsRules.Parse(System.Text.Encoding.UTF8.GetString(bytes, 0, count), options.UserAgent);
    }

    internal static long Length(string path) => new FileInfo(path) is { Exists: true } file ? file.Length : 0;

    /// <summary>Throws if the disk has no room for more bytes.</summary>
    internal void CheckSpace(long bytes)
    {
        if (freeBytes(ledger.Folder) is var free && free - bytes < options.MinFreeBytes)
        {
            throw new PreparationException(
                "disk is full",
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"The disk of '{ledger.Folder}' has {free:N0} free bytes; {bytes:N0} are needed, and {options.MinFreeBytes:N0} must remain free. "
                ) + "Make room or lower MinFreeBytes; the next run continues."
            );
        }
    }

    private async Task CopyAsync(
        HttpResponseMessage response,
        string part,
        long have,
        long? total,
        Host host,
        CancellationTokenSource stall,
        CancellationToken cancellationToken
    )
    {
        using var content = await NetworkAsync(() => response.Content.ReadAsStreamAsync(stall.Token), cancellationToken).ConfigureAwait(false);
        var file = new FileStream(part, FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read, 1, FileOptions.Asynchronous);
        await using (file.ConfigureAwait(false))
        {
            file.Seek(0, SeekOrigin.End);
            var buffer = new byte[BufferBytes];
            while (true)
            {
                stall.CancelAfter(options.StallTimeout);
                var count = await NetworkAsync(() => content.ReadAsync(buffer, stall.Token).AsTask(), cancellationToken).ConfigureAwait(false);
                stall.CancelAfter(Timeout.InfiniteTimeSpan);
                if (count == 0)
                {
                    break;
                }

                if (have == 0 && IsHtml(buffer.AsSpan(0, count)))
                {
                    throw DownloadFailure.Final("content is HTML", "The server sent a web page instead of the file.");
                }

                have += count;
                if (have > options.MaxFileBytes)
                {
                    throw TooLarge(have);
                }

                await file.WriteAsync(buffer.AsMemory(0, count), cancellationToken).ConfigureAwait(false);
                received(count);
                await host.SpendAsync(count, cancellationToken).ConfigureAwait(false);
            }

            file.Flush(flushToDisk: true);
        }

        if (have == 0)
        {
            throw DownloadFailure.Final("file is empty", "The server sent a file without contents.");
        }

        if (total is { } expected && have != expected)
        {
            if (have > expected)
            {
                File.Delete(part);
            }

            throw DownloadFailure.Passing("wrong length", $"The server sent {have} bytes of a file of {expected} bytes.");
        }
    }

    private HttpRequestMessage Request(Uri address)
    {
        var request = new HttpRequestMessage(HttpMethod.Get, address);
        request.Headers.TryAddWithoutValidation("User-Agent", options.UserAgent);
        request.Headers.AcceptEncoding.Add(new StringWithQualityHeaderValue("identity"));
        return request;
    }

    private static async Task<T> NetworkAsync<T>(Func<Task<T>> action, CancellationToken cancellationToken)
    {
        try
        {
            return await action().ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
        {
            throw DownloadFailure.Passing("no data in time", "The server sent nothing for the stall timeout.", cause: e);
        }
        catch (HttpRequestException e)
        {
            throw DownloadFailure.Passing("connection failed", e.Message, cause: e);
        }
        catch (IOException e)
        {
            throw DownloadFailure.Passing("connection was cut", e.Message, cause: e);
        }
    }

    private void CheckStatus(HttpResponseMessage response, Host host)
    {
        var status = (int)response.StatusCode;
        if (status is 200 or 206)
        {
            return;
        }

        var reason = string.Create(CultureInfo.InvariantCulture, $"status {status}");
        if (status is 408 or 425 or 429 or >= 500)
        {
            var asked = response.Headers.RetryAfter is { } after ? after.Delta ?? after.Date - time.GetUtcNow() : null;
            var wait = asked > TimeSpan.Zero ? asked : null;
            if (wait is not null || status is 429 or 503)
            {
                host.Pause(wait ?? options.RetryDelay);
            }

            throw DownloadFailure.Passing(reason, $"The server answered {status} ({response.ReasonPhrase}).", wait);
        }

        throw DownloadFailure.Final(
            status switch
            {
                401 or 403 => "forbidden",
                404 or 410 => "not found",
                _ => reason,
            },
            $"The server answered {status} ({response.ReasonPhrase})."
        );
    }

    private void CheckType(HttpContentHeaders headers)
    {
        if (headers.ContentEncoding.Count > 0)
        {
            throw DownloadFailure.Final(
                "compressed content",
                $"The server sent the file with encoding {string.Join(", ", headers.ContentEncoding)}."
            );
        }

        var type = headers.ContentType?.MediaType;
        if (
            type is not null
            && !options.ContentTypes.Any(accepted =>
                accepted.EndsWith('/')
                    ? type.StartsWith(accepted, StringComparison.OrdinalIgnoreCase)
                    : type.Equals(accepted, StringComparison.OrdinalIgnoreCase)
            )
        )
        {
            throw DownloadFailure.Final($"content type {type.ToLowerInvariant()}", $"The server sent {type}, which is not an accepted content type.");
        }
    }

    private DownloadFailure TooLarge(long bytes) =>
        DownloadFailure.Final("too large", $"The file has {bytes} bytes or more; the limit is {options.MaxFileBytes}.");

    // Servers may ignore If-Range and send a part of a file that changed.
    private static bool IsOther(HttpResponseMessage response, LedgerFile row) =>
        (response.Headers.ETag is { } tag && row.ETag is { } known && !string.Equals(tag.ToString(), known, StringComparison.Ordinal))
        || (response.Content.Headers.LastModified is { } changed && row.LastModified is { } then && changed != then)
        || (response.Content.Headers.ContentRange?.Length is { } total && row.Bytes is { } bytes && total != bytes);

    private static bool IsHtml(ReadOnlySpan<byte> start)
    {
        var text = System
            .Text.Encoding.Latin1.GetString(start[..Math.Min(start.Length, 256)])
            .Replace("\u00EF\u00BB\u00BF", "", StringComparison.Ordinal);
        text = text.TrimStart();
        return text.StartsWith("<!doctype", StringComparison.OrdinalIgnoreCase)
            || text.StartsWith("<html", StringComparison.OrdinalIgnoreCase)
            || text.StartsWith("<head", StringComparison.OrdinalIgnoreCase);
    }

    private static string Extension(Uri address, string? type)
    {
        var own = Path.GetExtension(address.AbsolutePath).ToLowerInvariant();
        return Array.Exists(KnownExtensions, known => known.Equals(own, StringComparison.Ordinal))
            ? own
            : type?.ToLowerInvariant() switch
            {
                "video/webm" => ".webm",
                "video/quicktime" => ".mov",
                "video/x-matroska" => ".mkv",
                "video/x-msvideo" => ".avi",
                "video/mpeg" => ".mpg",
                "image/jpeg" => ".jpg",
                "image/png" => ".png",
                "image/gif" => ".gif",
                "image/webp" => ".webp",
                _ => ".mp4",
            };
    }
}
