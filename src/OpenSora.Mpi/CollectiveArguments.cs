using System.Runtime.InteropServices;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace OpenSora.Distributed;

/// <summary>Checks of the tensors of collective operations, and their addresses.</summary>
internal static class CollectiveArguments
{
    // TorchSharp has no public member for the address of a tensor on a GPU or of a large tensor, but its library has a function.
    private static readonly Lazy<Func<nint, nint>> DataOf = new(() =>
    {
        var library = NativeLibrary.Load("LibTorchSharp", typeof(TorchSharp.torch).Assembly, null);
        return Marshal.GetDelegateForFunctionPointer<DataFunction>(NativeLibrary.GetExport(library, "THSTensor_data")).Invoke;
    });

    /// <summary>Checks a tensor that is changed in place.</summary>
    public static void Check(Tensor tensor, DeviceType device, string name)
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.dtype is not (ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float64 or ScalarType.Int64))
        {
            throw new ArgumentException($"The tensor has the type {tensor.dtype}. Use float32, bfloat16, float64 or int64.", name);
        }

        if (tensor.device_type != device)
        {
            throw new ArgumentException(
                $"The tensor is on the device {tensor.device}, but this group exchanges tensors on {device}. Move it there, or use another group.",
                name
            );
        }

        if (!tensor.is_contiguous())
        {
            throw new ArgumentException("The tensor is not contiguous. Pass the result of contiguous().", name);
        }
    }

    /// <summary>Checks two tensors of which one has the parts of all processes in its first dimension.</summary>
    /// <param name="part">A tensor of shape <c>[n, ...]</c>.</param>
    /// <param name="whole">A tensor of shape <c>[size * n, ...]</c>.</param>
    /// <param name="size">The number of processes.</param>
    /// <param name="device">The device of the group.</param>
    /// <param name="partIsOutput">Whether the part is the output of the operation.</param>
    public static void CheckParts(Tensor part, Tensor whole, int size, DeviceType device, bool partIsOutput)
    {
        var (partName, wholeName) = partIsOutput ? ("output", "input") : ("input", "output");
        Check(part, device, partName);
        Check(whole, device, wholeName);
        CheckTypes(part, whole);
        if (
            part.dim() == 0
            || whole.dim() != part.dim()
            || whole.shape[0] != size * part.shape[0]
            || !part.shape[1..].SequenceEqual(whole.shape[1..])
        )
        {
            throw new ArgumentException(
                $"The {wholeName} has the shape {Shape(whole)} and the {partName} {Shape(part)}. With {size} processes, the first dimension of the "
                    + $"{wholeName} must be {size} times that of the {partName}, and the others must be equal.",
                partName
            );
        }
    }

    /// <summary>Checks the tensors of an exchange of parts between all processes.</summary>
    public static void CheckExchange(Tensor output, Tensor input, int size, DeviceType device)
    {
        Check(output, device, nameof(output));
        Check(input, device, nameof(input));
        CheckTypes(output, input);
        if (input.dim() == 0 || input.shape[0] % size != 0 || !input.shape.SequenceEqual(output.shape))
        {
            throw new ArgumentException(
                $"The input has the shape {Shape(input)} and the output {Shape(output)}. The shapes must be equal, and the first dimension must be a "
                    + $"multiple of {size}, the number of processes.",
                nameof(input)
            );
        }
    }

    /// <summary>Determines whether two tensors use the same memory.</summary>
    public static bool Overlap(Tensor first, Tensor second)
    {
        var (a, b) = (Address(first), Address(second));
        return a < b + Bytes(second) && b < a + Bytes(first);
    }

    /// <summary>Gets the number of bytes of a contiguous tensor.</summary>
    public static nint Bytes(Tensor tensor) => (nint)(tensor.numel() * tensor.element_size());

    /// <summary>Gets the address of the first value of a contiguous tensor.</summary>
    public static nint Address(Tensor tensor)
    {
        var address = tensor.numel() == 0 ? 0 : DataOf.Value(tensor.Handle);
        GC.KeepAlive(tensor);
        return address;
    }

    private static void CheckTypes(Tensor one, Tensor other)
    {
        if (one.dtype != other.dtype)
        {
            throw new ArgumentException($"The tensors have the types {one.dtype} and {other.dtype}. They must have the same type.", nameof(one));
        }
    }

    private static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";

    private delegate nint DataFunction(nint tensor);
}
