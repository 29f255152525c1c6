using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Files memory-mapped by libtorch: one private mapping for each file and element type. Tensors are views of these mappings.</summary>
/// <remarks>A view keeps its mapping alive, so this object can be disposed as soon as all tensors are created. Writing to a view changes neither the
/// file nor the views of another instance, because the operating system copies the page.</remarks>
internal sealed class TensorMaps : IDisposable
{
    private readonly Dictionary<(MappedFile File, ScalarType Dtype), Tensor?> _maps = [];
    private readonly Dictionary<MappedFile, long> _ends = [];

    /// <summary>Creates a tensor that is a view of a file's bytes.</summary>
    /// <param name="file">The file.</param>
    /// <param name="offset">The offset of the first byte in the file.</param>
    /// <param name="length">The length in bytes: the number of elements times the element size.</param>
    /// <param name="shape">The shape of the tensor.</param>
    /// <param name="dtype">The dtype of the tensor.</param>
    /// <param name="size">The size of an element in bytes.</param>
    /// <returns>The tensor, owned by the caller, or null if the bytes must be copied instead: they are not aligned, they overlap a tensor that was
    /// returned before (so that writing to one would change the other), or the operating system cannot map the file.</returns>
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
        if (!file.IsAtOpenPath)
        {
            return null; // another file has replaced it
        }

        try
        {
            return from_file(file.OpenPath, shared: false, size: file.Length / size, dtype: dtype).DetachFromDisposeScope();
        }
        catch (ExternalException)
        {
            return null; // a file system without memory mapping, or a limit on the address space of the process
        }
    }
}
