namespace OpenSora.Preparation.PublicSets;

/// <summary>Options of a <see cref="PublicSetDownloader"/>. The defaults are gentle: one connection and one request per second for each host.</summary>
public sealed class DownloadOptions
{
    /// <summary>Gets or sets the User-Agent header: the name of your program, and an address at which the owner of a server can reach you, such as
    /// <c>ExampleCrawler/1.0 (+https://example.org/crawler)</c>. Required.</summary>
    public string UserAgent { get; set; } = "";

    /// <summary>Gets or sets the number of files that are downloaded at the same time.</summary>
    public int Connections { get; set; } = 8;

    /// <summary>Gets or sets the number of files that are downloaded from one host at the same time.</summary>
    public int ConnectionsPerHost { get; set; } = 1;

    /// <summary>Gets or sets the time between the starts of two requests to one host. A longer <c>Crawl-delay</c> in robots.txt is
    /// respected.</summary>
    public TimeSpan DelayPerHost { get; set; } = TimeSpan.FromSeconds(1);

    /// <summary>Gets or sets the maximum bytes per second from one host; null for no limit.</summary>
    public long? BytesPerSecondPerHost { get; set; }

    /// <summary>Gets or sets the number of retries after a failure that may go away, such as a lost connection. Attempts that made progress do not
    /// count.</summary>
    public int Retries { get; set; } = 4;

    /// <summary>Gets or sets the wait before the first retry. It doubles with every retry. A longer <c>Retry-After</c> of the server is
    /// respected.</summary>
    public TimeSpan RetryDelay { get; set; } = TimeSpan.FromSeconds(2);

    /// <summary>Gets or sets the longest <c>Retry-After</c> to wait for. If a host asks for more, its files are left for a later run.</summary>
    public TimeSpan MaxRetryAfter { get; set; } = TimeSpan.FromMinutes(5);

    /// <summary>Gets or sets the number of files of one host that fail one after another before its other files are left for a later run.</summary>
    public int HostFailureLimit { get; set; } = 20;

    /// <summary>Gets or sets the time without any data after which a connection is given up.</summary>
    public TimeSpan StallTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Gets or sets the largest file in bytes.</summary>
    public long MaxFileBytes { get; set; } = 4L << 30;

    /// <summary>Gets or sets the bytes of disk space that remain free.</summary>
    public long MinFreeBytes { get; set; } = 1L << 30;

    /// <summary>Gets or sets the accepted content types. A type that ends with <c>/</c> includes all its subtypes.</summary>
    public IList<string> ContentTypes { get; set; } = ["video/", "image/", "application/octet-stream", "binary/octet-stream", "application/mp4"];

    /// <summary>Gets or sets whether files that robots.txt excludes are not downloaded.</summary>
    public bool RespectRobots { get; set; } = true;

    /// <summary>Gets or sets whether files are tried again that failed in an earlier run for a reason that does not go away, such as <c>not
    /// found</c>.</summary>
    public bool RetryFinalFailures { get; set; }

    /// <summary>Describes the first invalid option; null if all are valid.</summary>
    internal string? Problem() =>
        string.IsNullOrWhiteSpace(UserAgent)
            ? "UserAgent is empty. Set the name of your program and an address at which the owner of a server can reach you."
        : UserAgent.Any(char.IsControl) ? "UserAgent contains control characters."
        : Connections < 1 ? "Connections must be at least 1."
        : ConnectionsPerHost < 1 ? "ConnectionsPerHost must be at least 1."
        : DelayPerHost < TimeSpan.Zero ? "DelayPerHost must not be negative."
        : BytesPerSecondPerHost < 1 ? "BytesPerSecondPerHost must be at least 1, or null for no limit."
        : Retries < 0 ? "Retries must not be negative."
        : RetryDelay < TimeSpan.Zero ? "RetryDelay must not be negative."
        : MaxRetryAfter < TimeSpan.Zero ? "MaxRetryAfter must not be negative."
        : HostFailureLimit < 1 ? "HostFailureLimit must be at least 1."
        : StallTimeout <= TimeSpan.Zero ? "StallTimeout must be positive."
        : MaxFileBytes < 1 ? "MaxFileBytes must be at least 1."
        : MinFreeBytes < 0 ? "MinFreeBytes must not be negative."
        : null;
}

/// <summary>The progress of a download.</summary>
/// <param name="Entries">The number of entries that are finished, in whatever way.</param>
/// <param name="Downloaded">The number of files that were downloaded.</param>
/// <param name="Failed">The number of entries whose file failed.</param>
/// <param name="Bytes">The bytes that were received.</param>
/// <param name="Current">The identifier of the entry that has just finished; empty while files are downloaded.</param>
public readonly record struct DownloadProgress(long Entries, long Downloaded, long Failed, long Bytes, string Current);

/// <summary>The result of a download.</summary>
/// <param name="Entries">The number of entries.</param>
/// <param name="Bytes">The bytes that were received.</param>
/// <param name="Counts">The number of entries by result, such as <c>downloaded</c>, <c>already downloaded</c>, <c>needs yt-dlp</c>, <c>not
/// found</c>. The sum is <paramref name="Entries"/>.</param>
public sealed record DownloadReport(long Entries, long Bytes, IReadOnlyDictionary<string, long> Counts);
