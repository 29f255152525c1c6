using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Memory for tensors that are used rarely: files that are mapped into the address space of the process, so that the operating system can
/// write their pages to disk, or plain memory. This type is thread-safe.</summary>
/// <remarks>On Linux and macOS, a file is deleted as soon as it is mapped: the mapping stays valid as long as a tensor uses it, and nothing is left
/// behind when the process is killed. Other systems delete the files when this object is disposed.</remarks>
/// <param name="folder">The folder in which a temporary folder is created for the files; null for plain memory.</param>
internal sealed class ScratchMemory(string? folder) : IDisposable
{
    // Smaller tensors are not worth a file. In bytes.
    private const long Smallest = 1 << 16;

    private readonly Lock _gate = new();
    private string? _own;
    private int _files;

    /// <summary>Gets whether large tensors are in files.</summary>
    public bool IsMapped => folder is not null;

    /// <summary>Creates a tensor on the CPU, filled with zeros. The caller owns it, outside of dispose scopes.</summary>
    /// <exception cref="IOException">The disk has not enough space, or the folder cannot be written.</exception>
    public Tensor Zeros(long[] shape, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var count = shape.Aggregate(1L, (product, length) => product * length);
        var bytes = count * type.ElementSize();
        if (folder is null || bytes < Smallest)
        {
            return zeros(shape, type).DetachFromDisposeScope();
        }

        string path;
        lock (_gate)
        {
            if (_own is null)
            {
                Directory.CreateDirectory(folder);
                _own = Path.Combine(folder, $"opensora-scratch-{Environment.ProcessId}-{Guid.NewGuid():N}");
                Directory.CreateDirectory(_own);
            }

            path = Path.Combine(_own, $"{_files++}");
        }

        try
        {
            // Allocates the space: writing to the mapping of a file for which the disk has no space would end the process.
            using (File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write, preallocationSize: bytes)) { }

            return from_file(path, shared: true, size: count, dtype: type).view(shape).DetachFromDisposeScope();
        }
        finally
        {
            if (!OperatingSystem.IsWindows())
            {
                File.Delete(path);
            }
        }
    }

    /// <summary>Creates a tensor with the values of another one. The caller owns it, outside of dispose scopes.</summary>
    public Tensor Copy(Tensor values, ScalarType? type = null)
    {
        using var noGradients = no_grad();
        using var source = values.detach();
        var copy = Zeros(source.shape, type ?? source.dtype);
        copy.copy_(source);
        return copy;
    }

    /// <summary>Removes the pages of a tensor from the resident memory if it is in a file. They come back when they are used.</summary>
    public void Drop(Tensor tensor) => Advise(tensor, MappedPages.Drop);

    /// <summary>Starts to read the pages of a tensor from disk if it is in a file.</summary>
    public void ReadAhead(Tensor tensor) => Advise(tensor, MappedPages.ReadAhead);

    private void Advise(Tensor tensor, Action<nint, long> advise)
    {
        var bytes = tensor.numel() * tensor.element_size();
        if (folder is not null && bytes >= Smallest)
        {
            advise(Address(tensor), bytes);
        }
    }

    // The address of the first element of a contiguous tensor on the CPU.
    private static unsafe nint Address(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        return (nint)Unsafe.AsPointer(ref MemoryMarshal.GetReference(tensor.detach().view(-1).narrow(0, 0, 1).bytes));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            try
            {
                if (_own is not null)
                {
                    Directory.Delete(_own, recursive: true);
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // On Windows, a file of a tensor that still exists cannot be deleted.
            }

            _own = null;
        }
    }
}
