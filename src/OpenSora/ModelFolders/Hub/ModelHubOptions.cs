using System.Net;

namespace OpenSora.ModelFolders;

/// <summary>Options for <see cref="ModelHub"/>. Settings that are null are read from the environment variables of the hub's Python tools.</summary>
public sealed class ModelHubOptions
{
    /// <summary>The address of the hub or of a mirror, such as <c>https://hub.example.org</c>. If null, <c>HF_ENDPOINT</c> is used. There is no other
    /// default.</summary>
    public string? Endpoint { get; set; }

    /// <summary>The cache folder. If null, <c>HF_HUB_CACHE</c>, then <c>hub</c> in <c>HF_HOME</c>, then the default location of the Python tools in
    /// the user's cache folder.</summary>
    public string? CacheFolder { get; set; }

    /// <summary>The access token for the hub. If null, <c>HF_TOKEN</c> is used. The token is sent only to the endpoint, never to a host that it
    /// redirects to, and only over HTTPS or to the local machine.</summary>
    public string? Token { get; set; }

    /// <summary>Indicates whether only the cache is used. If null, <c>HF_HUB_OFFLINE</c> is used.</summary>
    public bool? Offline { get; set; }

    /// <summary>The maximum number of consecutive retries without progress if the connection fails or the hub is busy. The default is 5.</summary>
    public int Retries { get; set; } = 5;

    /// <summary>The delay before the first retry, which doubles with each further retry. If the hub specifies a delay, that delay is used, up to one
    /// minute. The default is 1 second.</summary>
    public TimeSpan RetryDelay { get; set; } = TimeSpan.FromSeconds(1);

    /// <summary>The time without received data after which a connection is considered failed. The default is 30 seconds.</summary>
    public TimeSpan StallTimeout { get; set; } = TimeSpan.FromSeconds(30);

    internal string ResolvedCacheFolder => Path.GetFullPath(CacheFolder ?? FolderVariable("HF_HUB_CACHE") ?? Path.Combine(Home(), "hub"));

    internal string? ResolvedToken => (Token ?? Variable("HF_TOKEN"))?.Trim() is { Length: > 0 } token ? token : null;

    internal bool ResolvedOffline => Offline ?? Variable("HF_HUB_OFFLINE")?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

    /// <summary>Gets the endpoint, with a trailing slash.</summary>
    /// <exception cref="ModelHubException">No endpoint is set, or it is not a valid address.</exception>
    internal Uri ResolvedEndpoint()
    {
        var text = Endpoint
            ?? Variable("HF_ENDPOINT")
            ?? throw new ModelHubException(
                "No hub is configured. Set ModelHubOptions.Endpoint or the environment variable HF_ENDPOINT to the address "
                    + "of the hub or of a mirror, such as https://hub.example.org."
            );
        if (
            !Uri.TryCreate(text.TrimEnd('/') + "/", UriKind.Absolute, out var endpoint)
            || endpoint.Scheme is not ("http" or "https")
            || endpoint.Query.Length > 0
            || endpoint.UserInfo.Length > 0
        )
        {
            throw new ModelHubException(
                "The address of the hub is not valid: expected an address such as https://hub.example.org, without a user name or query. "
                    + "It is set by ModelHubOptions.Endpoint or HF_ENDPOINT."
            );
        }

        return endpoint;
    }

    private static string UserFolder => Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);

    private static string Home() =>
        FolderVariable("HF_HOME") ?? Path.Combine(FolderVariable("XDG_CACHE_HOME") ?? Path.Combine(UserFolder, ".cache"), "huggingface");

    // Like the Python tools, expands ~ to the user's home folder.
    private static string? FolderVariable(string name) =>
        Variable(name) is { } folder && (folder is "~" || folder.StartsWith("~/", StringComparison.Ordinal))
            ? UserFolder + folder[1..]
            : Variable(name);

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}

/// <summary>The progress of a download.</summary>
/// <param name="File">The current file, by its path in the repository.</param>
/// <param name="FilesDone">The number of completed files.</param>
/// <param name="Files">The total number of files.</param>
/// <param name="BytesDone">The number of bytes on disk, over all files.</param>
/// <param name="Bytes">The total size of all files in bytes, as far as the hub reports their sizes.</param>
public sealed record DownloadProgress(string File, int FilesDone, int Files, long BytesDone, long Bytes);

/// <summary>A file of a repository on a hub.</summary>
/// <param name="Path">The path in the repository.</param>
/// <param name="Hash">The checksum: the SHA-256 of the file, or the SHA-1 of a git blob.</param>
/// <param name="Size">The size in bytes; null if the hub does not report it.</param>
/// <param name="IsDownloaded">Indicates whether the file is in the cache.</param>
public sealed record HubFile(string Path, string Hash, long? Size, bool IsDownloaded);

/// <summary>The exception that is thrown when a model cannot be downloaded or is not in the cache. Unlike other HTTP errors, it is not
/// retried.</summary>
/// <param name="message">A description of the problem, what was expected and how to fix it.</param>
/// <param name="status">The status code of the hub's response, or null if there was no response.</param>
/// <param name="innerException">The exception that caused this one.</param>
internal sealed class ModelHubException(string message, HttpStatusCode? status = null, Exception? innerException = null)
    : HttpRequestException(message, innerException, status);
