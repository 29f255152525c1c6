using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>Advice to the operating system about the pages of a file that is mapped for reading only.</summary>
/// <remarks>On Windows, pages are not read ahead.</remarks>
internal static partial class MappedPages
{
    private const int WillNeed = 3, // MADV_WILLNEED and MADV_DONTNEED have the same values on Linux and macOS
        DontNeed = 4;

    /// <summary>Starts to read the pages of a range from disk, without adding them to the resident memory of the process.</summary>
    public static void ReadAhead(nint start, long length) => Advise(start, length, WillNeed);

    /// <summary>Removes the pages of a range from the resident memory of the process. They are read again when they are used.</summary>
    public static void Drop(nint start, long length) => Advise(start, length, DontNeed);

    private static void Advise(nint start, long length, int advice)
    {
        if (length <= 0)
        {
            return;
        }

        // The advice is about whole pages. The operating system may ignore it, so the results are not used.
        if (OperatingSystem.IsWindows())
        {
            if (advice == DontNeed)
            {
                _ = VirtualUnlock(start, (nuint)length); // removes pages that are not locked from the working set
            }

            return;
        }

        var offset = start % Environment.SystemPageSize;
        _ = Advise(start - offset, (nuint)(length + offset), advice);
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int Advise(nint start, nuint length, int advice);

    [LibraryImport("kernel32")]
    private static partial int VirtualUnlock(nint start, nuint length);
}
