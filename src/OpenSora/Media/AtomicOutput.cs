using OpenSora.Runtime;

namespace OpenSora.Media;

/// <summary>Writes files and folders atomically: they appear under their final names only when they are complete.</summary>
internal static class AtomicOutput
{
    /// <summary>Writes a file under a temporary name in the same folder and then renames it. If writing fails, no file is left behind. Symbolic links
    /// are followed, and a device is written to.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="write">Writes the file to the path that it receives.</param>
    internal static async Task WriteFileAsync(string path, Func<string, Task> write)
    {
        var target = OutputPath.Resolve(path);
        if (target.IsDevice)
        {
            // Programs such as ffmpeg need a file that they can seek in.
            var copy = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.tmp");
            try
            {
                await write(copy).ConfigureAwait(false);
                await CopyAsync(copy, target.Path).ConfigureAwait(false);
            }
            finally
            {
                File.Delete(copy);
            }

            return;
        }

        var temporary = OutputPath.TemporaryBeside(target.Path);
        try
        {
            await write(temporary).ConfigureAwait(false);
            OutputPath.Replace(temporary, target.Path);
        }
        finally
        {
            File.Delete(temporary); // does nothing after a successful rename
        }
    }

    private static async Task CopyAsync(string from, string device)
    {
        var source = File.OpenRead(from);
        await using (source.ConfigureAwait(false))
        {
            var destination = new FileStream(device, FileMode.Open, FileAccess.Write);
            await using (destination.ConfigureAwait(false))
            {
                await source.CopyToAsync(destination).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Writes a folder under a temporary name beside its final path and then renames it. If writing fails, no folder is left
    /// behind.</summary>
    /// <param name="path">The path of the folder. It must be empty or not exist.</param>
    /// <param name="write">Writes the files to the temporary folder that it receives.</param>
    /// <exception cref="IOException">The folder is not empty.</exception>
    internal static async Task WriteFolderAsync(string path, Func<string, Task> write)
    {
        path = OutputPath.FollowLinks(Path.TrimEndingDirectorySeparator(path));
        var temporary = OutputPath.TemporaryBeside(path);
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
}
