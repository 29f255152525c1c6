using OpenSora.Runtime;

namespace OpenSora.Weights;

/// <summary>Writes files atomically: a partially written file never appears under its final name.</summary>
internal static class AtomicFile
{
    /// <summary>Writes a file under a temporary name beside the target, flushes it to the disk and renames it. Symbolic links are followed. A device
    /// such as <c>/dev/null</c> is written to directly.</summary>
    /// <param name="path">The target file. An existing file is replaced only after the new one is complete; its permissions are kept.</param>
    /// <param name="write">The delegate that writes the contents.</param>
    /// <param name="open">A delegate that opens the temporary file, or null to create an ordinary file.</param>
    /// <exception cref="IOException">Writing failed, for example because the disk is full, or the path refers to a folder or a named pipe. The target
    /// is unchanged.</exception>
    public static void Write(string path, Action<Stream> write, Func<string, Stream>? open = null)
    {
        var target = OutputPath.Resolve(path);
        if (target.IsDevice)
        {
            using var device = new FileStream(target.Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 1 << 16);
            write(device);
            return;
        }

        string? temporary = null;
        try
        {
            temporary = OutputPath.TemporaryBeside(target.Path);
            using (
                var stream = open is null ? new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16) : open(temporary)
            )
            {
                write(stream);
                if (stream is FileStream file)
                {
                    file.Flush(flushToDisk: true);
                }
            }

            OutputPath.Replace(temporary, target.Path);
        }
        catch (Exception exception)
        {
            if (temporary is not null)
            {
                File.Delete(temporary);
            }

            if (exception is IOException)
            {
                throw new IOException(
                    $"Could not write '{Path.GetFullPath(path)}': {exception.Message} The existing file, if any, is unchanged.",
                    exception
                );
            }

            throw;
        }
    }
}
