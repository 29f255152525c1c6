using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>The gradients that functions returned to libtorch on this thread in their backward passes. libtorch has its own references to them as
/// soon as it continues, but the caller's scope, in which the whole backward pass runs, would keep them to its end.</summary>
internal static class ReturnedGradients
{
    [ThreadStatic]
    private static List<Tensor>? t_tensors;

    /// <summary>Disposes of the gradients that were returned before. The backward pass of a function begins with this.</summary>
    /// <param name="received">The gradient that the function receives. Dispose of it at the end.</param>
    public static Tensor Release(Tensor received)
    {
        t_tensors?.ForEach(gradient => gradient.Dispose());
        t_tensors?.Clear();
        return received;
    }

    /// <summary>Adds a gradient, which the function returns.</summary>
    public static Tensor Add(Tensor gradient)
    {
        (t_tensors ??= []).Add(gradient);
        return gradient;
    }
}
