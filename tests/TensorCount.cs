using static TorchSharp.torch;

namespace OpenSora;

/// <summary>Counts tensors, to find those that a test leaves.</summary>
internal sealed class TensorCount
{
    private readonly long start;

    private TensorCount() => start = Settled; // what earlier tests left to the finalizer must not vanish while this one counts

    /// <summary>Tensors that exist now.</summary>
    public static long Now => Tensor.TotalCount;

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
    public long More => Now - start;

    public static TensorCount Start() => new();

    /// <summary>Fails where other than so many tensors exist now.</summary>
    /// <remarks>The package TorchSharp (0.107) counts two tensors for every new parameter, and one of them never goes: with it nothing is checked here.</remarks>
    public static void ShouldBe(long expected, string? message = null, bool settled = false)
    {
#if DEPENDENCYSET_SYSTEM
        (settled ? Settled : Now).ShouldBe(expected, message);
#endif
    }
}
