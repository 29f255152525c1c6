namespace OpenSora.Runtime;

/// <summary>The kinds of objects that a path can refer to.</summary>
internal enum FileKind
{
    /// <summary>Nothing exists at the path, or a link leads to nothing.</summary>
    Missing,

    /// <summary>A regular file.</summary>
    Regular,

    /// <summary>A folder.</summary>
    Folder,

    /// <summary>A character device, such as <c>/dev/null</c> or a terminal.</summary>
    Device,

    /// <summary>A disk that is accessed as a file.</summary>
    Disk,

    /// <summary>A named pipe. Opening it blocks until another program opens its other end.</summary>
    Pipe,

    /// <summary>A socket.</summary>
    Socket,
}

/// <summary>Determines the kind of a file without opening it. .NET treats named pipes and devices as ordinary files, and opening a named pipe can
/// block forever.</summary>
internal static class FileKinds
{
    /// <summary>Gets the kind of the object that a path refers to. Links are followed.</summary>
    public static FileKind Of(string path)
    {
        if (OperatingSystem.IsWindows() && path.StartsWith(@"\\.\", StringComparison.Ordinal))
        {
            return path.StartsWith(@"\\.\pipe\", StringComparison.OrdinalIgnoreCase) ? FileKind.Pipe : FileKind.Device;
        }

        if (Directory.Exists(path))
        {
            return FileKind.Folder;
        }

        if (!File.Exists(path))
        {
            return FileKind.Missing;
        }

        if (!FileStatus.IsAvailable)
        {
            return IsBrokenLink(path) ? FileKind.Missing : FileKind.Regular;
        }

        return (FileStatus.Of(path)?.Mode & 0xF000) switch // S_IFMT
        {
            null => FileKind.Missing, // a link that leads to nothing
            0x1000 => FileKind.Pipe,
            0x2000 => FileKind.Device,
            0x6000 => FileKind.Disk,
            0xC000 => FileKind.Socket,
            _ => FileKind.Regular,
        };
    }

    /// <summary>Describes a kind in a message.</summary>
    public static string Describe(this FileKind kind) =>
        kind switch
        {
            FileKind.Folder => "a folder",
            FileKind.Device => "a device",
            FileKind.Disk => "a disk",
            FileKind.Pipe => "a pipe",
            FileKind.Socket => "a socket",
            FileKind.Regular => "a file",
            _ => "missing",
        };

    // File.Exists is true for a link to nothing.
    private static bool IsBrokenLink(string path)
    {
        try
        {
            return File.ResolveLinkTarget(path, returnFinalTarget: true) is { Exists: false };
        }
        catch (IOException)
        {
            return true; // a loop of links
        }
    }
}
