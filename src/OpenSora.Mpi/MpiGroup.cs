using System.Runtime.InteropServices;
using OpenSora.Distributed;
using static TorchSharp.torch;

namespace OpenSora.Mpi;

/// <summary>The operations of a group.</summary>
internal enum MpiCallKind
{
    Sum,
    Maximum,
    ReduceScatter,
    AllGather,
    AllToAll,
    Broadcast,
    Barrier,
    Split,
}

/// <summary>What a process calls, which must be the same in all processes of the group.</summary>
/// <param name="Kind">The operation.</param>
/// <param name="Type">The type of the values.</param>
/// <param name="Count">The number of values, or of those of a part.</param>
/// <param name="Root">The rank of the process that has the values.</param>
internal readonly record struct MpiCall(MpiCallKind Kind, ScalarType Type = ScalarType.Byte, long Count = 0, int Root = 0)
{
    /// <summary>Describes the call in messages.</summary>
    public override string ToString()
    {
        var values = $"{Count} {Type} values";
        return Kind switch
        {
            MpiCallKind.Sum => $"AllReduce (sum) of {values}",
            MpiCallKind.Maximum => $"AllReduce (maximum) of {values}",
            MpiCallKind.Broadcast => $"Broadcast of {values} from rank {Root}",
            MpiCallKind.ReduceScatter => $"ReduceScatter to parts of {values}",
            MpiCallKind.AllGather => $"AllGather of parts of {values}",
            MpiCallKind.AllToAll => $"AllToAll of parts of {values}",
            _ => Kind.ToString(),
        };
    }
}

/// <summary>A communicator of MPI for data, and a second one for comparing calls. Only the communication thread uses it.</summary>
internal sealed class MpiGroup
{
    private const int Words = 4;
    private int _comm;
    private int _comparisons;

    private MpiGroup(int comm)
    {
        _comm = comm;
        MpiNative.ReturnErrors(comm);
        MpiNative.Check(MpiNative.MPI_Comm_dup(comm, out _comparisons), "The start of a group");
        MpiNative.ReturnErrors(_comparisons);
        MpiNative.Check(MpiNative.MPI_Comm_rank(comm, out var rank), "The start of a group");
        MpiNative.Check(MpiNative.MPI_Comm_size(comm, out var size), "The start of a group");
        (Rank, Size) = (rank, size);
    }

    public int Comm => _comm;

    public int Rank { get; }

    public int Size { get; }

    /// <summary>Initializes MPI on this thread.</summary>
    /// <param name="isForeign">Whether other code has done so, in which case there is no group.</param>
    public static MpiGroup? Start(out bool isForeign)
    {
        const string Operation = "The start of MPI";
        MpiNative.Check(MpiNative.MPI_Initialized(out var initialized), Operation);
        isForeign = initialized != 0;
        if (isForeign)
        {
            return null;
        }

        MpiNative.Check(MpiNative.MPI_Init_thread(0, 0, MpiNative.ThreadFunneled, out var provided), Operation);
        if (provided < MpiNative.ThreadFunneled)
        {
            throw new CollectiveException("The MPI library does not support programs with threads (MPI_THREAD_FUNNELED). Install one that does.");
        }

        MpiNative.ReturnErrors(MpiNative.CommWorld);
        return new MpiGroup(MpiNative.CommWorld);
    }

    /// <summary>Gets MPI's type for the values of a tensor.</summary>
    public static int TypeOf(Tensor tensor) =>
        tensor.dtype switch
        {
            ScalarType.Float32 => MpiNative.Float,
            ScalarType.Float64 => MpiNative.Double,
            ScalarType.Int64 => MpiNative.LongLong,
            _ => MpiNative.Short,
        };

    /// <summary>Divides the group. All processes must do so at the same time.</summary>
    public MpiGroup Split(int color)
    {
        MpiNative.Check(MpiNative.MPI_Comm_split(_comm, color, Rank, out var part), "Split");
        return new MpiGroup(part);
    }

    /// <summary>Frees the communicators.</summary>
    public void Free()
    {
        MpiNative.Check(MpiNative.MPI_Comm_free(ref _comparisons), "The end of a group");
        MpiNative.Check(MpiNative.MPI_Comm_free(ref _comm), "The end of a group");
    }

    /// <summary>Starts to compare the call of this process with those of the others.</summary>
    public unsafe void StartComparison(MpiRequest request, MpiCall call)
    {
        if (Size == 1)
        {
            return;
        }

        var memory = (long*)NativeMemory.Alloc((nuint)((Size + 1) * Words), sizeof(long));
        (memory[0], memory[1], memory[2], memory[3]) = ((long)call.Kind, (long)call.Type, call.Count, call.Root);
        MpiNative.Check(
            MpiNative.MPI_Iallgather(
                (nint)memory,
                Words,
                MpiNative.LongLong,
                (nint)(memory + Words),
                Words,
                MpiNative.LongLong,
                _comparisons,
                out var handle
            ),
            request.Description
        );
        request.Add(handle, () => Compare(call, memory));
    }

    private unsafe void Compare(MpiCall call, long* memory)
    {
        for (var rank = 0; rank < Size; rank++)
        {
            var words = memory + (rank + 1) * Words;
            var other = new MpiCall((MpiCallKind)words[0], (ScalarType)words[1], words[2], (int)words[3]);
            if (other != call)
            {
                throw new CollectiveException(
                    $"The processes called different operations: {call} on rank {Rank}, but {other} on rank {rank}. All must make the same calls in "
                        + "the same order."
                );
            }
        }

        NativeMemory.Free(memory);
    }
}
