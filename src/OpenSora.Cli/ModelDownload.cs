using System.Text.Json;
using OpenSora.ModelFolders;

namespace OpenSora.Cli;

/// <summary>Downloads the files of a published model to the cache of the hub, and makes a model folder of them.</summary>
internal sealed class ModelDownload : IDisposable
{
    /// <summary>The file in a model folder that lists where its files come from, and their hashes.</summary>
    public const string RecordName = "download.json";

    private readonly CatalogEntry _entry;
    private readonly string _revision;
    private readonly ModelHub _hub;

    /// <summary>Initializes a download. The hub is not contacted yet.</summary>
    /// <param name="entry">The model.</param>
    /// <param name="folder">The model folder.</param>
    /// <param name="options">The options of the hub.</param>
    /// <param name="revision">The branch, tag or commit of the repositories.</param>
    /// <param name="copies">true to copy the files into the model folder; false to link them.</param>
    public ModelDownload(CatalogEntry entry, string folder, ModelHubOptions options, string revision, bool copies)
    {
        (_entry, Folder, _revision, Copies) = (entry, folder, revision, copies);
        _hub = new ModelHub(options);
    }

    /// <summary>Gets the path of the model folder.</summary>
    public string Folder { get; }

    /// <summary>Gets a value that indicates whether the files are copied into the model folder.</summary>
    public bool Copies { get; }

    /// <summary>Gets the files of each source.</summary>
    public IReadOnlyList<(CatalogSource Source, string Commit, IReadOnlyList<HubFile> Files)> Files { get; private set; } = [];

    /// <summary>Gets the size of all files in bytes, as far as the hub reports sizes.</summary>
    public long Total => Files.Sum(source => source.Files.Sum(file => file.Size ?? 0));

    /// <summary>Gets the size in bytes of the files that are not in the cache.</summary>
    public long Missing => Files.Sum(source => source.Files.Where(file => !file.IsDownloaded).Sum(file => file.Size ?? 0));

    /// <summary>Gets the folder of the cache.</summary>
    public string CacheFolder => _hub.CacheFolder;

    /// <summary>Gets the free space of the disk with the cache in bytes; null if it is unknown.</summary>
    public long? FreeSpace => Disk.FreeSpace(CacheFolder);

    /// <summary>Asks the hub for the files, their sizes and their hashes.</summary>
    public async Task ListAsync(CancellationToken cancellationToken)
    {
        List<(CatalogSource, string, IReadOnlyList<HubFile>)> all = [];
        foreach (var source in _entry.Sources)
        {
            var (commit, files) = await _hub.ListFilesAsync(source.Repository, _revision, source.Include, cancellationToken).ConfigureAwait(false);
            all.Add((source, commit, files));
        }

        Files = all;
    }

    /// <summary>Checks that the disk has enough free space.</summary>
    /// <exception cref="IOException">It does not.</exception>
    public void CheckSpace()
    {
        if (Missing > FreeSpace)
        {
            throw new IOException(
                $"The download needs {Terminal.Bytes(Missing)}, but the disk with {CacheFolder} has {Terminal.Bytes(FreeSpace.Value)} free. "
                    + "Free up space, or set HF_HUB_CACHE to a folder on another disk."
            );
        }

        if (Copies && Total > Disk.FreeSpace(Folder))
        {
            throw new IOException($"The copies need {Terminal.Bytes(Total)}, which the disk with {Folder} does not have. Use links: omit --copy.");
        }
    }

    /// <summary>Downloads the files that are not in the cache, checks their hashes, and writes the model folder.</summary>
    public async Task RunAsync(Stages stages, CancellationToken cancellationToken)
    {
        var before = 0L;
        foreach (var (source, commit, files) in Files)
        {
            var done = before;
            var progress = new Progress(report =>
                stages.Report("Downloading", done + report.BytesDone, Total, $"{Terminal.Bytes(done + report.BytesDone)} of {Terminal.Bytes(Total)}")
            );
            var snapshot = await _hub.DownloadAsync(source.Repository, commit, [.. files.Select(file => file.Path)], progress, cancellationToken)
                .ConfigureAwait(false);
            foreach (var file in files)
            {
                cancellationToken.ThrowIfCancellationRequested();
                Place(Path.Combine([snapshot, .. file.Path.Split('/')]), Path.Combine([Folder, .. NameOf(source, file).Split('/')]));
            }

            before += files.Sum(file => file.Size ?? 0);
        }

        stages.Report("Downloading", 1, 1, Terminal.Bytes(Total));
        await WriteRecordAsync(cancellationToken).ConfigureAwait(false);
        if (_entry.Description?.Invoke() is { } description)
        {
            ModelFolder.Save(Folder, description);
        }
    }

    public void Dispose() => _hub.Dispose();

    private static string NameOf(CatalogSource source, HubFile file) => source.Folder.Length == 0 ? file.Path : $"{source.Folder}/{file.Path}";

    // An existing file of the same size is kept when files are copied, so that a download that was stopped continues.
    private void Place(string from, string to)
    {
        var file = new FileInfo(from);
        var target = (FileInfo?)file.ResolveLinkTarget(returnFinalTarget: true) ?? file;
        Directory.CreateDirectory(Path.GetDirectoryName(to)!);
        var existing = new FileInfo(to);
        if (Copies && existing is { Exists: true, LinkTarget: null } && existing.Length == target.Length)
        {
            return;
        }

        var temporary = $"{to}.{Guid.NewGuid():N}.tmp";
        try
        {
            if (Copies)
            {
                File.Copy(target.FullName, temporary);
            }
            else
            {
                Link(temporary, target.FullName);
            }

            File.Move(temporary, to, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    private static void Link(string path, string target)
    {
        try
        {
            File.CreateSymbolicLink(path, target);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException or PlatformNotSupportedException)
        {
            throw new IOException($"The link '{path}' cannot be created: {exception.Message} Use --copy to copy the files instead.", exception);
        }
    }

    private async Task WriteRecordAsync(CancellationToken cancellationToken)
    {
        var record = new DownloadRecord(
            _entry.Name,
            [
                .. Files.SelectMany(
                    source => source.Files,
                    (source, file) =>
                        new DownloadedFile(NameOf(source.Source, file), source.Source.Repository, source.Commit, file.Path, file.Size, file.Hash)
                ),
            ]
        );
        var path = Path.Combine(Folder, RecordName);
        var temporary = $"{path}.{Guid.NewGuid():N}.tmp";
        await File.WriteAllBytesAsync(temporary, JsonSerializer.SerializeToUtf8Bytes(record, DownloadRecord.Options), cancellationToken)
            .ConfigureAwait(false);
        File.Move(temporary, path, overwrite: true);
    }

    private sealed class Progress(Action<DownloadProgress> report) : IProgress<DownloadProgress>
    {
        public void Report(DownloadProgress value) => report(value);
    }
}

/// <summary>The contents of <c>download.json</c>.</summary>
/// <param name="Model">The name of the published model.</param>
/// <param name="Files">The downloaded files.</param>
internal sealed record DownloadRecord(string Model, IReadOnlyList<DownloadedFile> Files)
{
    public static JsonSerializerOptions Options { get; } = new(JsonSerializerDefaults.Web) { WriteIndented = true };

    /// <summary>Reads the record of a folder; null if it has none.</summary>
    public static DownloadRecord? Read(string folder)
    {
        var path = Path.Combine(folder, ModelDownload.RecordName);
        return File.Exists(path) ? JsonSerializer.Deserialize<DownloadRecord>(File.ReadAllBytes(path), Options) : null;
    }
}

/// <summary>A downloaded file.</summary>
/// <param name="Path">The path in the model folder.</param>
/// <param name="Repository">The repository.</param>
/// <param name="Commit">The commit.</param>
/// <param name="Source">The path in the repository.</param>
/// <param name="Size">The size in bytes.</param>
/// <param name="Hash">The SHA-256 of the file, or the SHA-1 of a git blob.</param>
internal sealed record DownloadedFile(string Path, string Repository, string Commit, string Source, long? Size, string Hash);
