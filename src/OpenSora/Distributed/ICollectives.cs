using static TorchSharp.torch;

namespace OpenSora.Distributed;

/// <summary>Communication between the processes of a group: each process calls the same operations with tensors of the same shapes in the same order.
/// Packages provide implementations: OpenSora.Lib.Mpi for CPUs and OpenSora.Lib.Cuda for GPUs.</summary>
/// <remarks>
/// <para>Operations start when they are called and end when <see cref="CollectiveOperation.Wait"/> returns; until then, the tensors must not be read,
/// written or disposed. Several operations can be in flight; they are performed in the order in which they were started.</para>
/// <para>Tensors are contiguous, on the device of the group, and of type float32, bfloat16, float64 or int64. Sums of bfloat16 tensors are
/// accumulated
/// in float32. An instance is not thread-safe: call it from one thread at a time.</para>
/// <para>If a process of the group ends or does not answer within the timeout of the group, the operations of the others fail with a
/// <see cref="CollectiveException"/>. The group cannot be used afterwards.</para>
/// </remarks>
public interface ICollectives : IDisposable
{
    /// <summary>Gets the name of the implementation, such as <c>mpi</c>.</summary>
    string Name { get; }

    /// <summary>Gets the number of this process in the group, from 0.</summary>
    int Rank { get; }

    /// <summary>Gets the number of processes in the group.</summary>
    int Size { get; }

    /// <summary>Replaces a tensor by its sum, or maximum, over all processes. Every process receives the same bits.</summary>
    /// <param name="tensor">The tensor, which is changed in place.</param>
    /// <param name="operation">How the values are combined.</param>
    CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum);

    /// <summary>Sums a tensor over all processes and gives each process the part of its rank.</summary>
    /// <param name="output">The part of this process, <c>[n, ...]</c>.</param>
    /// <param name="input">The tensor to sum, <c>[size * n, ...]</c>.</param>
    CollectiveOperation ReduceScatter(Tensor output, Tensor input);

    /// <summary>Gives every process the tensors of all processes in the order of the ranks.</summary>
    /// <param name="output">The result, <c>[size * n, ...]</c>.</param>
    /// <param name="input">The tensor of this process, <c>[n, ...]</c>.</param>
    CollectiveOperation AllGather(Tensor output, Tensor input);

    /// <summary>Sends part i of a tensor to process i, and receives part i of the result from process i.</summary>
    /// <param name="output">The result, <c>[size * n, ...]</c>.</param>
    /// <param name="input">The tensor of this process, <c>[size * n, ...]</c>.</param>
    CollectiveOperation AllToAll(Tensor output, Tensor input);

    /// <summary>Replaces the tensors of all processes by the one of <paramref name="root"/>.</summary>
    /// <param name="tensor">The tensor, which is changed in place.</param>
    /// <param name="root">The rank of the process that has the values.</param>
    CollectiveOperation Broadcast(Tensor tensor, int root = 0);

    /// <summary>Waits until every process has called this method.</summary>
    void Barrier();

    /// <summary>Divides the group: processes that pass the same number form a group, in the order of their ranks. Every process must call this
    /// method.</summary>
    /// <param name="color">The number of the new group of this process, at least 0.</param>
    /// <returns>The new group, owned by the caller.</returns>
    ICollectives Split(int color);
}

/// <summary>The function that combines the values of several processes.</summary>
public enum ReduceOperation
{
    /// <summary>The sum.</summary>
    Sum,

    /// <summary>The maximum.</summary>
    Maximum,
}

/// <summary>An operation of <see cref="ICollectives"/> that was started.</summary>
public abstract class CollectiveOperation
{
    /// <summary>Gets an operation that is complete.</summary>
    public static CollectiveOperation Completed { get; } = new CompletedOperation();

    /// <summary>Waits until the tensors of the operation can be used. On a GPU, only the work that follows on the device waits.</summary>
    /// <exception cref="CollectiveException">Another process ended, did not answer in time, or called something else.</exception>
    public abstract void Wait();

    private sealed class CompletedOperation : CollectiveOperation
    {
        public override void Wait() { }
    }
}

/// <summary>The communication between the processes of a group failed: a process ended, did not answer in time, or called another
/// operation.</summary>
public sealed class CollectiveException : Exception
{
    /// <summary>Initializes a new exception with a message.</summary>
    public CollectiveException(string message)
        : base(message) { }

    /// <summary>Initializes a new exception with a message and its cause.</summary>
    public CollectiveException(string message, Exception? innerException)
        : base(message, innerException) { }
}
