namespace OpenSora.Weights;

/// <summary>The way this dependency set makes tensors of mapped memory.</summary>
internal static class TensorMemory
{
    public static ITensorMemory Default { get; } = new CopyingTensorMemory();
}
