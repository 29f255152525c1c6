using System.IO.MemoryMappedFiles;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A memory-mapped file, opened for reading.</summary>
/// <remarks>This mapping is used to read descriptions and to copy tensors; tensors that are views use the mappings in
/// <see cref="TensorMaps"/>.</remarks>
internal sealed class MappedFile : IDisposable
{
    // Views of smaller tensors cost more than they save. In bytes.
    private const int SmallestView = 1 << 16;

    private readonly SafeFileHandle _handle;
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly SafeHandle _map;
    private readonly IntPtr _start;

    /// <summary>Maps a file of at least <paramref name="minimum"/> bytes.</summary>
    public MappedFile(string path, int minimum)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        Path = System.IO.Path.GetFullPath(path);
        if (Directory.Exists(Path))
        {
            throw new InvalidWeightsException(Path, "it is a folder; expected a weights file. To open a model folder, use ModelFolder.Open.");
        }

        var kind = FileKinds.Of(Path);
        if (kind is FileKind.Missing)
        {
            throw new FileNotFoundException($"The weights file '{Path}' does not exist.", Path);
        }

        if (kind is not FileKind.Regular) // opening a pipe would block
        {
            throw new InvalidWeightsException(Path, $"it is {kind.Describe()}; expected a weights file.");
        }

        _handle = File.OpenHandle(Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, FileOptions.RandomAccess);
        try
        {
            Length = RandomAccess.GetLength(_handle);
            if (Length < minimum)
            {
                throw new InvalidWeightsException(Path, $"it is {Length} bytes long, which is too short for a weights file.");
            }

            _file = MemoryMappedFile.CreateFromFile(
                _handle,
                mapName: null,
                capacity: 0,
                MemoryMappedFileAccess.Read,
                HandleInheritability.None,
                leaveOpen: true
            );
            _view = _file.CreateViewAccessor(0, Length, MemoryMappedFileAccess.Read);
            _map = _view.SafeMemoryMappedViewHandle;
            _start = _map.DangerousGetHandle() + (IntPtr)_view.PointerOffset;
        }
        catch
        {
            _file?.Dispose();
            _handle.Dispose();
            throw;
        }
    }

    /// <summary>The file's full path.</summary>
    public string Path { get; }

    /// <summary>The length of the file in bytes when it was mapped.</summary>
    public long Length { get; }

    /// <summary>Gets bytes of the file. The span is valid only until this object is disposed.</summary>
    public unsafe ReadOnlySpan<byte> Bytes(long offset, int length)
    {
        ObjectDisposedException.ThrowIf(_map.IsClosed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - length);
        return new((byte*)_start + offset, length);
    }

    /// <summary>A path that refers to the open file even after another file has replaced it.</summary>
    public string OpenPath => OperatingSystem.IsLinux() ? $"/proc/self/fd/{_handle.DangerousGetHandle()}" : Path;

    /// <summary>Indicates whether <see cref="OpenPath"/> leads to the open file.</summary>
    public bool IsAtOpenPath =>
        OperatingSystem.IsLinux()
        || (
            File.GetLastWriteTimeUtc(Path) == File.GetLastWriteTimeUtc(_handle)
            && new FileInfo(Path) is { Exists: true } info
            && info.Length == Length
        );

    /// <summary>Starts to read a tensor from disk, without adding it to the resident memory.</summary>
    public void ReadAhead(TensorEntry entry) => MappedPages.ReadAhead(_start + (nint)entry.Offset, entry.Length);

    /// <summary>Removes the pages that reading a copy of a tensor has added to the resident memory.</summary>
    public void Drop(TensorEntry entry) => MappedPages.Drop(_start + (nint)entry.Offset, entry.Length);

    /// <summary>Reads a tensor on the CPU with the dtype in the file, or as float32 if the file has 8-bit floating-point numbers. The caller owns the
    /// tensor, which stays valid after this object is disposed.</summary>
    /// <param name="entry">The description of the tensor.</param>
    /// <param name="maps">The mappings that large tensors are views of. Small or unaligned tensors are copied. If null, all tensors are
    /// copied.</param>
    /// <exception cref="InvalidWeightsException">The dtype is not supported, a boolean is neither 0 nor 1, or the file was truncated while it was
    /// open.</exception>
    public Tensor Tensor(TensorEntry entry, TensorMaps? maps)
    {
        var (dtype, size) = Check(entry);
        if (entry.Length == 0)
        {
            return empty([.. entry.Shape], dtype);
        }

        long[] stored = entry.Strides is null ? [.. entry.Shape] : [entry.Length / size];
        var tensor = Float8.ValuesOf(entry.Type) is { } values
            ? Widened(entry, stored, values)
            : (entry.Length >= SmallestView ? maps?.TryView(this, entry.Offset, entry.Length, stored, dtype, size) : null)
                ?? Copied(entry, stored, dtype);
        if (entry.Strides is not { } strides)
        {
            return tensor;
        }

        using (tensor)
        {
            return tensor.as_strided([.. entry.Shape], [.. strides]);
        }
    }

    private unsafe Tensor Copied(TensorEntry entry, long[] shape, ScalarType dtype)
    {
        var taken = false;
        var tensor = empty(shape, dtype);
        try
        {
            _map.DangerousAddRef(ref taken);
            using var stream = new UnmanagedMemoryStream((byte*)_start + entry.Offset, entry.Length);
            tensor.ReadBytesFromStream(stream, (int)Math.Min(entry.Length, 1 << 20)); // each call allocates the buffer as managed memory
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
        finally
        {
            if (taken)
            {
                _map.DangerousRelease();
            }
        }
    }

    /// <summary>Creates a float32 tensor from bytes that are indices into a table of values.</summary>
    private unsafe Tensor Widened(TensorEntry entry, long[] shape, float[] values)
    {
        const int part = 1 << 20; // elements converted by one thread at a time
        var taken = false;
        var tensor = empty(shape, ScalarType.Float32);
        try
        {
            _map.DangerousAddRef(ref taken);
            using var flat = tensor.view(-1);
            using var first = flat.narrow(0, 0, 1);
            var source = (byte*)_start + entry.Offset;
            var target = (float*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(first.bytes));
            if (entry.Length <= part)
            {
                Convert(0, entry.Length);
            }
            else
            {
                Parallel.For(0, (entry.Length + part - 1) / part, i => Convert(i * part, Math.Min((i + 1) * part, entry.Length)));
            }

            return tensor;

            void Convert(long from, long to)
            {
                for (var i = from; i < to; i++)
                {
                    target[i] = values[source[i]];
                }
            }
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
        finally
        {
            if (taken)
            {
                _map.DangerousRelease();
            }
        }
    }

    /// <summary>Closes the file. Mappings that tensors use stay alive as long as those tensors.</summary>
    public void Dispose()
    {
        _view.Dispose();
        _file.Dispose();
        _handle.Dispose();
    }

    private (ScalarType Dtype, int Size) Check(TensorEntry entry)
    {
        ObjectDisposedException.ThrowIf(_map.IsClosed, this);
        if (entry.Dtype is not { } dtype)
        {
            throw new InvalidWeightsException(
                Path,
                $"tensor '{InvalidWeightsException.Shown(entry.Name)}' has the dtype {entry.Type}, which is not supported; "
                    + "convert the tensor to F32, F16 or BF16."
            );
        }

        if (RandomAccess.GetLength(_handle) < Length)
        {
            throw new InvalidWeightsException(Path, "it was truncated while it was open. To replace a weights file, write a new file and rename it.");
        }

        if (dtype == ScalarType.Bool)
        {
            CheckBooleans(entry);
        }

        return (dtype, SafetensorsHeader.TypeOf(entry.Type).Size);
    }

    private unsafe void CheckBooleans(TensorEntry entry)
    {
        var data = (byte*)_start + entry.Offset;
        for (long done = 0; done < entry.Length; done += int.MaxValue)
        {
            if (new ReadOnlySpan<byte>(data + done, (int)Math.Min(int.MaxValue, entry.Length - done)).ContainsAnyExceptInRange((byte)0, (byte)1))
            {
                throw new InvalidWeightsException(
                    Path,
                    $"the boolean tensor '{InvalidWeightsException.Shown(entry.Name)}' holds bytes other than 0 and 1."
                );
            }
        }
    }
}
