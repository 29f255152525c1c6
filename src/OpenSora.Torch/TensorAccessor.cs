using System.Collections;

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
        if (!Holds(tensor.dtype))
            throw new ArgumentException($"A tensor of {tensor.dtype} cannot be read as {typeof(T).Name}.");
        this.tensor = tensor;
    }

    public long Count => tensor.numel();

    public bool IsReadOnly => false;

    /// <summary>The element at an index a dimension, or the element of that number counted row by row.</summary>
    public unsafe T this[params long[] indices]
    {
        get
        {
            var value = *At(indices);
            GC.KeepAlive(tensor);
            return value;
        }

        set
        {
            *At(indices) = value;
            GC.KeepAlive(tensor);
        }
    }

    public unsafe T[] ToArray()
    {
        var array = new T[Count];
        CopyTo(array.AsSpan());
        return array;
    }

    public unsafe void CopyTo(Span<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tensorIndex);
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
            GC.KeepAlive(tensor);
        }
    }

    public void CopyTo(T[] array, int arrayIndex = 0, long tensorIndex = 0) => CopyTo(array.AsSpan(), arrayIndex, tensorIndex);

    public unsafe void CopyFrom(ReadOnlySpan<T> array, int arrayIndex = 0, long tensorIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tensorIndex);
        if (Count == 0) return;
        var source = array[arrayIndex..];
        var length = checked((int)Math.Min(source.Length, Count - tensorIndex));
        source[..length].CopyTo(new Span<T>((T*)tensor.Memory() + tensorIndex, length));
        GC.KeepAlive(tensor);
    }

    public void CopyFrom(T[] array, int arrayIndex = 0, long tensorIndex = 0) => CopyFrom((ReadOnlySpan<T>)array, arrayIndex, tensorIndex);

    public IEnumerator<T> GetEnumerator() => ((IEnumerable<T>)ToArray()).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    public void Dispose()
    {
    }

    private static bool Holds(torch.ScalarType dtype) => dtype switch
    {
        torch.ScalarType.Byte => typeof(T) == typeof(byte),
        torch.ScalarType.Int8 => typeof(T) == typeof(sbyte),
        torch.ScalarType.Int16 => typeof(T) == typeof(short),
        torch.ScalarType.Int32 => typeof(T) == typeof(int),
        torch.ScalarType.Int64 => typeof(T) == typeof(long),
        torch.ScalarType.Float16 => typeof(T) == typeof(Half),
        torch.ScalarType.Float32 => typeof(T) == typeof(float),
        torch.ScalarType.Float64 => typeof(T) == typeof(double),
        torch.ScalarType.Bool => typeof(T) == typeof(bool),
        torch.ScalarType.ComplexFloat64 => typeof(T) == typeof(System.Numerics.Complex),
        _ => false,
    };

    private unsafe T* At(long[] indices)
    {
        if (indices.Length == 1 && tensor.dim() != 1) indices = Unravel(indices[0]);
        if (indices.Length != tensor.dim()) throw new ArgumentException($"The tensor has {tensor.dim()} dimensions, not {indices.Length}.", nameof(indices));
        long offset = 0;
        for (var i = 0; i < indices.Length; i++)
        {
            if (indices[i] < 0 || indices[i] >= tensor.size(i)) throw new IndexOutOfRangeException($"Index {indices[i]} of dimension {i}, which has {tensor.size(i)} elements.");
            offset += indices[i] * tensor.stride(i);
        }

        return (T*)OpenSora.Torch.Native.Data(tensor.Handle) + offset;
    }

    private long[] Unravel(long number)
    {
        if (number < 0 || number >= Count) throw new IndexOutOfRangeException($"Index {number} into {Count} elements.");
        var sizes = tensor.shape;
        var indices = new long[sizes.Length];
        for (var i = sizes.Length - 1; i >= 0; i--) (number, indices[i]) = Math.DivRem(number, sizes[i]);
        return indices;
    }
}
