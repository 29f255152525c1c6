using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Torch;

/// <summary>Tensors over memory that somebody else owns.</summary>
public static unsafe class TensorMemory
{
    /// <summary>Makes a tensor over memory without copying it.</summary>
    /// <param name="data">The first element; aligned to the element's size.</param>
    /// <param name="shape">Sizes; elements lie row by row.</param>
    /// <param name="dtype">The elements' type.</param>
    /// <param name="release">Called once, on any thread, when neither the tensor nor any view of it is left.</param>
    public static Tensor Over(IntPtr data, long[] shape, ScalarType dtype, Action? release)
    {
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
    private static int cudaTried;

    /// <summary>Whether the processor flushes denormal numbers to zero in calls made on this thread.</summary>
    /// <returns>False if it cannot.</returns>
    public static bool SetFlushDenormal(bool on) => Native.SetFlushDenormal(on ? 1 : 0) != 0;

    /// <summary>Loads libtorch's CUDA part, which registers its operators when loaded.</summary>
    /// <returns>Null, or why it could not be loaded.</returns>
    public static string? LoadCuda()
    {
        if (Interlocked.Exchange(ref cudaTried, 1) != 0) return CudaProblem;
        CudaProblem = Native.LoadLibrary("libtorch_cuda.so") == 0 ? null : Native.Failure().Message;
        return CudaProblem;
    }

    private static string? CudaProblem { get; set; }

    /// <summary>A copy of the tensor's layout with the channels innermost (<c>[n, c, h, w]</c> stored as n, h, w, c), which convolutions on a CPU prefer.</summary>
    public static Tensor ChannelsLast(Tensor tensor) => Aten.Call("contiguous", tensor, 2L);
}
