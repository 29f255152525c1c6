using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace OpenSora.Cuda;

/// <summary>Communication over NCCL between processes that each use one NVIDIA GPU, for tensors in the memory of these GPUs.</summary>
/// <remarks>
/// <para>It requires NVIDIA's library NCCL 2.18 or later (<c>libnccl.so.2</c>, Linux only). Any launcher that <see cref="LaunchEnvironment"/> knows
/// can
/// start the processes; they find each other at <c>MASTER_ADDR</c> and <c>MASTER_PORT</c>.</para>
/// <para>Operations run on a stream next to the default stream of the GPU. They start after the work that is in the default stream, and work that is
/// added to it after <see cref="CollectiveOperation.Wait"/> starts after them. NCCL adds bfloat16 values itself, and rounds each sum of two.</para>
/// <para>A thread watches the operations. If one is not complete within the timeout, or NCCL reports an error, it ends them, and all later calls
/// fail.</para>
/// </remarks>
public sealed class NcclCollectives : ICollectives
{
    /// <summary>The time after which an operation fails if <see cref="CreateAsync(TimeSpan?, CancellationToken)"/> has no other.</summary>
    public static readonly TimeSpan DefaultTimeout = TimeSpan.FromMinutes(10);

    private const int SumOperation = 0; // ncclSum
    private const int MaximumOperation = 2; // ncclMax
    private readonly INccl _nccl;
    private readonly nint _comm;
    private readonly TimeSpan _timeout;
    private readonly NcclWatch _watch;
    private bool _disposed;

    private NcclCollectives(INccl nccl, nint comm, int rank, int size, Device device, TimeSpan timeout)
    {
        (_nccl, _comm, Rank, Size, Device, _timeout) = (nccl, comm, rank, size, device, timeout);
        _watch = new NcclWatch(nccl, comm, Math.Max(device.index, 0), timeout, $"rank {rank} of {size}");
    }

    /// <inheritdoc/>
    public string Name => "nccl";

    /// <inheritdoc/>
    public int Rank { get; }

    /// <inheritdoc/>
    public int Size { get; }

    /// <summary>Gets the GPU of this process. All tensors must be on it.</summary>
    public Device Device { get; }

    /// <summary>Joins the group of all processes that the launcher started. The GPU is the one with the local rank of this process.</summary>
    /// <param name="timeout">The time after which an operation that is not complete fails; null for <see cref="DefaultTimeout"/>. The time limit for
    /// the
    /// start is the same.</param>
    /// <param name="cancellationToken">Cancels the start.</param>
    /// <exception cref="DllNotFoundException">NCCL or NVIDIA's driver is not installed.</exception>
    /// <exception cref="CollectiveException">The other processes did not start in time, or NCCL failed.</exception>
    public static async Task<NcclCollectives> CreateAsync(TimeSpan? timeout = null, CancellationToken cancellationToken = default)
    {
        var launched = LaunchEnvironment.Read();
        return await CreateAsync(
                NcclNative.Load(),
                launched,
                new Device(DeviceType.CUDA, launched.LocalRank),
                timeout ?? DefaultTimeout,
                cancellationToken
            )
            .ConfigureAwait(false);
    }

    /// <summary>Joins a group, with a library that tests can replace.</summary>
    internal static async Task<NcclCollectives> CreateAsync(
        INccl nccl,
        LaunchEnvironment launched,
        Device device,
        TimeSpan timeout,
        CancellationToken cancellationToken
    )
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(timeout, TimeSpan.Zero);
        var id = new byte[INccl.IdSize];
        if (launched.Rank == 0)
        {
            Check(nccl, nccl.GetUniqueId(id), "ncclGetUniqueId");
        }

        await Rendezvous.ShareAsync(launched, id, timeout, cancellationToken).ConfigureAwait(false);
        try
        {
            // It blocks until all processes call it.
            return await Task.Run(
                    () =>
                    {
                        CheckCuda(nccl, nccl.UseDevice(Math.Max(device.index, 0)), device);
                        Check(nccl, nccl.CommInitRank(out var comm, launched.Size, id, launched.Rank), "ncclCommInitRank");
                        return new NcclCollectives(nccl, comm, launched.Rank, launched.Size, device, timeout);
                    },
                    cancellationToken
                )
                .WaitAsync(timeout, cancellationToken)
                .ConfigureAwait(false);
        }
        catch (TimeoutException e)
        {
            throw new CollectiveException(
                $"NCCL did not start within {timeout.TotalSeconds:0.###} s on rank {launched.Rank} of {launched.Size}: another process ended, or the "
                    + "machines cannot reach each other. NCCL_DEBUG=INFO shows what NCCL does, and NCCL_SOCKET_IFNAME selects the network.",
                e
            );
        }
    }

    /// <inheritdoc/>
    public CollectiveOperation AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum)
    {
        Check(tensor, nameof(tensor));
        if (!Enum.IsDefined(operation))
        {
            throw new ArgumentOutOfRangeException(nameof(operation), operation, "Use Sum or Maximum.");
        }

        var (address, count) = (CollectiveArguments.Address(tensor), (nuint)tensor.numel());
        return Start($"AllReduce of {count} {tensor.dtype} values", [tensor], stream =>
            _nccl.AllReduce(
                address,
                address,
                count,
                TypeOf(tensor),
                operation == ReduceOperation.Sum ? SumOperation : MaximumOperation,
                _comm,
                stream
            )
        );
    }

    /// <inheritdoc/>
    /// <remarks>The output can be the part of this process in the input.</remarks>
    public CollectiveOperation ReduceScatter(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckParts(output, input, Size, Device.type, partIsOutput: true);
        CheckDevice(output, nameof(output));
        CheckDevice(input, nameof(input));
        CheckOverlap(output, input, nameof(output));
        var (from, to, count) = (CollectiveArguments.Address(input), CollectiveArguments.Address(output), (nuint)output.numel());
        return Start($"ReduceScatter to parts of {count} {input.dtype} values", [input, output], stream =>
            _nccl.ReduceScatter(from, to, count, TypeOf(input), SumOperation, _comm, stream)
        );
    }

    /// <inheritdoc/>
    /// <remarks>The input can be the part of this process in the output.</remarks>
    public CollectiveOperation AllGather(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckParts(input, output, Size, Device.type, partIsOutput: false);
        CheckDevice(output, nameof(output));
        CheckDevice(input, nameof(input));
        CheckOverlap(input, output, nameof(input));
        var (from, to, count) = (CollectiveArguments.Address(input), CollectiveArguments.Address(output), (nuint)input.numel());
        return Start($"AllGather of parts of {count} {input.dtype} values", [input, output], stream =>
            _nccl.AllGather(from, to, count, TypeOf(input), _comm, stream)
        );
    }

    /// <inheritdoc/>
    public CollectiveOperation AllToAll(Tensor output, Tensor input)
    {
        CollectiveArguments.CheckExchange(output, input, Size, Device.type);
        CheckDevice(output, nameof(output));
        CheckDevice(input, nameof(input));
        if (CollectiveArguments.Overlap(output, input))
        {
            throw new ArgumentException("The input and the output use the same memory. Pass another tensor as the output.", nameof(output));
        }

        var (from, to, count) = (CollectiveArguments.Address(input), CollectiveArguments.Address(output), input.numel() / Size);
        var bytes = (nint)(count * input.element_size());
        return Start($"AllToAll of parts of {count} {input.dtype} values", [input, output], stream =>
        {
            // A group of calls is one operation, so that no process waits for another in the wrong order.
            var error = _nccl.GroupStart();
            for (var peer = 0; error == 0 && peer < Size; peer++)
            {
                error = _nccl.Send(from + peer * bytes, (nuint)count, TypeOf(input), peer, _comm, stream);
                error = error != 0 ? error : _nccl.Receive(to + peer * bytes, (nuint)count, TypeOf(input), peer, _comm, stream);
            }

            var end = _nccl.GroupEnd();
            return error != 0 ? error : end;
        });
    }

    /// <inheritdoc/>
    public CollectiveOperation Broadcast(Tensor tensor, int root = 0)
    {
        Check(tensor, nameof(tensor));
        ArgumentOutOfRangeException.ThrowIfNegative(root);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(root, Size);
        var (address, count) = (CollectiveArguments.Address(tensor), (nuint)tensor.numel());
        return Start($"Broadcast of {count} {tensor.dtype} values from rank {root}", [tensor], stream =>
            _nccl.Broadcast(address, address, count, TypeOf(tensor), root, _comm, stream)
        );
    }

    /// <inheritdoc/>
    public void Barrier()
    {
        // It belongs to no scope of the caller.
        using var one = ones(1, ScalarType.Float32, Device).DetachFromDisposeScope();
        var address = CollectiveArguments.Address(one);
        Start("Barrier", [one], stream => _nccl.AllReduce(address, address, 1, TypeOf(one), SumOperation, _comm, stream));
        _watch.Finish("Barrier");
    }

    /// <inheritdoc/>
    public ICollectives Split(int color)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(color);

        // ncclCommSplit blocks, so it is called when all processes are known to call it.
        Barrier();
        CheckCuda(_nccl, _nccl.UseDevice(Math.Max(Device.index, 0)), Device);
        Check(_nccl, _nccl.CommSplit(_comm, color, Rank, out var part), "ncclCommSplit");
        Check(_nccl, _nccl.CommUserRank(part, out var rank), "ncclCommUserRank");
        Check(_nccl, _nccl.CommCount(part, out var size), "ncclCommCount");
        return new NcclCollectives(_nccl, part, rank, size, Device, _timeout);
    }

    /// <summary>Ends the operations in flight, for example after an error elsewhere in this process. All later calls fail.</summary>
    public void Abort() => _watch.Abort();

    /// <summary>Leaves the group, after the operations in flight.</summary>
    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _watch.Dispose();
        }
    }

    private static int TypeOf(Tensor tensor) =>
        tensor.dtype switch
        {
            ScalarType.Int64 => 4,
            ScalarType.Float32 => 7,
            ScalarType.Float64 => 8,
            _ => 9, // ncclBfloat16
        };

    private static void Check(INccl nccl, int error, string function)
    {
        if (error != 0)
        {
            throw new CollectiveException($"{function} failed: {nccl.DescribeError(error)}. NCCL_DEBUG=INFO shows the reason.");
        }
    }

    private static void CheckCuda(INccl nccl, int error, Device device)
    {
        if (error != 0)
        {
            throw new CollectiveException(
                $"The GPU {device} cannot be used: {nccl.DescribeCudaError(error)}. Start at most as many processes on a machine as it has GPUs."
            );
        }
    }

    private NcclOperation Start(string description, Tensor[] tensors, Func<nint, int> start)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return new NcclOperation(_watch, description, _watch.Start(description, start), tensors);
    }

    private void Check(Tensor tensor, string name)
    {
        CollectiveArguments.Check(tensor, Device.type, name);
        CheckDevice(tensor, name);
    }

    private void CheckDevice(Tensor tensor, string name)
    {
        if (Device.type == DeviceType.CUDA && tensor.device_index != Device.index)
        {
            throw new ArgumentException($"The tensor is on {tensor.device}, but the GPU of this process is {Device}. Move it there.", name);
        }
    }

    private void CheckOverlap(Tensor part, Tensor whole, string name)
    {
        var own = CollectiveArguments.Address(whole) + Rank * CollectiveArguments.Bytes(part);
        if (CollectiveArguments.Address(part) != own && CollectiveArguments.Overlap(part, whole))
        {
            throw new ArgumentException(
                "The tensors overlap, but one is not the part of this process in the other. Pass that part, or a copy.",
                name
            );
        }
    }

    private sealed class NcclOperation(NcclWatch watch, string description, nint end, Tensor[] tensors) : CollectiveOperation
    {
        public override void Wait()
        {
            watch.Follow(description, end);
            GC.KeepAlive(tensors);
        }
    }
}
