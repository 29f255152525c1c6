namespace OpenSora.Media;

/// <summary>Lets files and folders appear under their names only when they are complete.</summary>
internal static class AtomicOutput
{
    /// <summary>Has a file written beside its place under a temporary name, then renames it. On any failure nothing is left.</summary>
    internal static async Task WriteFileAsync(string path, Func<string, Task> write)
    {
        var temporary = TemporaryBeside(path);
        try
        {
            await write(temporary).ConfigureAwait(false);
            File.Move(temporary, path, overwrite: true);
        }
        finally
        {
            File.Delete(temporary); // nothing there after the rename
        }
    }

    /// <summary>The same for a folder, which must not exist yet or be empty.</summary>
    internal static async Task WriteFolderAsync(string path, Func<string, Task> write)
    {
        path = Path.TrimEndingDirectorySeparator(path);
        var temporary = TemporaryBeside(path);
        if (Directory.Exists(path) && Directory.EnumerateFileSystemEntries(path).Any())
        {
            throw new IOException($"The folder '{path}' is not empty. Name another, or empty it.");
        }

        try
        {
            Directory.CreateDirectory(temporary);
            await write(temporary).ConfigureAwait(false);
            if (Directory.Exists(path))
            {
                Directory.Delete(path);
            }

            Directory.Move(temporary, path);
        }
        finally
        {
            if (Directory.Exists(temporary))
            {
                Directory.Delete(temporary, recursive: true);
            }
        }
    }

    private static string TemporaryBeside(string path)
    {
        var full = Path.GetFullPath(path);
        var parent = Path.GetDirectoryName(full) ?? throw new IOException($"'{path}' is no name for a file.");
        Directory.CreateDirectory(parent);
        return Path.Combine(parent, $".{Path.GetFileName(full)}.{Guid.NewGuid():N}.tmp");
    }
}
