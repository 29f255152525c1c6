using OpenSora.Models.Layers;
using static TorchSharp.torch;

namespace OpenSora;

/// <summary>Counts tensors, to find those that a test leaves behind.</summary>
internal sealed class TensorCount
{
    private readonly long _start;

    private TensorCount() => _start = Settled; // what earlier tests left to the finalizer must not vanish while this one counts

    /// <summary>Gets the number of tensors that exist.</summary>
    public static long Now => Tensor.TotalCount - Absent();

    /// <summary>Gets or sets the number of objects that TorchSharp counts as tensors although they are none.</summary>
    public static Func<long> Absent { get; set; } = () => Gradients.AbsentCount;

    /// <summary>Gets the number of tensors after running the finalizers.</summary>
    public static long Settled
    {
        get
        {
            // An object with a finalizer keeps what it refers to alive until the next collection, and a thread that is about to end what it used.
            var before = -1L;
            for (var unchanged = 0; unchanged < 3; unchanged = before == Now ? unchanged + 1 : 0)
            {
                before = Now;
                GC.Collect();
                GC.WaitForPendingFinalizers();
                Thread.Sleep(unchanged * 5);
            }

            return Now;
        }
    }

    /// <summary>Gets the number of tensors created since the start and not yet disposed of. No modules may be created meanwhile.</summary>
    public long More => Now - _start;

    public static TensorCount Start() => new();

    /// <summary>Fails unless exactly this many tensors exist. If they are counted after the finalizers, fails only if more exist: a tensor of an
    /// earlier test may have been on a thread's stack when the test began to count.</summary>
    public static void ShouldBe(long expected, string? message = null, bool settled = false)
    {
        if (settled)
        {
            Settled.ShouldBeLessThanOrEqualTo(expected, message);
        }
        else
        {
            Now.ShouldBe(expected, message);
        }
    }
}
