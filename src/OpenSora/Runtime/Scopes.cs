using static TorchSharp.torch;

namespace OpenSora.Runtime;

/// <summary>Dispose scopes around a computation that returns a tensor.</summary>
internal static class Scopes
{
    /// <summary>Runs a computation in a dispose scope: all its tensors are disposed of except its result, which belongs to the caller's
    /// scope.</summary>
    /// <param name="compute">The computation. It must not be asynchronous, because a scope belongs to a thread.</param>
    internal static Tensor Scoped(Func<Tensor> compute)
    {
        using var scope = NewDisposeScope();
        return compute().MoveToOuterDisposeScope();
    }
}
