using System.Threading.Channels;

namespace OpenSora.Studio.Jobs;

/// <summary>Hands the identifiers of submitted jobs to workers. A queue may deliver an identifier more than once, because only
/// <see cref="JobStore.TryStart"/> decides whether a worker runs the job.</summary>
internal interface IJobQueue
{
    /// <summary>Adds a job at the end.</summary>
    ValueTask EnqueueAsync(Guid id, CancellationToken cancellationToken = default);

    /// <summary>Waits for the next job and removes it.</summary>
    ValueTask<Guid> DequeueAsync(CancellationToken cancellationToken = default);
}

/// <summary>A queue in memory. It need not survive a restart, because <see cref="JobWorker"/> fills it from the database at startup.</summary>
internal sealed class MemoryJobQueue : IJobQueue
{
    private readonly Channel<Guid> _ids = Channel.CreateUnbounded<Guid>();

    public ValueTask EnqueueAsync(Guid id, CancellationToken cancellationToken = default) => _ids.Writer.WriteAsync(id, cancellationToken);

    public ValueTask<Guid> DequeueAsync(CancellationToken cancellationToken = default) => _ids.Reader.ReadAsync(cancellationToken);
}
