using OpenSora.Models.Layers;
using static TorchSharp.torch;

namespace OpenSora;

/// <summary>Counts tensors, to find those that a test leaves.</summary>
internal sealed class TensorCount
{
    private readonly long _start;

    private TensorCount() => _start = Settled; // what earlier tests left to the finalizer must not vanish while this one counts

    /// <summary>Tensors that exist now.</summary>
    public static long Now => Tensor.TotalCount - Absent();

    /// <summary>What TorchSharp counts as tensors and is none.</summary>
    public static Func<long> Absent { get; set; } = () => Gradients.AbsentCount;

    /// <summary>Tensors that are left when the finalizer has been through.</summary>
    public static long Settled
    {
        get
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            return Now;
        }
    }

    /// <summary>Tensors made since the start and not yet disposed of. Modules are not to be made meanwhile.</summary>
    public long More => Now - _start;

    public static TensorCount Start() => new();

    /// <summary>Fails unless exactly this many tensors exist now.</summary>
    public static void ShouldBe(long expected, string? message = null, bool settled = false) => (settled ? Settled : Now).ShouldBe(expected, message);
}
