using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A file mapped into memory. The map is private to this process: writing into the memory never changes the file.</summary>
/// <remarks>The whole file is mapped for reading only, which systems allow for files larger than the memory; what tensors lie in is mapped for each of them.</remarks>
internal sealed class MappedFile : IDisposable
{
    // Below this, a map of its own (a page and an entry of the system's table) costs more than it saves.
    private const int SmallestMap = 1 << 16;

    private readonly SafeFileHandle _handle;
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly SafeHandle _map;
    private readonly IntPtr _start;

    /// <summary>Maps a file of at least <paramref name="minimum"/> bytes.</summary>
    public MappedFile(string path, ITensorMemory memory, int minimum)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        Path = System.IO.Path.GetFullPath(path);
        Memory = memory;
        if (Directory.Exists(Path))
            throw new InvalidWeightsException(Path, "it is a folder; expected a file of weights. A model folder is opened with ModelFolder.Open.");
        if (!File.Exists(Path))
            throw new FileNotFoundException($"The weights file '{Path}' does not exist.", Path);
        _handle = File.OpenHandle(Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, FileOptions.RandomAccess);
        try
        {
            Length = RandomAccess.GetLength(_handle);
            if (Length < minimum)
                throw new InvalidWeightsException(Path, $"it is {Length} bytes long, which is too short for a file of weights.");
            _file = MemoryMappedFile.CreateFromFile(_handle, mapName: null, capacity: 0, MemoryMappedFileAccess.CopyOnWrite, HandleInheritability.None, leaveOpen: true);
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

    /// <summary>The file's length when it was mapped.</summary>
    public long Length { get; }

    /// <summary>How tensors are made of the memory.</summary>
    public ITensorMemory Memory { get; }

    /// <summary>Bytes of the file; to be used before this object is disposed of.</summary>
    public unsafe ReadOnlySpan<byte> Bytes(long offset, int length)
    {
        ObjectDisposedException.ThrowIf(_map.IsClosed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - length);
        return new((byte*)_start + offset, length);
    }

    /// <summary>Gives a tensor on the CPU, in the file's own type, owned by the caller. It outlives this object.</summary>
    /// <remarks>Large tensors lie in maps of their own, so that writing into one shows in no other; small or unaligned ones are copied.</remarks>
    /// <exception cref="InvalidWeightsException">The type does not exist here, a boolean is neither 0 nor 1, or the file was cut while it was open.</exception>
    public Tensor Tensor(TensorEntry entry)
    {
        var (dtype, size) = Check(entry);
        if (entry.Length == 0)
            return empty([.. entry.Shape], dtype);
        long[] stored = entry.Strides is null ? [.. entry.Shape] : [entry.Length / size];
        var tensor = Memory.IsMapped && entry.Length >= SmallestMap && entry.Offset % size == 0 ? InMapOfItsOwn(entry, stored, dtype) : Copied(entry, stored, dtype);
        if (entry.Strides is not { } strides)
            return tensor;
        using (tensor)
            return tensor.as_strided([.. entry.Shape], [.. strides]);
    }

    private Tensor InMapOfItsOwn(TensorEntry entry, long[] shape, ScalarType dtype)
    {
        var view = _file.CreateViewAccessor(entry.Offset, entry.Length, MemoryMappedFileAccess.CopyOnWrite);
        try
        {
            var data = view.SafeMemoryMappedViewHandle.DangerousGetHandle() + (IntPtr)view.PointerOffset;
            return Memory.Create(data, entry.Length, shape, dtype, view.SafeMemoryMappedViewHandle.Dispose);
        }
        catch
        {
            view.Dispose();
            throw;
        }
    }

    private Tensor Copied(TensorEntry entry, long[] shape, ScalarType dtype)
    {
        var taken = false;
        try
        {
            _map.DangerousAddRef(ref taken);
            return new CopyingTensorMemory().Create(_start + (IntPtr)entry.Offset, entry.Length, shape, dtype, release: () => { });
        }
        finally
        {
            if (taken)
                _map.DangerousRelease();
        }
    }

    /// <summary>Closes the file. Maps that tensors lie in go with them.</summary>
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
            throw new InvalidWeightsException(Path, $"tensor '{InvalidWeightsException.Shown(entry.Name)}' has the dtype {entry.Type}, for which there are no tensors here; convert the file to F32, F16 or BF16.");
        if (RandomAccess.GetLength(_handle) < Length)
            throw new InvalidWeightsException(Path, "it was cut short while it was open. Whoever writes weights must write a new file and rename it.");
        if (dtype == ScalarType.Bool)
            CheckBooleans(entry);
        return (dtype, SafetensorsHeader.TypeOf(entry.Type).Size);
    }

    private unsafe void CheckBooleans(TensorEntry entry)
    {
        var data = (byte*)_start + entry.Offset;
        for (long done = 0; done < entry.Length; done += int.MaxValue)
        {
            if (new ReadOnlySpan<byte>(data + done, (int)Math.Min(int.MaxValue, entry.Length - done)).ContainsAnyExceptInRange((byte)0, (byte)1))
                throw new InvalidWeightsException(Path, $"the boolean tensor '{InvalidWeightsException.Shown(entry.Name)}' holds bytes other than 0 and 1.");
        }
    }
}
