using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>Makes libtorch allocate large tensors in 2 MB pages on Linux.</summary>
/// <remarks>The operating system maps the memory of a new tensor page by page when it is first written. With 4 KB pages, this takes a quarter to a
/// third of the time of a transformer's forward pass (docs/lab/performance.md). Large pages do not use more memory. libtorch reads the environment
/// variable when it allocates the first tensor.</remarks>
internal static partial class LargePages
{
    private const string Variable = "THP_MEM_ALLOC_ENABLE"; // c10/core/alignment and impl/alloc_cpu

    /// <summary>Sets the environment variable for the native code of this process, unless the user has already set it.</summary>
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
