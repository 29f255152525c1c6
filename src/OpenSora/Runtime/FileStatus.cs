using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>The status of a file on Linux and macOS, which .NET offers only in parts.</summary>
/// <param name="Mode">The kind and the permissions, <c>st_mode</c>.</param>
/// <param name="User">The number of the user who owns the file.</param>
/// <param name="Group">The number of the group that owns the file.</param>
internal readonly unsafe partial record struct FileStatus(int Mode, uint User, uint Group)
{
    private const int CurrentFolder = -100, // AT_FDCWD
        Fields = 0x1B, // STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID
        StructSize = 256;

    private const uint Unchanged = uint.MaxValue;

    /// <summary>Indicates whether the system tells the status of files.</summary>
    public static bool IsAvailable { get; } = Of(AppContext.BaseDirectory) is not null;

    /// <summary>Gets the status of the file or folder that a path leads to. Links are followed.</summary>
    /// <returns>The status; null if the path leads to nothing, or if the system does not tell.</returns>
    public static FileStatus? Of(string path)
    {
        var status = stackalloc byte[StructSize];
        new Span<byte>(status, StructSize).Clear();
        try
        {
            if (OperatingSystem.IsLinux())
            {
                return StatX(CurrentFolder, path, 0, Fields, status) == 0
                    ? new FileStatus(*(ushort*)(status + 28), *(uint*)(status + 20), *(uint*)(status + 24))
                    : null;
            }

            if (OperatingSystem.IsMacOS())
            {
                var isIntel = RuntimeInformation.ProcessArchitecture == Architecture.X64;
                return (isIntel ? StatIntel(path, status) : Stat(path, status)) == 0
                    ? new FileStatus(*(ushort*)(status + 4), *(uint*)(status + 16), *(uint*)(status + 20))
                    : null;
            }
        }
        catch (EntryPointNotFoundException)
        {
            // A C library older than glibc 2.28; TorchSharp does not run there.
        }

        return null;
    }

    /// <summary>Gives a file the owner and the group of another one, as far as the process may: usually, only an administrator may change the owner,
    /// and others may choose among their own groups. What is not allowed stays as it is.</summary>
    public static void CopyOwner(string from, string to)
    {
        if (Of(from) is not { } source || Of(to) is not { } target)
        {
            return;
        }

        if (source.User != target.User)
        {
            _ = ChangeOwner(to, source.User, Unchanged);
        }

        if (source.Group != target.Group)
        {
            _ = ChangeOwner(to, Unchanged, source.Group);
        }
    }

    // The layout of struct statx is the same on all Linux platforms; that of struct stat is not.
    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatX(int folder, string path, int flags, uint mask, byte* status);

    [LibraryImport("libc", EntryPoint = "stat", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Stat(string path, byte* status);

    [LibraryImport("libc", EntryPoint = "stat$INODE64", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatIntel(string path, byte* status);

    [LibraryImport("libc", EntryPoint = "chown", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int ChangeOwner(string path, uint user, uint group);
}
