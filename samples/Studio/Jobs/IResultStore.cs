using Microsoft.Extensions.Options;

namespace OpenSora.Studio.Jobs;

/// <summary>The finished videos and their posters. A file in the store is complete, and storing it again replaces it.</summary>
internal interface IResultStore
{
    /// <summary>Gets the free space in bytes; null if it is not limited.</summary>
    long? FreeBytes { get; }

    /// <summary>Stores a file.</summary>
    /// <param name="name">The name: an identifier of a job with .mp4 or .png.</param>
    /// <param name="writeAsync">Writes the file to a path, under a temporary name first, as <see cref="OpenSora.Media.VideoWriter"/> does.</param>
    /// <param name="cancellationToken">Cancels the operation; the store then does not have the file.</param>
    Task SaveAsync(string name, Func<string, Task> writeAsync, CancellationToken cancellationToken);

    /// <summary>Gets a path on this machine to read a file from; null if the store does not have the file.</summary>
    Task<string?> FindAsync(string name, CancellationToken cancellationToken);

    /// <summary>Deletes the files of a job, if there are any.</summary>
    Task DeleteAsync(Guid id);

    /// <summary>Deletes what an interrupted process left of the files of a job.</summary>
    void Clean(Guid id);
}

/// <summary>A folder: of this machine for one process, or one that all machines share.</summary>
internal sealed class FolderResultStore : IResultStore
{
    private readonly string _folder;

    public FolderResultStore(IOptions<StudioOptions> options)
    {
        _folder = Path.GetFullPath(Path.Combine(options.Value.DataFolder, "videos"));
        Directory.CreateDirectory(_folder);
    }

    public long? FreeBytes => new DriveInfo(_folder).AvailableFreeSpace;

    public Task SaveAsync(string name, Func<string, Task> writeAsync, CancellationToken cancellationToken) => writeAsync(PathOf(name));

    public Task<string?> FindAsync(string name, CancellationToken cancellationToken) =>
        Task.FromResult(File.Exists(PathOf(name)) ? PathOf(name) : null);

    public Task DeleteAsync(Guid id)
    {
        File.Delete(PathOf($"{id}.mp4"));
        File.Delete(PathOf($"{id}.png"));
        Clean(id);
        return Task.CompletedTask;
    }

    // The writer's temporary names.
    public void Clean(Guid id)
    {
        foreach (var file in Directory.EnumerateFiles(_folder, $"{id}.*.tmp"))
        {
            File.Delete(file);
        }
    }

    private string PathOf(string name) => Path.Combine(_folder, name);
}
