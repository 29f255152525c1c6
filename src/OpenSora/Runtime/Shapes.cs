using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>Describes shapes in error messages.</summary>
internal static class Shapes
{
    /// <summary>A shape in brackets; empty for null.</summary>
    public static string Text(Tensor? tensor) => tensor is null ? "" : Text(tensor.shape);

    /// <summary>A shape in brackets.</summary>
    public static string Text(long[] shape) => $"[{string.Join(", ", shape)}]";
}
