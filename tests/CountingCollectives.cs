using OpenSora.Distributed;
using static TorchSharp.torch;

namespace OpenSora;

/// <summary>Counts the bytes that a process passes to a group.</summary>
internal sealed class CountingCollectives(ICollectives inner) : ICollectives
{
    public string Name => inner.Name;

    public int Rank => inner.Rank;

    public int Size => inner.Size;

    public long Bytes { get; private set; }

    public CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum) =>
        Count(tensor, inner.AllReduce(tensor, operation));

    public CollectiveOperation ReduceScatter(Tensor output, Tensor input) => Count(input, inner.ReduceScatter(output, input));

    public CollectiveOperation AllGather(Tensor output, Tensor input) => Count(input, inner.AllGather(output, input));

    public CollectiveOperation AllToAll(Tensor output, Tensor input) => Count(input, inner.AllToAll(output, input));

    public CollectiveOperation Broadcast(Tensor tensor, int root = 0) => Count(tensor, inner.Broadcast(tensor, root));

    public void Barrier() => inner.Barrier();

    public ICollectives Split(int color) => new CountingCollectives(inner.Split(color));

    public void Dispose() { }

    private CollectiveOperation Count(Tensor tensor, CollectiveOperation operation)
    {
        Bytes += tensor.numel() * tensor.element_size();
        return operation;
    }
}
