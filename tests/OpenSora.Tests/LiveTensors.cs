using static TorchSharp.torch;

namespace OpenSora.Tests;

/// <summary>Tests that count live tensors belong to this collection: they run alone, since the count is the whole process's.</summary>
[CollectionDefinition(nameof(LiveTensors), DisableParallelization = true)]
public sealed class LiveTensors
{
    private readonly long start;

    private LiveTensors()
    {
        // What earlier tests left to the finalizer must not vanish while this one counts.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        start = Tensor.TotalCount;
    }

    /// <summary>Tensors made since the start and not yet disposed of.</summary>
    public long More => Tensor.TotalCount - start;

    public static LiveTensors Count() => new();
}
