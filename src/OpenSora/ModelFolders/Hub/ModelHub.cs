using System.IO.Enumeration;

namespace OpenSora.ModelFolders;

/// <summary>Downloads models from a hub to the cache that the hub's Python tools use, finds models in that cache, and loads parts of models from
/// folders in the layout of a hub.</summary>
/// <remarks>
/// <para>Interrupted downloads are resumed. Downloaded files are verified against the hub's checksums before they get their final names. Several
/// processes can download the same files at the same time. This type is thread-safe.</para>
/// <para>A folder contains either the part itself or a pipeline with the part in <c>vae</c>, <c>text_encoder</c> or <c>transformer</c>:
/// <c>config.json</c> next to the weights, which are a safetensors file or a PyTorch checkpoint, as a single file or in shards. Pass loaded parts to
/// <c>UseVae</c> and <c>UseTextEncoder</c>.</para>
/// </remarks>
public sealed partial class ModelHub : IDisposable
{
    private readonly ModelHubOptions _options;
    private readonly HttpMessageHandler? _handler;
    private readonly bool _links;
    private readonly Lock _making = new();
    private HubClient? _client;

    /// <summary>Initializes a new instance of the <see cref="ModelHub"/> class. No request is sent until a method is called.</summary>
    /// <param name="options">The options. If null, all settings are read from environment variables.</param>
    /// <param name="handler">The handler that sends requests. The caller keeps ownership. It must not follow redirects. If null, a default handler is
    /// used.</param>
    /// <exception cref="ArgumentException">The handler follows redirects, or an option is out of range.</exception>
    public ModelHub(ModelHubOptions? options = null, HttpMessageHandler? handler = null)
        : this(options, handler, links: true) { }

    internal ModelHub(ModelHubOptions? options, HttpMessageHandler? handler, bool links)
    {
        if (handler is HttpClientHandler { AllowAutoRedirect: true } or SocketsHttpHandler { AllowAutoRedirect: true })
        {
            throw new ArgumentException(
                "The handler follows redirects, which would hide checksums. Set AllowAutoRedirect to false.",
                nameof(handler)
            );
        }

        (_options, _handler, _links) = (options ?? new ModelHubOptions(), handler, links);
        if (_options.Retries < 0 || _options.RetryDelay < TimeSpan.Zero || _options.StallTimeout <= TimeSpan.Zero)
        {
            throw new ArgumentException(
                $"Retries is {_options.Retries} and RetryDelay {_options.RetryDelay}, which must not be negative; "
                    + $"StallTimeout is {_options.StallTimeout}, which must be positive.",
                nameof(options)
            );
        }
    }

    /// <summary>Downloads the missing files of a repository and returns the folder that contains its files.</summary>
    /// <param name="repository">The repository, such as <c>organization/name</c>.</param>
    /// <param name="revision">A branch, a tag or a commit hash.</param>
    /// <param name="include">Patterns for the paths of the files to download. <c>*</c> matches any characters, <c>?</c> matches one character, and
    /// <c>vae/</c> matches all files in that folder. If null, all files are downloaded.</param>
    /// <param name="progress">Receives the progress of the download.</param>
    /// <param name="cancellationToken">A token to cancel the download. Downloaded data is kept, and the next call resumes the download.</param>
    /// <returns>The path of the folder. Its files may be links to files in the cache; do not modify them.</returns>
    /// <exception cref="HttpRequestException">The hub does not have the repository or its files, denies access, cannot be reached or returns
    /// invalid content; or, in offline mode, the files are not in the cache. The status code is null if there was no response.</exception>
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
                        + $"{(include is null ? "" : $" with {string.Join(", ", include)}")}, and the hub is not contacted "
                        + "because HF_HUB_OFFLINE or ModelHubOptions.Offline is set."
                );
        }

        var hub = Client();
        var (commit, files) = await SelectAsync(hub, repository, revision, include, cancellationToken).ConfigureAwait(false);

        // A commit never changes, so files already in its folder are not requested again.
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
                if (cache.LengthOf(commit, file) is null) // not placed by another process in the meantime
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

    /// <summary>Lists the files of a repository with their sizes and checksums, without downloading them.</summary>
    /// <param name="repository">The repository, such as <c>organization/name</c>.</param>
    /// <param name="revision">A branch, a tag or a commit hash.</param>
    /// <param name="include">Patterns as in <see cref="DownloadAsync"/>. At least one file must match each pattern. If null, all files are
    /// listed.</param>
    /// <param name="cancellationToken">A token to cancel the request.</param>
    /// <returns>The commit of the revision, which <see cref="DownloadAsync"/> accepts as a revision, and the files.</returns>
    /// <exception cref="HttpRequestException">The hub does not have the repository or its files, denies access, cannot be reached or returns
    /// invalid content. The status code is null if there was no response.</exception>
    public async Task<(string Commit, IReadOnlyList<HubFile> Files)> ListFilesAsync(
        string repository,
        string revision = "main",
        IReadOnlyList<string>? include = null,
        CancellationToken cancellationToken = default
    )
    {
        CheckNames(repository, revision);
        var hub = Client();
        var (commit, paths) = await SelectAsync(hub, repository, revision, include, cancellationToken).ConfigureAwait(false);
        if (include?.FirstOrDefault(pattern => !paths.Any(path => Matches(pattern, path))) is { } missing)
        {
            throw new ModelHubException($"'{repository}' at revision '{revision}' has no file that matches {missing}.");
        }

        var cache = new HubCache(_options.ResolvedCacheFolder, repository, _links);
        List<HubFile> files = [];
        foreach (var path in paths)
        {
            var (hash, size) = await hub.DescribeAsync(repository, commit, path, cancellationToken).ConfigureAwait(false);
            files.Add(new HubFile(path, hash, size, cache.LengthOf(commit, path) is not null || File.Exists(cache.Blob(hash))));
        }

        return (commit, files);
    }

    /// <summary>Gets the path of the cache folder.</summary>
    public string CacheFolder => _options.ResolvedCacheFolder;

    /// <summary>Finds the folder of a repository in the cache without contacting the hub.</summary>
    /// <param name="repository">The repository, such as <c>organization/name</c>.</param>
    /// <param name="revision">A branch, a tag or a commit hash.</param>
    /// <param name="include">Patterns as in <see cref="DownloadAsync"/>. At least one file must match each pattern. If null, any downloaded file is
    /// sufficient.</param>
    /// <returns>The path of the folder, or null if the folder or a required file is missing.</returns>
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

    /// <summary>Closes all connections.</summary>
    public void Dispose() => _client?.Dispose();

    private static async Task<(string Commit, IReadOnlyList<string> Files)> SelectAsync(
        HubClient hub,
        string repository,
        string revision,
        IReadOnlyList<string>? include,
        CancellationToken cancellationToken
    )
    {
        var (commit, all) = await hub.ListAsync(repository, revision, cancellationToken).ConfigureAwait(false);
        var files = include is null ? all : [.. all.Where(file => include.Any(pattern => Matches(pattern, file)))];
        if (files.Count == 0)
        {
            throw new ModelHubException(
                $"'{repository}' at revision '{revision}' has no {(include is null ? "files" : $"files that match {string.Join(", ", include)}")}."
                    + $"{(all.Count == 0 ? "" : $" It has {all.Count}: {string.Join(", ", all.Take(8))}{(all.Count > 8 ? ", ..." : "")}")}"
            );
        }

        return (commit, files);
    }

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
                    $"'{file}' of '{repository}' arrived damaged: its {length} bytes do not have the checksum {hash}. "
                        + "The file was deleted; try again, or use a different endpoint."
                );
            }

            resumed = false; // the damage may be in the part downloaded earlier: download once more from the start
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
            throw new ArgumentException($"'{repository}' is not a repository name; expected a name such as organization/name.", nameof(repository));
        }

        if (!HubNames.IsRevision(revision))
        {
            throw new ArgumentException($"'{revision}' is not a valid name of a branch, a tag or a commit.", nameof(revision));
        }
    }
}
