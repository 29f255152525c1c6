using System.Net;

namespace OpenSora.ModelFolders;

/// <summary>Where a <see cref="ModelHub"/> downloads from and to. Null means what the environment says, with the variables of the hub's Python
/// tools.</summary>
public sealed class ModelHubOptions
{
    /// <summary>The address of the hub or of a mirror, such as <c>https://hub.example.org</c>; null: <c>HF_ENDPOINT</c>. There is no other
    /// default.</summary>
    public string? Endpoint { get; set; }

    /// <summary>The folder of the cache; null: <c>HF_HUB_CACHE</c>, else <c>hub</c> in <c>HF_HOME</c>, else the Python tools' own in the user's cache
    /// folder.</summary>
    public string? CacheFolder { get; set; }

    /// <summary>What is shown to the hub to be let in; null: <c>HF_TOKEN</c>. Sent to the endpoint only, never to a host that it redirects to, and
    /// only encrypted or within this machine.</summary>
    public string? Token { get; set; }

    /// <summary>Whether only the cache is looked at; null: <c>HF_HUB_OFFLINE</c>.</summary>
    public bool? Offline { get; set; }

    /// <summary>How often a request is repeated, without progress between, when the connection fails or the hub is busy.</summary>
    public int Retries { get; set; } = 5;

    /// <summary>The wait before the first repetition; it doubles with each. Where the hub says how long to wait, that is done, up to a
    /// minute.</summary>
    public TimeSpan RetryDelay { get; set; } = TimeSpan.FromSeconds(1);

    /// <summary>After this time without any byte a connection counts as failed.</summary>
    public TimeSpan StallTimeout { get; set; } = TimeSpan.FromSeconds(30);

    internal string ResolvedCacheFolder => Path.GetFullPath(CacheFolder ?? FolderVariable("HF_HUB_CACHE") ?? Path.Combine(Home(), "hub"));

    internal string? ResolvedToken => (Token ?? Variable("HF_TOKEN"))?.Trim() is { Length: > 0 } token ? token : null;

    internal bool ResolvedOffline => Offline ?? Variable("HF_HUB_OFFLINE")?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

    /// <summary>The endpoint, ending in a slash.</summary>
    /// <exception cref="ModelHubException">There is none, or it is no address.</exception>
    internal Uri ResolvedEndpoint()
    {
        var text = Endpoint
            ?? Variable("HF_ENDPOINT")
            ?? throw new ModelHubException(
                "No hub is set. Set ModelHubOptions.Endpoint, or the environment variable HF_ENDPOINT, to the address of the hub or of a mirror, such as https://hub.example.org."
            );
        if (
            !Uri.TryCreate(text.TrimEnd('/') + "/", UriKind.Absolute, out var endpoint)
            || endpoint.Scheme is not ("http" or "https")
            || endpoint.Query.Length > 0
            || endpoint.UserInfo.Length > 0
        )
        {
            throw new ModelHubException(
                "The address of the hub is not valid: expected something like https://hub.example.org, without user name and query. It comes from ModelHubOptions.Endpoint or HF_ENDPOINT."
            );
        }

        return endpoint;
    }

    private static string UserFolder => Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);

    private static string Home() =>
        FolderVariable("HF_HOME") ?? Path.Combine(FolderVariable("XDG_CACHE_HOME") ?? Path.Combine(UserFolder, ".cache"), "huggingface");

    // The Python tools take ~ for the user's folder too.
    private static string? FolderVariable(string name) =>
        Variable(name) is { } folder && (folder is "~" || folder.StartsWith("~/", StringComparison.Ordinal))
            ? UserFolder + folder[1..]
            : Variable(name);

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}

/// <summary>How far a download is.</summary>
/// <param name="File">The file at hand, by its path in the repository.</param>
/// <param name="FilesDone">Files that are complete.</param>
/// <param name="Files">All files.</param>
/// <param name="BytesDone">Bytes of all files that are on disk.</param>
/// <param name="Bytes">Bytes of all files, as far as the hub says their sizes.</param>
public sealed record DownloadProgress(string File, int FilesDone, int Files, long BytesDone, long Bytes);

/// <summary>A model could not be downloaded, or is not in the cache.</summary>
/// <param name="message">What was wrong, what was expected and what to do.</param>
/// <param name="status">What the hub answered, if it did.</param>
/// <param name="innerException">The cause.</param>
public sealed class ModelHubException(string message, HttpStatusCode? status = null, Exception? innerException = null)
    : Exception(message, innerException)
{
    /// <summary>What the hub answered; null where it did not come to that.</summary>
    public HttpStatusCode? Status { get; } = status;
}
