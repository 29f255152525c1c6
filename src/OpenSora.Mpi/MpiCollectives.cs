using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace OpenSora.Mpi;

/// <summary>Communication over MPI between processes that were started by <c>mpirun</c> or Slurm, for tensors in the memory of CPUs.</summary>
/// <remarks>
/// <para>It requires an MPI library with the binary interface of MPICH: MPICH, Intel MPI, MVAPICH, or MS-MPI on Windows. A process that was started
/// without a launcher is a group of one.</para>
/// <para>One thread calls all functions of MPI. It polls operations in flight and sleeps while they make no progress. Each process also compares what
/// the others call, so that different calls are an error instead of a wrong result.</para>
/// </remarks>
public sealed class MpiCollectives : ICollectives
{
    /// <summary>The time after which an operation fails if <see cref="Create"/> has no other.</summary>
    public static readonly TimeSpan DefaultTimeout = TimeSpan.FromMinutes(10);

    private static readonly TimeSpan s_endTime = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(100);

    private static int s_created;

    private readonly MpiThread _thread;
    private readonly bool _isWhole;
    private readonly TimeSpan _timeout;
    private MpiGroup _group;
    private bool _disposed;

    private MpiCollectives(MpiThread thread, MpiGroup group, TimeSpan timeout, bool isWhole) =>
        (_thread, _group, _timeout, _isWhole) = (thread, group, timeout, isWhole);

    /// <inheritdoc/>
    public string Name => "mpi";

    /// <inheritdoc/>
    public int Rank => _group.Rank;

    /// <inheritdoc/>
    public int Size => _group.Size;

    /// <summary>Gets or sets the largest number of values in one call of MPI; tests set less.</summary>
    internal long LargestCount { get; set; } = int.MaxValue;

    /// <summary>Initializes MPI and joins the group of all processes. MPI can be initialized only once in a process.</summary>
    /// <param name="timeout">The time after which an operation that is not complete fails; null for <see cref="DefaultTimeout"/>. It must be longer
    /// than the longest time between the same call of two processes.</param>
    /// <exception cref="DllNotFoundException">No MPI library with the binary interface of MPICH was found.</exception>
    /// <exception cref="InvalidOperationException">MPI was initialized before in this process, or the launcher does not support the MPI
    /// library.</exception>
    /// <exception cref="CollectiveException">The other processes did not start in time.</exception>
    public static MpiCollectives Create(TimeSpan? timeout = null)
    {
        var limit = timeout ?? DefaultTimeout;
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(limit, TimeSpan.Zero, nameof(timeout));
        var launched = LaunchEnvironment.Read();
        MpiNative.Load();
        if (Interlocked.Exchange(ref s_created, 1) != 0)
        {
            throw new InvalidOperationException(
                "MPI was initialized before in this process, which is possible only once. Create one group, and divide it with Split."
            );
        }

        MpiGroup? group = null;
        var isForeign = false;
        var thread = new MpiThread(limit) { Place = $"rank {launched.Rank} of {launched.Size}" };
        using var start = thread.Add(thread, "The start of MPI", _ => group = MpiGroup.Start(out isForeign));
        if (!start.Wait(limit))
        {
            throw new CollectiveException(
                $"MPI did not start within {limit.TotalSeconds:0.###} s on {thread.Place}: not all processes that the launcher promised have started."
            );
        }

        start.Wait();
        if (isForeign)
        {
            throw new InvalidOperationException(
                "Other code of this process has initialized MPI. Remove that, because one thread must make all calls of MPI."
            );
        }

        if (group!.Size == 1 && launched.Size > 1)
        {
            throw new InvalidOperationException(
                $"The launcher ({launched.Launcher}) started {launched.Size} processes, but MPI knows only this one. Use the launcher that "
                    + "belongs to "
                    + "the MPI library (mpirun.mpich on Debian), or srun --mpi=pmi2 with Slurm."
            );
        }

        thread.Place = $"rank {group.Rank} of {group.Size}";
        return new MpiCollectives(thread, group, limit, isWhole: true);
    }

    /// <inheritdoc/>
    public CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum)
    {
        CollectiveArguments.Check(tensor, DeviceType.CPU, nameof(tensor));
        if (!Enum.IsDefined(operation))
        {
            throw new ArgumentOutOfRangeException(nameof(operation), operation, "Use Sum or Maximum.");
        }

        var work = Begin();
        var values = work.Wide(tensor, copyBack: true);
        var call = new MpiCall(operation == ReduceOperation.Sum ? MpiCallKind.Sum : MpiCallKind.Maximum, tensor.dtype);
        var (address, type) = (CollectiveArguments.Address(values), MpiGroup.TypeOf(values));
        var op = operation == ReduceOperation.Sum ? MpiNative.Sum : MpiNative.Maximum;
        ForPieces(values.numel(), (start, count) =>
            work.Start(call with { Count = count }, group =>
                (
                    MpiNative.MPI_Iallreduce(
                        MpiNative.InPlace,
                        address + (nint)(start * values.element_size()),
                        count,
                        type,
                        op,
                        group.Comm,
                        out var r
                    ),
                    r
                )
            )
        );
        return work;
    }

    /// <inheritdoc/>
    /// <remarks>The output can be the part of this process in the input.</remarks>
    public CollectiveOperation ReduceScatter(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckParts(output, input, Size, DeviceType.CPU, partIsOutput: true);
        var work = Begin();
        var wide = work.Wide(input, copyBack: false);
        var call = new MpiCall(MpiCallKind.ReduceScatter, input.dtype);
        ForPieces(output.numel(), (start, count) =>
        {
            var isWhole = count == output.numel();
            var send = isWhole ? wide : work.Columns(wide, Size, start, count);
            var direct = isWhole && wide.dtype == output.dtype && !CollectiveArguments.Overlap(output, input);
            var receive = direct ? output : work.Temporary(count, wide.dtype, part => output.view(-1).narrow(0, start, count).copy_(part));
            var (from, to, type) = (CollectiveArguments.Address(send), CollectiveArguments.Address(receive), MpiGroup.TypeOf(wide));
            work.Start(call with { Count = count }, group =>
                (MpiNative.MPI_Ireduce_scatter_block(from, to, count, type, MpiNative.Sum, group.Comm, out var r), r)
            );
        });
        return work;
    }

    /// <inheritdoc/>
    /// <remarks>The input can be the part of this process in the output.</remarks>
    public CollectiveOperation AllGather(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckParts(input, output, Size, DeviceType.CPU, partIsOutput: false);
        var inPlace = CollectiveArguments.Address(input) == CollectiveArguments.Address(output) + Rank * CollectiveArguments.Bytes(input);
        if (!inPlace && CollectiveArguments.Overlap(output, input))
        {
            throw new ArgumentException("The input is a part of the output, but not that of this process. Pass that part, or a copy.", nameof(input));
        }

        return Move(MpiCallKind.AllGather, output, input, inPlace);
    }

    /// <inheritdoc/>
    public CollectiveOperation AllToAll(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckExchange(output, input, Size, DeviceType.CPU);
        if (CollectiveArguments.Overlap(output, input))
        {
            throw new ArgumentException("The input and the output use the same memory. Pass another tensor as the output.", nameof(output));
        }

        return Move(MpiCallKind.AllToAll, output, input, inPlace: false);
    }

    /// <inheritdoc/>
    public CollectiveOperation Broadcast(Tensor tensor, int root = 0)
    {
        CollectiveArguments.Check(tensor, DeviceType.CPU, nameof(tensor));
        ArgumentOutOfRangeException.ThrowIfNegative(root);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(root, Size);
        var work = Begin();
        work.Keep(tensor);
        var (address, type) = (CollectiveArguments.Address(tensor), MpiGroup.TypeOf(tensor));
        ForPieces(tensor.numel(), (start, count) =>
            work.Start(new MpiCall(MpiCallKind.Broadcast, tensor.dtype, count, root), group =>
                (MpiNative.MPI_Ibcast(address + (nint)(start * tensor.element_size()), count, type, root, group.Comm, out var r), r)
            )
        );
        return work;
    }

    /// <inheritdoc/>
    public void Barrier()
    {
        var work = Begin();
        work.Start(new MpiCall(MpiCallKind.Barrier), group => (MpiNative.MPI_Ibarrier(group.Comm, out var r), r));
        work.Wait();
    }

    /// <inheritdoc/>
    public ICollectives Split(int color)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(color);
        var work = Begin();

        // MPI_Comm_split blocks, so it is called when all processes are known to call it.
        MpiGroup? part = null;
        work.Start(new MpiCall(MpiCallKind.Split), group => (MpiNative.MPI_Ibarrier(group.Comm, out var r), r), group => part = group.Split(color));
        work.Wait();
        return new MpiCollectives(_thread, part!, _timeout, isWhole: false) { LargestCount = LargestCount };
    }

    /// <summary>Ends all processes that the launcher started, including this one. Use it after a <see cref="CollectiveException"/> if the others may
    /// not notice the failure. It does not return.</summary>
    /// <param name="exitCode">The exit code of the processes.</param>
    public void Abort(int exitCode = 1) => _thread.Abort(exitCode);

    /// <summary>Leaves the group. The group of all processes ends MPI, for which it waits for the others; after a failure, it does not.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        if (_thread.Failure is null)
        {
            try
            {
                using var work = new MpiOperation(_thread, _group);
                if (_isWhole)
                {
                    work.Start(new MpiCall(MpiCallKind.Barrier), group => (MpiNative.MPI_Ibarrier(group.Comm, out var r), r));
                }
                else
                {
                    work.Run("The end of a group", group => group.Free());
                }

                work.Wait();
                if (_isWhole)
                {
                    var end = _thread.Add(_thread, "The end of MPI", _ => Finish(_group));
                    if (end.Wait(s_endTime))
                    {
                        end.Dispose();
                    }
                }
            }
            catch (CollectiveException)
            {
                // The others are gone. The failure was or will be reported by an operation, or there was none to report it.
            }
        }

        if (_isWhole && _thread.Failure is null)
        {
            _thread.Stop();
        }
    }

    // In MPICH 4.0 over UCX and TCP, a process waits in MPI_Finalize until all processes to which it has sent something have answered. After that, it
    // answers no more. Another process would wait forever if this one had answered it too early, or did not wait for it. Therefore, each process
    // sends something to each other one, and MPI_Finalize begins when all processes have left the last operation.
    private static void Finish(MpiGroup group)
    {
        const string Operation = "The end of MPI";
        MpiNative.ExchangeWithEach(group.Comm, group.Size, Operation);
        Thread.Sleep(s_pause);
        MpiNative.Check(MpiNative.MPI_Finalize(), Operation);
    }

    private MpiOperation Begin()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return new MpiOperation(_thread, _group);
    }

    private MpiOperation Move(MpiCallKind kind, Tensor output, Tensor input, bool inPlace)
    {
        var work = Begin();
        work.Keep(input);
        work.Keep(output);
        var call = new MpiCall(kind, input.dtype);
        var n = output.numel() / Size;
        var type = MpiGroup.TypeOf(input);
        ForPieces(n, (start, count) =>
        {
            var (send, receive, direct) = (input, output, inPlace);
            if (count != n)
            {
                direct = false;
                send = kind == MpiCallKind.AllToAll ? work.Columns(input, Size, start, count) : work.Columns(input, 1, start, count);
                receive = work.Temporary(count * Size, input.dtype, all => output.view(Size, n).narrow(1, start, count).copy_(all.view(Size, count)));
            }

            var (from, to) = (direct ? MpiNative.InPlace : CollectiveArguments.Address(send), CollectiveArguments.Address(receive));
            work.Start(call with { Count = count }, group =>
                kind == MpiCallKind.AllToAll
                    ? (MpiNative.MPI_Ialltoall(from, count, type, to, count, type, group.Comm, out var r), r)
                    : (MpiNative.MPI_Iallgather(from, count, type, to, count, type, group.Comm, out var s), s)
            );
        });
        return work;
    }

    // MPI counts with 32 bits, so larger tensors are sent in pieces.
    private void ForPieces(long count, Action<long, int> piece)
    {
        for (long start = 0; start == 0 || start < count; start += LargestCount)
        {
            piece(start, (int)Math.Min(LargestCount, count - start));
        }
    }
}
