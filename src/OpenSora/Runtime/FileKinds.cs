using System.Runtime.InteropServices;

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
internal static unsafe partial class FileKinds
{
    private const int CurrentFolder = -100, // AT_FDCWD
        TypeAndMode = 0x3; // STATX_TYPE | STATX_MODE

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

        return (ModeOf(path) & 0xF000) switch // S_IFMT
        {
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

    /// <summary>Gets <c>st_mode</c>, or 0 if it is not available.</summary>
    private static int ModeOf(string path)
    {
        const int structSize = 256;
        var status = stackalloc byte[structSize];
        new Span<byte>(status, structSize).Clear();
        try
        {
            if (OperatingSystem.IsLinux())
            {
                return StatX(CurrentFolder, path, 0, TypeAndMode, status) == 0 ? *(ushort*)(status + 28) : 0;
            }

            if (OperatingSystem.IsMacOS())
            {
                var isIntel = RuntimeInformation.ProcessArchitecture == Architecture.X64;
                return (isIntel ? StatIntel(path, status) : Stat(path, status)) == 0 ? *(ushort*)(status + 4) : 0;
            }
        }
        catch (EntryPointNotFoundException)
        {
            // A C library older than glibc 2.28; TorchSharp does not run there.
        }

        return 0;
    }

    // The layout of struct statx is the same on all Linux platforms; that of struct stat is not.
    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatX(int folder, string path, int flags, uint mask, byte* status);

    [LibraryImport("libc", EntryPoint = "stat", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Stat(string path, byte* status);

    [LibraryImport("libc", EntryPoint = "stat$INODE64", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatIntel(string path, byte* status);
}
