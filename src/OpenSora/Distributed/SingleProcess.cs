using static TorchSharp.torch;

namespace OpenSora.Distributed;

/// <summary>The group of one process, in which every operation is a copy or nothing.</summary>
internal sealed class SingleProcess : ICollectives
{
    /// <inheritdoc/>
    public string Name => "none";

    /// <inheritdoc/>
    public int Rank => 0;

    /// <inheritdoc/>
    public int Size => 1;

    /// <inheritdoc/>
    public CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum) => CollectiveOperation.Completed;

    /// <inheritdoc/>
    public CollectiveOperation ReduceScatter(Tensor output, Tensor input) => Copy(output, input);

    /// <inheritdoc/>
    public CollectiveOperation AllGather(Tensor output, Tensor input) => Copy(output, input);

    /// <inheritdoc/>
    public CollectiveOperation AllToAll(Tensor output, Tensor input) => Copy(output, input);

    /// <inheritdoc/>
    public CollectiveOperation Broadcast(Tensor tensor, int root = 0) => CollectiveOperation.Completed;

    /// <inheritdoc/>
    public void Barrier() { }

    /// <inheritdoc/>
    public ICollectives Split(int color) => new SingleProcess();

    /// <inheritdoc/>
    public void Dispose() { }

    private static CollectiveOperation Copy(Tensor output, Tensor input)
    {
        using var noGradients = no_grad();
        output.copy_(input);
        return CollectiveOperation.Completed;
    }
}
