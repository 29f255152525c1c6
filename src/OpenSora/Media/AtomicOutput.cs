namespace OpenSora.Media;

/// <summary>Writes files and folders atomically: they appear under their final names only when they are complete.</summary>
internal static class AtomicOutput
{
    /// <summary>Writes a file under a temporary name in the same folder and then renames it. If writing fails, no file is left behind.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="write">Writes the file to the temporary path that it receives.</param>
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
            File.Delete(temporary); // does nothing after a successful rename
        }
    }

    /// <summary>Writes a folder under a temporary name beside its final path and then renames it. If writing fails, no folder is left
    /// behind.</summary>
    /// <param name="path">The path of the folder. It must be empty or not exist.</param>
    /// <param name="write">Writes the files to the temporary folder that it receives.</param>
    /// <exception cref="IOException">The folder is not empty.</exception>
    internal static async Task WriteFolderAsync(string path, Func<string, Task> write)
    {
        path = Path.TrimEndingDirectorySeparator(path);
        var temporary = TemporaryBeside(path);
        if (Directory.Exists(path) && Directory.EnumerateFileSystemEntries(path).Any())
        {
            throw new IOException($"The folder '{path}' is not empty. Choose another folder, or delete its contents.");
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
        var parent = Path.GetDirectoryName(full) ?? throw new IOException($"'{path}' is not a valid path of a file or folder.");
        Directory.CreateDirectory(parent);
        return Path.Combine(parent, $".{Path.GetFileName(full)}.{Guid.NewGuid():N}.tmp");
    }
}
