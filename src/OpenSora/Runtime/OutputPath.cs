namespace OpenSora.Runtime;

/// <summary>The place where an output is written.</summary>
/// <param name="Path">The full path without symbolic links.</param>
/// <param name="IsDevice">true for a device such as <c>/dev/null</c>, which is opened and written to; false for a regular file, which is written
/// under a temporary name and then replaced.</param>
internal readonly record struct OutputTarget(string Path, bool IsDevice);

/// <summary>Resolves the paths that users specify for outputs: symbolic links are followed, and only regular files are replaced.</summary>
/// <remarks>
/// A writer calls <see cref="Resolve"/> before any expensive work. If the target is a device, it opens the device and writes to it. Otherwise it
/// writes to <see cref="TemporaryBeside"/> and calls <see cref="Replace"/>.
/// </remarks>
internal static class OutputPath
{
    private const int MostLinks = 40; // as in the Linux kernel

    /// <summary>Determines where an output file is written. Nothing is created.</summary>
    /// <param name="path">The path of a file. A symbolic link is followed, and may lead to a file that does not exist yet.</param>
    /// <exception cref="IOException">The path refers to a folder, a named pipe, a socket or a disk, or its links form a loop.</exception>
    public static OutputTarget Resolve(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var full = Path.GetFullPath(path);
        var kind = FileKinds.Of(full);
        if (kind == FileKind.Device)
        {
            return new OutputTarget(full, IsDevice: true); // /dev/stdout leads to a link that only the system can follow
        }

        if (kind is not (FileKind.Missing or FileKind.Regular))
        {
            throw new IOException($"Could not write '{path}': it is {kind.Describe()}. Specify the path of a file.");
        }

        return Path.EndsInDirectorySeparator(full)
            ? throw new IOException($"Could not write '{path}': the path ends like that of a folder. Specify the path of a file.")
            : new OutputTarget(FollowLinks(full), IsDevice: false);
    }

    /// <summary>Replaces all symbolic links in a path, including those of its folders, with their targets. The path may lead to something that does
    /// not exist yet.</summary>
    /// <exception cref="IOException">The links form a loop.</exception>
    public static string FollowLinks(string path)
    {
        var full = Path.GetFullPath(path);
        var resolved = Path.GetPathRoot(full)!;
        var pending = new Stack<string>(Parts(full[resolved.Length..]));
        var links = 0;
        while (pending.TryPop(out var part))
        {
            if (part is "..") // in the target of a link, relative to the real folder
            {
                resolved = Path.GetDirectoryName(resolved) ?? resolved;
                continue;
            }

            var next = Path.Combine(resolved, part);
            if (part is "." || new FileInfo(next).LinkTarget is not { Length: > 0 } target)
            {
                resolved = part is "." ? resolved : next;
                continue;
            }

            if (++links > MostLinks)
            {
                throw new IOException($"Could not write '{path}': its symbolic links form a loop. Delete the link or specify another path.");
            }

            if (Path.IsPathRooted(target))
            {
                resolved = Path.GetPathRoot(Path.GetFullPath(target, resolved))!;
                target = target[Path.GetPathRoot(target)!.Length..];
            }

            foreach (var inner in Parts(target))
            {
                pending.Push(inner);
            }
        }

        return resolved;

        // The parts from last to first.
        static IEnumerable<string> Parts(string relative) =>
            relative.Split([Path.DirectorySeparatorChar, Path.AltDirectorySeparatorChar], StringSplitOptions.RemoveEmptyEntries).Reverse();
    }

    /// <summary>Creates the folder of a target if it does not exist, and returns the path of a temporary file in it.</summary>
    /// <param name="target">The path of a target that is not a device.</param>
    /// <returns>A unique path that begins with the target's name and ends with <c>.tmp</c>.</returns>
    public static string TemporaryBeside(string target)
    {
        const int longest = 60; // file systems limit names to 255 bytes
        var folder = Path.GetDirectoryName(target) ?? throw new IOException($"'{target}' is not a valid path of a file.");
        Directory.CreateDirectory(folder);
        var name = Path.GetFileName(target);
        return Path.Combine(folder, $"{(name.Length > longest ? name[..longest] : name)}.{Guid.NewGuid():N}.tmp");
    }

    /// <summary>Renames a complete temporary file to the target. An existing target is replaced, and its permissions are kept,
    /// and its owner and group as far as the process may set them.</summary>
    /// <param name="temporary">The path of a file in the folder of the target.</param>
    /// <param name="target">The path of the target.</param>
    public static void Replace(string temporary, string target)
    {
        if (!OperatingSystem.IsWindows() && File.Exists(target))
        {
            FileStatus.CopyOwner(target, temporary); // before the permissions, some of which end with a change of the owner
            File.SetUnixFileMode(temporary, File.GetUnixFileMode(target));
        }

        File.Move(temporary, target, overwrite: true);
    }
}
