using OpenSora.Cuda;

namespace OpenSora.Tests.Distributed;

/// <summary>A library that writes down its calls and does nothing. Stream 0 is the default stream.</summary>
internal sealed class FakeNccl : INccl
{
    private readonly Lock _lock = new();
    private readonly List<string> _calls = [];
    private nint _last = 100;

    /// <summary>Gets or sets whether operations take forever.</summary>
    public bool Hangs { get; set; }

    /// <summary>Gets or sets the error that NCCL reports later.</summary>
    public int AsyncError { get; set; }

    /// <summary>Gets or sets the function that fails.</summary>
    public string Failing { get; set; } = "";

    /// <summary>Gets the calls since the last time, without those of the watching thread.</summary>
    public string[] TakeCalls()
    {
        lock (_lock)
        {
            string[] calls = [.. _calls];
            _calls.Clear();
            return calls;
        }
    }

    public int UseDevice(int device) => 0;

    public int CreateStream(out nint stream) => Call("CreateStream", stream = 5);

    public int DestroyStream(nint stream) => Call("DestroyStream", stream);

    public int CreateEvent(out nint @event)
    {
        @event = ++_last;
        return 0;
    }

    public int RecordEvent(nint @event, nint stream) => Call("RecordEvent", @event, stream);

    public int WaitForEvent(nint stream, nint @event) => Call("WaitForEvent", stream, @event);

    public int QueryEvent(nint @event) => Hangs ? INccl.NotReady : 0;

    public int DestroyEvent(nint @event) => 0;

    public string DescribeCudaError(int error) => $"CUDA's error {error}";

    public int GetUniqueId(Span<byte> id)
    {
        for (var i = 0; i < id.Length; i++)
        {
            id[i] = (byte)(i + 1);
        }

        return Call("GetUniqueId", id.Length);
    }

    public int CommInitRank(out nint comm, int size, ReadOnlySpan<byte> id, int rank) =>
        Call($"CommInitRank id {id[0]}..{id[^1]}", size, rank, comm = 7);

    public int CommSplit(nint comm, int color, int key, out nint part) => Call("CommSplit", comm, color, key, part = 8);

    public int CommCount(nint comm, out int size)
    {
        size = 2;
        return 0;
    }

    public int CommUserRank(nint comm, out int rank)
    {
        rank = 1;
        return 0;
    }

    public int CommGetAsyncError(nint comm, out int error)
    {
        error = AsyncError;
        return 0;
    }

    public int CommAbort(nint comm) => Call("CommAbort", comm);

    public int CommDestroy(nint comm) => Call("CommDestroy", comm);

    public int AllReduce(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream) =>
        Call(send == receive ? "AllReduce in place" : "AllReduce", (nint)count, type, operation, comm, stream);

    public int ReduceScatter(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream) =>
        Call("ReduceScatter", (nint)count, type, operation, comm, stream);

    public int AllGather(nint send, nint receive, nuint count, int type, nint comm, nint stream) =>
        Call($"AllGather at {send - receive}", (nint)count, type, comm, stream);

    public int Broadcast(nint send, nint receive, nuint count, int type, int root, nint comm, nint stream) =>
        Call(send == receive ? "Broadcast in place" : "Broadcast", (nint)count, type, root, comm, stream);

    /// <summary>Gets the addresses of parts that were sent and received.</summary>
    public List<nint> Addresses { get; } = [];

    public int Send(nint buffer, nuint count, int type, int peer, nint comm, nint stream)
    {
        Addresses.Add(buffer);
        return Call("Send", (nint)count, type, peer, comm, stream);
    }

    public int Receive(nint buffer, nuint count, int type, int peer, nint comm, nint stream)
    {
        Addresses.Add(buffer);
        return Call("Receive", (nint)count, type, peer, comm, stream);
    }

    public int GroupStart() => Call("GroupStart");

    public int GroupEnd() => Call("GroupEnd");

    public string DescribeError(int error) => $"NCCL's error {error}";

    private int Call(string name, params nint[] arguments)
    {
        lock (_lock)
        {
            _calls.Add(arguments.Length == 0 ? name : $"{name} {string.Join(' ', arguments)}");
            return Failing.Length > 0 && name.StartsWith(Failing, StringComparison.Ordinal) ? 3 : 0;
        }
    }
}
