namespace OpenSora.Runtime;

/// <summary>A folder for patched copies of native libraries, shared by all programs of a user.</summary>
internal static class PatchedLibraryCache
{
    /// <summary><c>opensora/native</c> in the user's cache folder (<c>XDG_CACHE_HOME</c>, or <c>~/.cache</c>); null for a user without a
    /// home.</summary>
    public static string? Folder
    {
        get
        {
            var cache = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
            if (string.IsNullOrEmpty(cache) || !Path.IsPathRooted(cache))
            {
                var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
                cache = home.Length == 0 ? null : Path.Combine(home, ".cache");
            }
            return cache is null ? null : Path.Combine(cache, "opensora", "native");
        }
    }

    /// <summary>Makes sure that a file with exactly these contents is there.</summary>
    /// <param name="folder">The folder; it is created if needed.</param>
    /// <param name="name">The file's name.</param>
    /// <param name="contents">Its contents. A file that differs, such as a damaged one, is replaced.</param>
    /// <returns>The file's path.</returns>
    /// <exception cref="IOException">The folder or the file cannot be written.</exception>
    /// <exception cref="UnauthorizedAccessException">The same.</exception>
    public static string Write(string folder, string name, byte[] contents)
    {
        var path = Path.Combine(folder, name);
        if (File.Exists(path) && new FileInfo(path).Length == contents.Length && File.ReadAllBytes(path).AsSpan().SequenceEqual(contents))
        {
            return path;
        }
        if (OperatingSystem.IsWindows())
        {
            Directory.CreateDirectory(folder);
        }
        else
        {
            Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
        var temporary = Path.Combine(folder, $".{name}.{Guid.NewGuid():N}.tmp");
        try
        {
            File.WriteAllBytes(temporary, contents);
            File.Move(temporary, path, overwrite: true); // another process may have written the same in the meantime
        }
        finally
        {
            File.Delete(temporary);
        }
        return path;
    }
}
