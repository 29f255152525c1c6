using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A file mapped into memory. The map is private to this process: writing into the memory never changes the file.</summary>
/// <remarks>Tensors over the map keep it alive after this object is disposed of.</remarks>
internal sealed class MappedFile : IDisposable
{
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
            _view = _file.CreateViewAccessor(0, Length, MemoryMappedFileAccess.CopyOnWrite);
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
    /// <exception cref="InvalidWeightsException">The type does not exist here, a boolean is neither 0 nor 1, or the file was cut while it was open.</exception>
    public Tensor Tensor(TensorEntry entry)
    {
        var (dtype, size) = Check(entry);
        if (entry.Length == 0)
            return empty(entry.Shape.ToArray(), dtype);
        var taken = false;
        _map.DangerousAddRef(ref taken);
        try
        {
            var data = _start + (IntPtr)entry.Offset;
            var memory = data % size == 0 ? Memory : new CopyingTensorMemory();
            var stored = entry.Strides is null ? entry.Shape.ToArray() : [entry.Length / size];
            var tensor = memory.Create(data, entry.Length, stored, dtype, _map.DangerousRelease);
            taken = false;
            if (entry.Strides is not { } strides)
                return tensor;
            using (tensor)
                return tensor.as_strided([.. entry.Shape], [.. strides]);
        }
        finally
        {
            if (taken)
                _map.DangerousRelease();
        }
    }

    /// <summary>Gives a tensor that has a map to itself, so that writing into it shows in no other; null if its elements do not lie aligned and row by row.</summary>
    /// <exception cref="InvalidWeightsException">As for <see cref="Tensor"/>.</exception>
    public Tensor? TensorAlone(TensorEntry entry)
    {
        var (dtype, size) = Check(entry);
        if (!Memory.IsMapped || entry.Length == 0 || entry.Strides is not null || entry.Offset % size != 0)
            return null;
        var view = _file.CreateViewAccessor(entry.Offset, entry.Length, MemoryMappedFileAccess.CopyOnWrite);
        try
        {
            var data = view.SafeMemoryMappedViewHandle.DangerousGetHandle() + (IntPtr)view.PointerOffset;
            return Memory.Create(data, entry.Length, [.. entry.Shape], dtype, view.SafeMemoryMappedViewHandle.Dispose);
        }
        catch
        {
            view.Dispose();
            throw;
        }
    }

    /// <summary>Closes the file. The map goes when the last tensor over it does.</summary>
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
