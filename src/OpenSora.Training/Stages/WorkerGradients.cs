using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Gradients of one of several threads that process a batch, which must not accumulate them in <c>grad</c>.</summary>
internal static class WorkerGradients
{
    private static long _absent;

    /// <summary>Gets the number of times that a loss did not depend on a parameter. For each of these, TorchSharp creates an object without a tensor
    /// and counts it in <see cref="Tensor.TotalCount"/> permanently.</summary>
    internal static long AbsentCount => Interlocked.Read(ref _absent);

    /// <summary>Computes the gradients of a loss, null for parameters on which it does not depend. The caller owns them.</summary>
    public static Tensor?[] Of(Tensor loss, IList<Tensor> parameters) =>
        [.. autograd.grad([loss], parameters, allow_unused: true).Select(gradient => gradient is { IsInvalid: false } ? Own(gradient) : Absent())];

    private static Tensor Own(Tensor gradient) => gradient.DetachFromDisposeScope();

    private static Tensor? Absent()
    {
        Interlocked.Increment(ref _absent);
        return null;
    }
}
