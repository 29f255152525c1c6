using OpenSora.Distributed;

namespace OpenSora.Mpi;

/// <summary>Something that the communication thread does: it is started once, and then polled until its MPI requests are complete.</summary>
/// <param name="owner">The group, whose requests are completed in order.</param>
/// <param name="description">What the request does, as the beginning of a message.</param>
/// <param name="start">Starts it on the communication thread, and adds MPI requests.</param>
internal sealed class MpiRequest(object owner, string description, Action<MpiRequest> start) : IDisposable
{
    private readonly ManualResetEventSlim _ended = new();
    private readonly Queue<(int Handle, Action? Then)> _pending = new();
    private CollectiveException? _failure;

    /// <summary>Gets the group.</summary>
    public object Owner => owner;

    /// <summary>Gets what the request does.</summary>
    public string Description => description;

    /// <summary>Gets the time at which it was created.</summary>
    public long Created { get; } = System.Diagnostics.Stopwatch.GetTimestamp();

    /// <summary>Adds an MPI request that was started.</summary>
    /// <param name="handle">The MPI request.</param>
    /// <param name="then">What follows when it is complete, before the next one is polled.</param>
    public void Add(int handle, Action? then = null) => _pending.Enqueue((handle, then));

    /// <summary>Starts the request.</summary>
    public void Start() => start(this);

    /// <summary>Determines whether the request is complete.</summary>
    public bool Poll()
    {
        while (_pending.TryPeek(out var first))
        {
            var handle = first.Handle;
            if (!MpiNative.IsComplete(ref handle, description))
            {
                return false;
            }

            _pending.Dequeue();
            first.Then?.Invoke();
        }

        return true;
    }

    /// <summary>Ends the request.</summary>
    public void End(CollectiveException? failure)
    {
        _failure = failure;
        _ended.Set();
    }

    /// <summary>Waits until the request has ended.</summary>
    /// <exception cref="CollectiveException">It failed.</exception>
    public void Wait()
    {
        _ended.Wait();
        if (_failure is { } failure)
        {
            throw new CollectiveException(failure.Message, failure);
        }
    }

    /// <summary>Waits a limited time.</summary>
    public bool Wait(TimeSpan time) => _ended.Wait(time);

    public void Dispose() => _ended.Dispose();
}
