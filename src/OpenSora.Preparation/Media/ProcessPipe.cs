using System.IO.Pipes;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace OpenSora.Preparation.Media;

/// <summary>Reads pipes of processes with little overhead.</summary>
internal static partial class ProcessPipe
{
    private const int SetPipeSize = 1031;
    private const int Bytes = 1 << 20; // the limit for users without privileges

    /// <summary>Opens the pipe of a reader for blocking reads, which take less time than those of the pipe's own stream, and enlarges its buffer
    /// where the operating system can, so that the process seldom waits.</summary>
    internal static Stream Open(StreamReader reader)
    {
        if (reader.BaseStream is not PipeStream pipe)
        {
            return reader.BaseStream;
        }

        if (OperatingSystem.IsLinux())
        {
            _ = Control(pipe.SafePipeHandle, SetPipeSize, Bytes);
        }

        // The process closes the pipe.
        return new FileStream(new SafeFileHandle(pipe.SafePipeHandle.DangerousGetHandle(), ownsHandle: false), FileAccess.Read, bufferSize: 0);
    }

    [LibraryImport("libc", EntryPoint = "fcntl")]
    private static partial int Control(SafeHandle file, int command, int argument);
}
