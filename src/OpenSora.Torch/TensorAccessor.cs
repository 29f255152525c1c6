using System.Collections;
using System.Runtime.CompilerServices;

namespace TorchSharp.Utils;

/// <summary>The elements of a tensor on the CPU, row by row.</summary>
public sealed class TensorAccessor<T> : IDisposable, IEnumerable<T>
    where T : unmanaged
{
    private readonly torch.Tensor tensor;

    internal TensorAccessor(torch.Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CPU)
            throw new InvalidOperationException($"The elements of a tensor on {tensor.device} cannot be read directly; call cpu() first.");
        if (Unsafe.SizeOf<T>() != tensor.element_size() || (tensor.is_floating_point() && tensor.dtype != torch.ScalarType.BFloat16) != (typeof(T) == typeof(float) || typeof(T) == typeof(double) || typeof(T) == typeof(Half)))
            throw new ArgumentException($"A tensor of {tensor.dtype} cannot be read as {typeof(T).Name}.");
        this.tensor = tensor;
    }

    public long Count => tensor.numel();

    public bool IsReadOnly => false;

    public unsafe T this[params long[] indices]
    {
        get => *At(indices);
        set => *At(indices) = value;
    }

    public unsafe T[] ToArray()
    {
        var array = new T[Count];
        CopyTo(array.AsSpan());
        return array;
    }

    public unsafe void CopyTo(Span<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        if (Count == 0) return;
        var own = tensor.is_contiguous() ? null : tensor.detach().contiguous();
        try
        {
            var source = (T*)(own ?? tensor).Memory() + tensorIndex;
            var target = array[arrayIndex..];
            new ReadOnlySpan<T>(source, checked((int)Math.Min(Count - tensorIndex, target.Length))).CopyTo(target);
        }
        finally
        {
            own?.Dispose();
        }
    }

    public void CopyTo(T[] array, int arrayIndex = 0, long tensorIndex = 0) => CopyTo(array.AsSpan(), arrayIndex, tensorIndex);

    public unsafe void CopyFrom(ReadOnlySpan<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        if (Count == 0) return;
        var source = array[arrayIndex..];
        source[..(int)Math.Min(source.Length, Count - tensorIndex)].CopyTo(new Span<T>((T*)tensor.Memory() + tensorIndex, checked((int)(Count - tensorIndex))));
    }

    public void CopyFrom(T[] array, int arrayIndex = 0, long tensorIndex = 0) => CopyFrom((ReadOnlySpan<T>)array, arrayIndex, tensorIndex);

    public IEnumerator<T> GetEnumerator() => ((IEnumerable<T>)ToArray()).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    public void Dispose()
    {
    }

    private unsafe T* At(long[] indices)
    {
        if (indices.Length != tensor.dim()) throw new ArgumentException($"The tensor has {tensor.dim()} dimensions, not {indices.Length}.", nameof(indices));
        long offset = 0;
        for (var i = 0; i < indices.Length; i++)
        {
            if (indices[i] < 0 || indices[i] >= tensor.size(i)) throw new IndexOutOfRangeException($"Index {indices[i]} of dimension {i}, which has {tensor.size(i)} elements.");
            offset += indices[i] * tensor.stride(i);
        }

        return (T*)OpenSora.Torch.Native.Data(tensor.Handle) + offset;
    }
}
