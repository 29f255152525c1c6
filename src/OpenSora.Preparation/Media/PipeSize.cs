using System.IO.Pipes;
using System.Runtime.InteropServices;

namespace OpenSora.Preparation.Media;

/// <summary>Enlarges the buffers of pipes, so that a writer seldom waits for its reader.</summary>
internal static partial class PipeSize
{
    private const int SetPipeSize = 1031;
    private const int Bytes = 1 << 20; // the limit for users without privileges

    /// <summary>Enlarges the buffer of a pipe where the operating system can (Linux); elsewhere it keeps its size.</summary>
    internal static void Enlarge(Stream stream)
    {
        if (OperatingSystem.IsLinux() && stream is PipeStream pipe)
        {
            _ = Control(pipe.SafePipeHandle, SetPipeSize, Bytes);
        }
    }

    [LibraryImport("libc", EntryPoint = "fcntl")]
    private static partial int Control(SafeHandle file, int command, int argument);
}
