namespace OpenSora.Cuda;

/// <summary>The functions of NCCL and of the CUDA driver that collectives use. Those that return an integer return an error code, 0 without
/// error.</summary>
internal interface INccl
{
    /// <summary>The result of <see cref="QueryEvent"/> while work before the event is not done.</summary>
    const int NotReady = 600;

    /// <summary>The number of bytes of an identifier of a group.</summary>
    const int IdSize = 128;

    /// <summary>Makes a GPU the current one of this thread.</summary>
    int UseDevice(int device);

    /// <summary>Creates a stream that does not wait for the default stream.</summary>
    int CreateStream(out nint stream);

    int DestroyStream(nint stream);

    int CreateEvent(out nint @event);

    int RecordEvent(nint @event, nint stream);

    int WaitForEvent(nint stream, nint @event);

    int QueryEvent(nint @event);

    int DestroyEvent(nint @event);

    string DescribeCudaError(int error);

    int GetUniqueId(Span<byte> id);

    int CommInitRank(out nint comm, int size, ReadOnlySpan<byte> id, int rank);

    int CommSplit(nint comm, int color, int key, out nint part);

    int CommCount(nint comm, out int size);

    int CommUserRank(nint comm, out int rank);

    int CommGetAsyncError(nint comm, out int error);

    int CommAbort(nint comm);

    int CommDestroy(nint comm);

    int AllReduce(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream);

    int ReduceScatter(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream);

    int AllGather(nint send, nint receive, nuint count, int type, nint comm, nint stream);

    int Broadcast(nint send, nint receive, nuint count, int type, int root, nint comm, nint stream);

    int Send(nint buffer, nuint count, int type, int peer, nint comm, nint stream);

    int Receive(nint buffer, nuint count, int type, int peer, nint comm, nint stream);

    int GroupStart();

    int GroupEnd();

    string DescribeError(int error);
}
