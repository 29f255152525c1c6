using System.IO.Enumeration;

namespace OpenSora.ModelFolders;

/// <summary>Downloads models from a hub into the cache that the hub's Python tools use, and finds those that are there already.</summary>
/// <remarks>
/// Downloads go on where they stopped; what arrived is checked against the hub's checksum before it gets its name; several processes may download the
/// same at
/// once. Safe to use from several threads at once.
/// </remarks>
public sealed class ModelHub : IDisposable
{
    private readonly ModelHubOptions _options;
    private readonly HttpMessageHandler? _handler;
    private readonly bool _links;
    private readonly Lock _making = new();
    private HubClient? _client;

    /// <summary>Makes a client; nothing is sent before something is asked for.</summary>
    /// <param name="options">Where to download from and to; null: all from the environment.</param>
    /// <param name="handler">What sends requests; stays the caller's. It must not follow redirects itself. Null: the usual one.</param>
    /// <exception cref="ArgumentException">The handler follows redirects, or a number of the options is out of range.</exception>
    public ModelHub(ModelHubOptions? options = null, HttpMessageHandler? handler = null)
        : this(options, handler, links: true) { }

    internal ModelHub(ModelHubOptions? options, HttpMessageHandler? handler, bool links)
    {
        if (handler is HttpClientHandler { AllowAutoRedirect: true } or SocketsHttpHandler { AllowAutoRedirect: true })
        {
            throw new ArgumentException(
                "The handler follows redirects, which would hide checksums; set its AllowAutoRedirect to false.",
                nameof(handler)
            );
        }

        (this._options, this._handler, this._links) = (options ?? new ModelHubOptions(), handler, links);
        if (this._options.Retries < 0 || this._options.RetryDelay < TimeSpan.Zero || this._options.StallTimeout <= TimeSpan.Zero)
        {
            throw new ArgumentException(
                $"Retries is {this._options.Retries} and RetryDelay {this._options.RetryDelay}, which must not be negative; "
                    + $"StallTimeout is {this._options.StallTimeout}, which must be positive.",
                nameof(options)
            );
        }
    }

    /// <summary>Downloads what is missing of a repository, and gives the folder with its files.</summary>
    /// <param name="repository">The repository, such as <c>organisation/name</c>.</param>
    /// <param name="revision">A branch, a tag or a commit.</param>
    /// <param name="include">The files that are wanted, by their paths, with <c>*</c> for any signs and <c>?</c> for any one sign; <c>vae/</c> is all
    /// in that folder. Null: all.</param>
    /// <param name="progress">Takes how far it is.</param>
    /// <param name="cancellationToken">Cancels; what was downloaded stays, and the next call goes on there.</param>
    /// <returns>The folder. Its files may be links into the cache; do not change them.</returns>
    /// <exception cref="ModelHubException">The hub does not have it, refuses it, cannot be reached or sends wrong content; offline: it is not in the
    /// cache.</exception>
    /// <exception cref="IOException">The cache could not be written, for example because the disk is full.</exception>
    public async Task<string> DownloadAsync(
        string repository,
        string revision = "main",
        IReadOnlyList<string>? include = null,
        IProgress<DownloadProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        CheckNames(repository, revision);
        if (_options.ResolvedOffline)
        {
            return Find(repository, revision, include)
                ?? throw new ModelHubException(
                    $"'{repository}' at revision '{revision}' is not in the cache at {_options.ResolvedCacheFolder}"
                        + $"{(include is null ? "" : $" with {string.Join(", ", include)}")}, and the hub is not asked because HF_HUB_OFFLINE or ModelHubOptions.Offline says so."
                );
        }

        var hub = Client();
        var (commit, all) = await hub.ListAsync(repository, revision, cancellationToken).ConfigureAwait(false);
        var files = include is null ? all : [.. all.Where(file => include.Any(pattern => Matches(pattern, file)))];
        if (files.Count == 0)
        {
            throw new ModelHubException(
                $"'{repository}' at revision '{revision}' has no file {(include is null ? "at all" : string.Join(", ", include))}."
                    + $"{(all.Count == 0 ? "" : $" It has {all.Count}: {string.Join(", ", all.Take(8))}{(all.Count > 8 ? ", ..." : "")}")}"
            );
        }

        // A commit never changes: what is in its folder is not asked for again.
        var cache = new HubCache(_options.ResolvedCacheFolder, repository, _links);
        var wanted = new List<(string File, string Hash, long? Size)>();
        var (filesDone, bytesDone) = (0, 0L);
        foreach (var file in files)
        {
            if (cache.LengthOf(commit, file) is { } length)
            {
                filesDone++;
                bytesDone += length;
                continue;
            }

            var (hash, size) = await hub.DescribeAsync(repository, commit, file, cancellationToken).ConfigureAwait(false);
            wanted.Add((file, hash, size));
        }

        var bytes = bytesDone + wanted.Sum(file => file.Size ?? 0);
        foreach (var (file, hash, size) in wanted)
        {
            Report(file, 0);
            using (await cache.LockAsync(hash, cancellationToken).ConfigureAwait(false))
            {
                if (cache.LengthOf(commit, file) is null) // nobody else placed it meanwhile
                {
                    var isNew = !File.Exists(cache.Blob(hash));
                    if (isNew)
                    {
                        await DownloadBlobAsync(hub, cache, repository, commit, file, hash, size, done => Report(file, done), cancellationToken)
                            .ConfigureAwait(false);
                    }

                    cache.Place(commit, file, hash, isNew);
                }
            }

            filesDone++;
            bytesDone += cache.LengthOf(commit, file) ?? 0;
            Report(file, 0);
        }

        cache.Remember(revision, commit);
        return cache.Snapshot(commit);

        void Report(string file, long done) =>
            progress?.Report(new DownloadProgress(file, filesDone, files.Count, bytesDone + done, Math.Max(bytes, bytesDone + done)));
    }

    /// <summary>The folder of a repository in the cache; the hub is not asked.</summary>
    /// <param name="repository">The repository, such as <c>organisation/name</c>.</param>
    /// <param name="revision">A branch, a tag or a commit.</param>
    /// <param name="include">Files that must be there, as in <see cref="DownloadAsync"/>; of a pattern at least one. Null: whatever was
    /// downloaded.</param>
    /// <returns>The folder, or null if it or a file is missing.</returns>
    public string? Find(string repository, string revision = "main", IReadOnlyList<string>? include = null)
    {
        CheckNames(repository, revision);
        var cache = new HubCache(_options.ResolvedCacheFolder, repository, _links);
        if (cache.Commit(revision) is not { } commit)
        {
            return null;
        }

        var folder = cache.Snapshot(commit);
        var files = Directory
            .EnumerateFiles(folder, "*", SearchOption.AllDirectories)
            .Select(file => Path.GetRelativePath(folder, file).Replace('\\', '/'))
            .Where(file => cache.LengthOf(commit, file) is not null)
            .ToList();
        return include is null
            ? files.Count > 0
                ? folder
                : null
            : include.All(pattern => files.Exists(file => Matches(pattern, file)))
                ? folder
                : null;
    }

    /// <summary>Closes connections.</summary>
    public void Dispose() => _client?.Dispose();

    private static async Task DownloadBlobAsync(
        HubClient hub,
        HubCache cache,
        string repository,
        string commit,
        string file,
        string hash,
        long? size,
        Action<long> report,
        CancellationToken cancellationToken
    )
    {
        var path = cache.Incomplete(hash);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        var resumed = File.Exists(path);
        while (true)
        {
            await hub.DownloadAsync(repository, commit, file, size, path, report, cancellationToken).ConfigureAwait(false);
            if (await HubCache.MatchesAsync(path, hash, cancellationToken).ConfigureAwait(false))
            {
                break;
            }

            var length = new FileInfo(path).Length;
            File.Delete(path);
            if (!resumed)
            {
                throw new ModelHubException(
                    $"'{file}' of '{repository}' arrived damaged: its {length} bytes do not have the checksum {hash}. It was deleted; try again, or use another endpoint."
                );
            }

            resumed = false; // the damage may be in what was there before: once more, from the start
        }

        File.Move(path, cache.Blob(hash), overwrite: true);
    }

    private HubClient Client()
    {
        lock (_making)
        {
            return _client ??= new HubClient(_options, _options.ResolvedEndpoint(), _handler);
        }
    }

    private static bool Matches(string pattern, string file) =>
        FileSystemName.MatchesSimpleExpression(pattern.EndsWith('/') ? pattern + "*" : pattern, file, ignoreCase: false);

    private static void CheckNames(string repository, string revision)
    {
        ArgumentNullException.ThrowIfNull(repository);
        ArgumentNullException.ThrowIfNull(revision);
        if (!HubNames.IsRepository(repository))
        {
            throw new ArgumentException($"'{repository}' is no name of a repository; expected something like organisation/name.", nameof(repository));
        }

        if (!HubNames.IsRevision(revision))
        {
            throw new ArgumentException($"'{revision}' is no name of a branch, a tag or a commit.", nameof(revision));
        }
    }
}
