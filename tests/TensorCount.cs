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
            // An object with a finalizer keeps what it refers to alive until the next collection.
            for (long before = -1; before != Now; )
            {
                before = Now;
                GC.Collect();
                GC.WaitForPendingFinalizers();
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }

            return Now;
        }
    }

    /// <summary>Gets the number of tensors created since the start and not yet disposed of. No modules may be created meanwhile.</summary>
    public long More => Now - _start;

    public static TensorCount Start() => new();

    /// <summary>Fails unless exactly this many tensors exist.</summary>
    public static void ShouldBe(long expected, string? message = null, bool settled = false) => (settled ? Settled : Now).ShouldBe(expected, message);
}
