namespace OpenSora.Weights;

/// <summary>Writes files so that no half-written one is ever left under its final name.</summary>
internal static class AtomicFile
{
    /// <summary>Writes a file under a temporary name beside the target, flushes it to the disk and renames it.</summary>
    /// <param name="path">The target; an old file of this name is replaced only by a complete new one.</param>
    /// <param name="write">Writes the contents.</param>
    /// <param name="open">Opens the temporary file; null for an ordinary file.</param>
    /// <exception cref="IOException">Writing failed, for example because the disk is full. The target is as it was before.</exception>
    public static void Write(string path, Action<Stream> write, Func<string, Stream>? open = null)
    {
        path = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        var temporary = $"{path}.{Guid.NewGuid():N}.tmp";
        try
        {
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

            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception exception)
        {
            File.Delete(temporary);
            if (exception is IOException)
            {
                throw new IOException($"Could not write '{path}': {exception.Message} Nothing was changed under that name.", exception);
            }

            throw;
        }
    }
}
