namespace OpenSora.Runtime;

/// <summary>A per-user cache folder for patched copies of native libraries.</summary>
internal static class PatchedLibraryCache
{
    /// <summary>Gets the path of the folder <c>opensora/native</c> in the user's cache folder (<c>XDG_CACHE_HOME</c>, or <c>~/.cache</c>); null if
    /// the user does not have a home folder.</summary>
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

    /// <summary>Writes a file unless it already exists with the same contents.</summary>
    /// <param name="folder">The folder, which is created if it does not exist.</param>
    /// <param name="name">The name of the file.</param>
    /// <param name="contents">The contents. An existing file with different contents, such as a damaged file, is replaced.</param>
    /// <returns>The path of the file.</returns>
    /// <exception cref="IOException">The folder or the file cannot be written.</exception>
    /// <exception cref="UnauthorizedAccessException">Access to the folder or the file is denied.</exception>
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
            File.Move(temporary, path, overwrite: true); // another process might have written the same file in the meantime
        }
        finally
        {
            File.Delete(temporary);
        }
        return path;
    }
}
