using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Files as libtorch maps them: one private map for each file and element type, in which tensors lie as views.</summary>
/// <remarks>A view keeps its map alive, so that this object is disposed of as soon as all tensors are made. Writing into a view changes neither the
/// file nor a
/// view of another object like this one: the system copies the page.</remarks>
internal sealed class TensorMaps : IDisposable
{
    private readonly Dictionary<(MappedFile File, ScalarType Dtype), Tensor?> _maps = [];
    private readonly Dictionary<MappedFile, long> _ends = [];

    /// <summary>Gives a view of a file's bytes as a tensor.</summary>
    /// <param name="file">The file.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Length in bytes; the shape's elements times the element's size.</param>
    /// <param name="shape">The tensor's shape.</param>
    /// <param name="dtype">The tensor's type.</param>
    /// <param name="size">The size of an element in bytes.</param>
    /// <returns>The tensor, owned by the caller; null where the bytes have to be copied instead: they are not aligned, they overlap those of a tensor
    /// that was given before (so that writing into one would show in the other), or the system refuses the map.</returns>
    public Tensor? TryView(MappedFile file, long offset, long length, long[] shape, ScalarType dtype, int size)
    {
        if (offset % size != 0 || offset < _ends.GetValueOrDefault(file))
        {
            return null;
        }

        if (!_maps.TryGetValue((file, dtype), out var map))
        {
            _maps.Add((file, dtype), map = Map(file, dtype, size));
        }

        if (map is null)
        {
            return null;
        }

        _ends[file] = offset + length;
        using var elements = map.narrow(0, offset / size, length / size);
        return elements.view(shape);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var map in _maps.Values)
        {
            map?.Dispose();
        }

        _maps.Clear();
    }

    private static Tensor? Map(MappedFile file, ScalarType dtype, int size)
    {
        try
        {
            return from_file(file.OpenPath, shared: false, size: file.Length / size, dtype: dtype).DetachFromDisposeScope();
        }
        catch (ExternalException)
        {
            return null; // a file system without maps, or a limit on a process's addresses
        }
    }
}
