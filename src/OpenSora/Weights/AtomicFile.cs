namespace OpenSora.Weights;

/// <summary>Writes files atomically: a partially written file never appears under its final name.</summary>
internal static class AtomicFile
{
    /// <summary>Writes a file under a temporary name beside the target, flushes it to the disk and renames it.</summary>
    /// <param name="path">The target file. An existing file is replaced only after the new one is complete.</param>
    /// <param name="write">The delegate that writes the contents.</param>
    /// <param name="open">A delegate that opens the temporary file, or null to create an ordinary file.</param>
    /// <exception cref="IOException">Writing failed, for example because the disk is full. The target is unchanged.</exception>
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
                throw new IOException($"Could not write '{path}': {exception.Message} The existing file, if any, is unchanged.", exception);
            }

            throw;
        }
    }
}
