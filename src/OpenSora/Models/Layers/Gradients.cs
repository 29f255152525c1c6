using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Gradients by asking for them, not by filling <c>grad</c>.</summary>
internal static class Gradients
{
    private static long _absent;

    /// <summary>Gradients of outputs by inputs; null of what the outputs do not depend on, which TorchSharp gives as a tensor without a
    /// handle.</summary>
    /// <param name="outputs">What is derived.</param>
    /// <param name="inputs">By what it is derived.</param>
    /// <param name="weights">Gradients by the outputs; null where these are single numbers.</param>
    public static Tensor?[] Of(IList<Tensor> outputs, IList<Tensor> inputs, IList<Tensor>? weights = null) =>
        [.. autograd.grad(outputs, inputs, weights, allow_unused: true).Select(gradient => gradient is { IsInvalid: false } ? gradient : Absent())];

    /// <summary>How often an input had no gradient. TorchSharp makes an object without a tensor for each of these and counts it in
    /// <see cref="Tensor.TotalCount"/>
    /// for ever.</summary>
    internal static long AbsentCount => Interlocked.Read(ref _absent);

    private static Tensor? Absent()
    {
        Interlocked.Increment(ref _absent);
        return null;
    }
}
