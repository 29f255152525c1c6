using static TorchSharp.torch;

namespace OpenSora.Tests;

/// <summary>Counts the tensors that a test leaves.</summary>
internal sealed class TensorCount
{
    private readonly long start;

    private TensorCount()
    {
        // What earlier tests left to the finalizer must not vanish while this one counts.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        start = Tensor.TotalCount;
    }

    /// <summary>Tensors made since the start and not yet disposed of.</summary>
    public long More => Tensor.TotalCount - start;

    public static TensorCount Start() => new();
}
