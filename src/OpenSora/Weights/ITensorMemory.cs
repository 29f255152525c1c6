using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Makes tensors of memory that a weights file has mapped.</summary>
internal interface ITensorMemory
{
    /// <summary>Makes a CPU tensor of <paramref name="bytes"/> bytes at <paramref name="data"/>.</summary>
    /// <param name="data">First element, aligned to the element's size.</param>
    /// <param name="bytes">Length; the shape's elements times the element's size, never 0.</param>
    /// <param name="shape">The tensor's shape.</param>
    /// <param name="dtype">The tensor's type.</param>
    /// <param name="release">Called exactly once when the memory is no longer needed: after the copy, or when the last tensor over it is gone.
    /// Not called if this method throws.</param>
    Tensor Create(IntPtr data, long bytes, long[] shape, ScalarType dtype, Action release);

    /// <summary>Whether the tensors lie in the mapped memory, and <see cref="Replace"/> lets others lie there too.</summary>
    bool IsMapped { get; }

    /// <summary>Lets a tensor, such as a parameter, take the values of another of the same type and shape, and its memory if that is mapped.</summary>
    void Replace(Tensor target, Tensor source);
}

/// <summary>Copies the memory; plain TorchSharp API.</summary>
internal sealed class CopyingTensorMemory : ITensorMemory
{
    /// <inheritdoc/>
    public unsafe Tensor Create(IntPtr data, long bytes, long[] shape, ScalarType dtype, Action release)
    {
        var tensor = empty(shape, dtype);
        try
        {
            using var stream = new UnmanagedMemoryStream((byte*)data, bytes);
            tensor.ReadBytesFromStream(stream, (int)Math.Min(bytes, 1 << 20)); // the buffer is managed memory, made anew each time
        }
        catch
        {
            tensor.Dispose();
            throw;
        }

        release();
        return tensor;
    }

    /// <inheritdoc/>
    public bool IsMapped => false;

    /// <inheritdoc/>
    public void Replace(Tensor target, Tensor source) => target.copy_(source);
}
