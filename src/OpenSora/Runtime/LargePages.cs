using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>Asks libtorch to put large tensors into pages of 2 MB on Linux.</summary>
/// <remarks>The operating system fills a new tensor's memory page by page when it is first written to. With pages of 4 KB that takes a quarter to a
/// third of a
/// transformer's forward pass (docs/performance.md); large pages take no more memory. libtorch reads the variable when it allocates the first
/// tensor.</remarks>
internal static partial class LargePages
{
    private const string Variable = "THP_MEM_ALLOC_ENABLE"; // c10/core/alignment and impl/alloc_cpu

    /// <summary>Sets the variable for the native code of this process, unless the user has set it.</summary>
    public static void Request()
    {
        if (OperatingSystem.IsLinux())
        {
            _ = SetVariable(Variable, "1", overwrite: 0); // Environment.SetEnvironmentVariable does not reach native code
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetVariable(string name, string value, int overwrite);
}
