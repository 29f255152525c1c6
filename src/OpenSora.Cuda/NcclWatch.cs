using System.Diagnostics;
using OpenSora.Distributed;

namespace OpenSora.Cuda;

/// <summary>The stream of a group and the operations in flight on it. A thread watches them, because a GPU waits for a lost process
/// forever.</summary>
internal sealed class NcclWatch : IDisposable
{
    private const int InProgress = 7; // ncclInProgress

    private readonly Lock _lock = new();
    private readonly Queue<(string Description, nint End, long Started)> _running = new();
    private readonly Stack<nint> _events = new();
    private readonly INccl _nccl;
    private readonly nint _comm;
    private readonly int _device;
    private readonly TimeSpan _timeout;
    private readonly string _place;
    private readonly ManualResetEventSlim _stop = new();
    private readonly Thread _thread;
    private CollectiveException? _failure;

    public NcclWatch(INccl nccl, nint comm, int device, TimeSpan timeout, string place)
    {
        (_nccl, _comm, _device, _timeout, _place) = (nccl, comm, device, timeout, place);
        CheckCuda(nccl.CreateStream(out var stream));
        Stream = stream;
        _thread = new Thread(Watch) { IsBackground = true, Name = "NCCL" };
        _thread.Start();
    }

    /// <summary>Gets the stream on which NCCL works, next to the default stream, on which libtorch does.</summary>
    public nint Stream { get; }

    /// <summary>Starts an operation after the work that is now in the default stream.</summary>
    /// <returns>The event at the end of the operation, for <see cref="Follow"/>.</returns>
    public nint Start(string description, Func<nint, int> start)
    {
        lock (_lock)
        {
            ThrowIfFailed(description);
            CheckCuda(_nccl.UseDevice(_device));
            var before = TakeEvent();
            CheckCuda(_nccl.RecordEvent(before, 0));
            CheckCuda(_nccl.WaitForEvent(Stream, before));
            _events.Push(before);
            var error = start(Stream);
            if (error != 0)
            {
                throw Fail($"{description} failed in NCCL on {_place}: {_nccl.DescribeError(error)}");
            }

            var end = TakeEvent();
            CheckCuda(_nccl.RecordEvent(end, Stream));
            _running.Enqueue((description, end, Stopwatch.GetTimestamp()));
            return end;
        }
    }

    /// <summary>Makes work that is added to the default stream from now on wait for an operation.</summary>
    public void Follow(string description, nint end)
    {
        lock (_lock)
        {
            ThrowIfFailed(description);
            CheckCuda(_nccl.UseDevice(_device));
            CheckCuda(_nccl.WaitForEvent(0, end));
        }
    }

    /// <summary>Waits until the operations that were started are done.</summary>
    public void Finish(string description)
    {
        while (true)
        {
            lock (_lock)
            {
                ThrowIfFailed(description);
                CheckCuda(_nccl.UseDevice(_device));
                CheckRunning();
                ThrowIfFailed(description);
                if (_running.Count == 0)
                {
                    return;
                }
            }

            Thread.Sleep(1);
        }
    }

    /// <summary>Ends the operations in flight, whatever state they are in.</summary>
    public void Abort()
    {
        lock (_lock)
        {
            if (_failure is null)
            {
                _ = Fail($"The group was aborted on {_place}.");
            }
        }
    }

    /// <summary>Frees the group. Only operations that all processes have started are waited for.</summary>
    public void Dispose()
    {
        _stop.Set();
        _thread.Join();
        lock (_lock)
        {
            _ = _nccl.UseDevice(_device);
            if (_failure is null)
            {
                // It waits for the stream.
                _ = _nccl.CommDestroy(_comm);
            }

            foreach (var (_, end, _) in _running)
            {
                _events.Push(end);
            }

            foreach (var one in _events)
            {
                _ = _nccl.DestroyEvent(one);
            }

            _ = _nccl.DestroyStream(Stream);
        }

        _stop.Dispose();
    }

    private void Watch()
    {
        while (!_stop.Wait(TimeSpan.FromMilliseconds(100)))
        {
            lock (_lock)
            {
                if (_failure is null && _nccl.UseDevice(_device) == 0)
                {
                    CheckRunning();
                }
            }
        }
    }

    private void CheckRunning()
    {
        while (_running.TryPeek(out var first) && _nccl.QueryEvent(first.End) is var state and not INccl.NotReady)
        {
            if (state != 0)
            {
                _ = Fail($"{first.Description} failed on {_place}: {_nccl.DescribeCudaError(state)}");
                return;
            }

            // A call of Follow that comes after the next use of the event waits for more than it has to.
            _events.Push(_running.Dequeue().End);
        }

        if (_nccl.CommGetAsyncError(_comm, out var error) == 0 && error != 0 && error != InProgress)
        {
            _ = Fail($"NCCL failed on {_place}: {_nccl.DescribeError(error)}");
        }
        else if (_running.TryPeek(out var late) && Stopwatch.GetElapsedTime(late.Started) > _timeout)
        {
            _ = Fail(
                $"{late.Description} did not complete within {_timeout.TotalSeconds:0.###} s on {_place}: another process ended, hangs, calls "
                    + "something "
                    + "else, or computes for longer than this timeout."
            );
        }
    }

    private CollectiveException Fail(string message)
    {
        _failure = new CollectiveException(message);
        _ = _nccl.CommAbort(_comm);
        return _failure;
    }

    private void ThrowIfFailed(string description)
    {
        if (_failure is { } failure)
        {
            throw new CollectiveException($"{description} is not possible, because the group failed: {failure.Message}", failure);
        }
    }

    private nint TakeEvent()
    {
        if (_events.TryPop(out var known))
        {
            return known;
        }

        CheckCuda(_nccl.CreateEvent(out var created));
        return created;
    }

    private void CheckCuda(int error)
    {
        if (error != 0)
        {
            throw new CollectiveException($"CUDA failed on {_place}: {_nccl.DescribeCudaError(error)}");
        }
    }
}
