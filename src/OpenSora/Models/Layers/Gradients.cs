using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Computes gradients with <c>autograd.grad</c> instead of accumulating them in <c>grad</c>.</summary>
internal static class Gradients
{
    private static long _absent;

    /// <summary>Computes the gradients of outputs with respect to inputs. The gradient is null for an input on which the outputs do not depend;
    /// TorchSharp returns a tensor without a handle for it.</summary>
    /// <param name="outputs">The outputs to differentiate.</param>
    /// <param name="inputs">The inputs with respect to which the outputs are differentiated.</param>
    /// <param name="weights">The gradients with respect to the outputs; null if the outputs are scalars.</param>
    public static Tensor?[] Of(IList<Tensor> outputs, IList<Tensor> inputs, IList<Tensor>? weights = null) =>
        [.. autograd.grad(outputs, inputs, weights, allow_unused: true).Select(gradient => gradient is { IsInvalid: false } ? gradient : Absent())];

    /// <summary>The number of times that an input had no gradient. For each of these, TorchSharp creates an object without a tensor and counts it in
    /// <see cref="Tensor.TotalCount"/> permanently.</summary>
    internal static long AbsentCount => Interlocked.Read(ref _absent);

    private static Tensor? Absent()
    {
        Interlocked.Increment(ref _absent);
        return null;
    }
}
