using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>The way this dependency set makes tensors of mapped memory: they lie in it.</summary>
internal sealed class TensorMemory : ITensorMemory
{
    public static ITensorMemory Default { get; } = new TensorMemory();

    /// <inheritdoc/>
    public Tensor Create(IntPtr data, long bytes, long[] shape, ScalarType dtype, Action release) => Torch.TensorMemory.Over(data, shape, dtype, release);

    /// <inheritdoc/>
    public bool IsMapped => true;

    /// <inheritdoc/>
    public void Replace(Tensor target, Tensor source) => Torch.TensorMemory.Replace(target, source);
}
