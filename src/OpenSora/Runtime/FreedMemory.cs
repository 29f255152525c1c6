using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>Memory that was freed but that the C library keeps for later.</summary>
internal static partial class FreedMemory
{
    private static readonly bool CanTrim =
        OperatingSystem.IsLinux() && NativeLibrary.TryLoad(Library, out var library) && NativeLibrary.TryGetExport(library, nameof(malloc_trim), out _);

    private const string Library = "libc.so.6";

    /// <summary>Returns freed memory to the system. On Linux with glibc, requests that run at the same time on several threads would otherwise leave
    /// gaps in the memory of each thread, and the resident memory of the process would grow with the number of requests. Elsewhere, it does
    /// nothing.</summary>
    public static void Release()
    {
        if (CanTrim)
        {
            _ = malloc_trim(0);
        }
    }

    [LibraryImport(Library)]
    private static partial int malloc_trim(nint pad);
}
