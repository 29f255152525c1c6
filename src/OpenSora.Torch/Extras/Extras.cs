using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Torch;

/// <summary>Tensors over memory that somebody else owns.</summary>
public static unsafe class TensorMemory
{
    /// <summary>Makes a tensor over memory without copying it.</summary>
    /// <param name="data">The first element; aligned to the element's size. Must not be zero.</param>
    /// <param name="shape">Sizes; elements lie row by row.</param>
    /// <param name="dtype">The elements' type.</param>
    /// <param name="release">Called once, on any thread, when neither the tensor nor any view of it is left; must not throw. Not called if this method throws.</param>
    /// <exception cref="ArgumentException">There is no memory, or the shape is negative or too large.</exception>
    public static Tensor Over(IntPtr data, long[] shape, ScalarType dtype, Action? release)
    {
        // Checked here, since libtorch must not fail once it has taken the memory over.
        ArgumentNullException.ThrowIfNull(shape);
        if (data == IntPtr.Zero) throw new ArgumentNullException(nameof(data), "There is no memory; expected the address of the first element.");
        if (!Enum.IsDefined(dtype) || !Fits(shape))
            throw new ArgumentException($"A tensor of {dtype} cannot have the shape [{string.Join(", ", shape)}].", nameof(shape));
        var context = release is null ? IntPtr.Zero : GCHandle.ToIntPtr(GCHandle.Alloc(release));
        fixed (long* sizes = shape)
        {
            var handle = Native.OverMemory(data, sizes, shape.Length, (int)dtype, release is null ? null : &Release, context);
            if (handle != IntPtr.Zero) return Tensor.Own(handle);
        }

        var failure = Native.Failure();
        if (release is not null) GCHandle.FromIntPtr(context).Free();
        throw failure;
    }

    /// <summary>Lets a tensor refer to another's memory from now on. It stays the same tensor: for optimizers, modules and gradients that know it.</summary>
    /// <param name="target">The tensor; views of it stay with the old memory.</param>
    /// <param name="source">A tensor of the same type, shape and device.</param>
    /// <exception cref="ArgumentException">They differ in type, shape or device.</exception>
    public static void Replace(Tensor target, Tensor source)
    {
        ArgumentNullException.ThrowIfNull(target);
        ArgumentNullException.ThrowIfNull(source);
        if (target.dtype != source.dtype || target.device_type != source.device_type || target.device_index != source.device_index || !target.shape.AsSpan().SequenceEqual(source.shape))
            throw new ArgumentException($"A {source.dtype} [{string.Join(", ", source.shape)}] on {source.device} cannot take the place of a {target.dtype} [{string.Join(", ", target.shape)}] on {target.device}.", nameof(source));
        target.SetData(source);
    }

    /// <summary>Whether a shape's bytes can be counted, whatever the type.</summary>
    private static bool Fits(long[] shape)
    {
        Int128 bytes = 16; // of the widest element
        foreach (var size in shape)
        {
            bytes *= Math.Max(size, 1);
            if (size < 0 || bytes > long.MaxValue) return false;
        }

        return true;
    }

    [UnmanagedCallersOnly]
    private static void Release(IntPtr context)
    {
        var pin = GCHandle.FromIntPtr(context);
        var action = (Action)pin.Target!;
        pin.Free();
        action();
    }
}

/// <summary>Counts the tensors that programs hold.</summary>
public static class LiveTensors
{
    /// <summary>Tensors that exist now.</summary>
    public static long Count => Tensor.TotalCount;

    /// <summary>Tensors that nobody disposed of and the finalizer had to free.</summary>
    public static long Finalized => Tensor.FinalizedCount;
}

/// <summary>What TorchSharp has no word for.</summary>
public static class Backends
{
    private static readonly Lazy<string?> CudaProblem = new(() => Native.LoadLibrary("libtorch_cuda.so") == 0 ? null : Native.Failure().Message);

    /// <summary>Whether the processor flushes denormal numbers to zero in calls made on this thread.</summary>
    /// <returns>False if it cannot.</returns>
    public static bool SetFlushDenormal(bool on) => Native.SetFlushDenormal(on ? 1 : 0) != 0;

    /// <summary>Loads libtorch's CUDA part, which registers its operators when loaded.</summary>
    /// <returns>Null, or why it could not be loaded.</returns>
    public static string? LoadCuda() => CudaProblem.Value;

    /// <summary>A copy of the tensor's layout with the channels innermost (<c>[n, c, h, w]</c> stored as n, h, w, c), which convolutions on a CPU prefer.</summary>
    public static Tensor ChannelsLast(Tensor tensor) => Aten.Call("contiguous", tensor, 2L);
}
