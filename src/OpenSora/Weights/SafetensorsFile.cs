using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A safetensors file, mapped into memory.</summary>
/// <remarks>
/// <para>Opening reads and checks the header only; a tensor's bytes are read from disk when they are used. Where the tensor library allows it, the
/// tensors lie in the mapped memory itself. The map is private to this process: writing into such a tensor never changes the file.</para>
/// <para>Tensors stay valid after the file object is disposed of: the map goes when the last of them does. Safe to use from several threads at once.</para>
/// </remarks>
public sealed class SafetensorsFile : IDisposable
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly SafeHandle _map;
    private readonly IntPtr _start;
    private readonly ITensorMemory _memory;

    private unsafe SafetensorsFile(string path, long length, ITensorMemory memory)
    {
        Path = path;
        _memory = memory;
        using (var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete))
        {
            _file = MemoryMappedFile.CreateFromFile(stream, mapName: null, capacity: 0, MemoryMappedFileAccess.CopyOnWrite, HandleInheritability.None, leaveOpen: true);
            _view = _file.CreateViewAccessor(0, length, MemoryMappedFileAccess.CopyOnWrite);
        }

        _map = _view.SafeMemoryMappedViewHandle;
        _start = _map.DangerousGetHandle() + (IntPtr)_view.PointerOffset;
        try
        {
            var prefix = new ReadOnlySpan<byte>((void*)_start, SafetensorsHeader.PrefixLength);
            var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
            if (headerLength > (ulong)(length - SafetensorsHeader.PrefixLength) || headerLength > SafetensorsHeader.MaxLength)
                throw new InvalidWeightsException(path, WhatElse(prefix) ?? $"it claims a header of {headerLength} bytes, but is {length} bytes long; it is truncated or not a safetensors file.");
            var header = new ReadOnlySpan<byte>((void*)(_start + SafetensorsHeader.PrefixLength), (int)headerLength);
            var entries = SafetensorsHeader.Parse(path, header, length, out var metadata);
            Metadata = metadata;
            Tensors = new OrderedDictionary<string, TensorEntry>(entries.Select(entry => KeyValuePair.Create(entry.Name, entry)), StringComparer.Ordinal);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The file's path.</summary>
    public string Path { get; }

    /// <summary>The file's own key-value pairs.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>What the file holds, by name, in the order of its bytes.</summary>
    public IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <summary>Maps a file and checks its header.</summary>
    /// <param name="path">A safetensors file.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">It is a folder, is no safetensors file, is truncated or contradicts itself.</exception>
    public static SafetensorsFile Open(string path) => Open(path, TensorMemory.Default);

    internal static SafetensorsFile Open(string path, ITensorMemory memory)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        path = System.IO.Path.GetFullPath(path);
        if (Directory.Exists(path))
            throw new InvalidWeightsException(path, "it is a folder; expected a .safetensors file. A model folder is opened with ModelFolder.Open.");
        var file = new FileInfo(path);
        if (!file.Exists)
            throw new FileNotFoundException($"The weights file '{path}' does not exist.", path);
        if (file.Length < SafetensorsHeader.PrefixLength)
            throw new InvalidWeightsException(path, $"it is {file.Length} bytes long, which is too short for a safetensors file.");
        return new SafetensorsFile(path, file.Length, memory);
    }

    /// <summary>Gives one tensor, on the CPU, in the file's own type.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>The tensor, owned by the caller; it outlives this object.</returns>
    /// <exception cref="KeyNotFoundException">The file has no such tensor.</exception>
    /// <exception cref="InvalidWeightsException">The tensor's type does not exist in the tensor library, or a boolean is neither 0 nor 1.</exception>
    /// <exception cref="ObjectDisposedException">The file is closed.</exception>
    public unsafe Tensor Read(string name)
    {
        ObjectDisposedException.ThrowIf(_map.IsClosed, this);
        if (!Tensors.TryGetValue(name, out var entry))
            throw new KeyNotFoundException($"'{Path}' has no tensor '{name}'. It has {Tensors.Count}: {string.Join(", ", Tensors.Keys.Take(8))}{(Tensors.Count > 8 ? ", ..." : "")}");
        if (entry.Dtype is not { } dtype)
            throw new InvalidWeightsException(Path, $"tensor '{name}' has the dtype {entry.Type}, for which there are no tensors here; convert the file to F32, F16 or BF16.");
        var shape = entry.Shape.ToArray();
        if (entry.Length == 0)
            return empty(shape, dtype);

        var taken = false;
        _map.DangerousAddRef(ref taken);
        try
        {
            var data = _start + (IntPtr)entry.Offset;
            if (dtype == ScalarType.Bool)
                CheckBooleans(entry, (byte*)data);
            var aligned = data % SafetensorsHeader.TypeOf(entry.Type).Size == 0;
            var tensor = (aligned ? _memory : new CopyingTensorMemory()).Create(data, entry.Length, shape, dtype, _map.DangerousRelease);
            taken = false;
            return tensor;
        }
        finally
        {
            if (taken)
                _map.DangerousRelease();
        }
    }

    /// <summary>Closes the file. Tensors that were read from it stay valid.</summary>
    public void Dispose()
    {
        _view.Dispose();
        _file.Dispose();
    }

    private unsafe void CheckBooleans(TensorEntry entry, byte* data)
    {
        for (long done = 0; done < entry.Length; done += int.MaxValue)
        {
            if (new ReadOnlySpan<byte>(data + done, (int)Math.Min(int.MaxValue, entry.Length - done)).ContainsAnyExceptInRange((byte)0, (byte)1))
                throw new InvalidWeightsException(Path, $"the boolean tensor '{entry.Name}' holds bytes other than 0 and 1.");
        }
    }

    /// <summary>Recognises kinds of file that are given in place of weights.</summary>
    private static string? WhatElse(ReadOnlySpan<byte> start) => start switch
    {
        [(byte)'P', (byte)'K', 3, 4, ..] => "it is a zip archive, probably a PyTorch checkpoint (.pt, .pth, .bin); expected safetensors.",
        [0x80, >= 2 and <= 5, ..] => "it is a Python pickle, probably an old PyTorch checkpoint (.pt, .pth, .bin); expected safetensors.",
        [(byte)'v', (byte)'e', (byte)'r', (byte)'s', (byte)'i', (byte)'o', (byte)'n', (byte)' ', ..] => "it is a text file that begins with 'version', probably a Git LFS pointer; fetch the real file with 'git lfs pull'.",
        [(byte)'{', ..] => "it is a text file that looks like JSON; expected safetensors.",
        [(byte)'<', ..] => "it is a text file that looks like HTML or XML, probably an error page saved by a download; expected safetensors.",
        _ => null,
    };
}
