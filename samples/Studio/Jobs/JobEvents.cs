using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>Tells subscribers in this process about changes of jobs in all processes. An event is the whole state of a job, so a slow subscriber
/// receives the latest state of each job instead of every event, and never misses the last one.</summary>
internal sealed partial class JobEvents(IJobStore store, ILogger<JobEvents> logger) : BackgroundService
{
    private readonly ConcurrentDictionary<Subscription, bool> _subscriptions = new();

    /// <summary>Subscribes to the jobs of a user. Changes count from this call on, not from the first read.</summary>
    /// <param name="owner">The user.</param>
    /// <param name="id">The job to listen to; null for all jobs of the user.</param>
    public Subscription Subscribe(string owner, Guid? id = null)
    {
        var subscription = new Subscription(this, owner, id);
        _subscriptions[subscription] = true;
        return subscription;
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        while (await store.Changes.WaitToReadAsync(stoppingToken))
        {
            HashSet<JobChange> changes = [];
            while (store.Changes.TryRead(out var change))
            {
                changes.Add(change);
            }

            while (!await TryPublishAsync(changes))
            {
                await Task.Delay(TimeSpan.FromSeconds(1), stoppingToken);
            }
        }
    }

    // Reads only jobs that have listeners in this process. States are read one after the other, so they are in order.
    private async Task<bool> TryPublishAsync(HashSet<JobChange> changes)
    {
        try
        {
            foreach (
                var id in changes
                    .Where(change => _subscriptions.Keys.Any(each => each.Includes(change.Owner, change.Id)))
                    .Select(c => c.Id)
                    .ToHashSet()
            )
            {
                Publish(await store.FindAsync(id));
            }

            if (changes.Any(change => change.IsQueueChanged))
            {
                foreach (var owner in _subscriptions.Keys.Select(each => each.Owner).ToHashSet(StringComparer.Ordinal))
                {
                    foreach (var job in await store.ListAsync(owner, status: JobStatus.Queued, limit: int.MaxValue))
                    {
                        Publish(job);
                    }
                }
            }

            return true;
        }
        catch (Exception e)
        {
            LogDelayed(e);
            return false;
        }
    }

    private void Publish(Job? job)
    {
        if (job is null)
        {
            return;
        }

        var view = JobView.Of(job);
        foreach (var subscription in _subscriptions.Keys.Where(each => each.Includes(job.Owner, job.Id)))
        {
            subscription.Add(view);
        }
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "Changes of jobs could not be read; they are read again in a second")]
    private partial void LogDelayed(Exception e);

    internal sealed class Subscription(JobEvents events, string owner, Guid? id) : IDisposable
    {
        private readonly Dictionary<Guid, JobView> _changes = [];
        private readonly SemaphoreSlim _changed = new(0, 1);

        internal string Owner => owner;

        internal bool Includes(string jobOwner, Guid job) => string.Equals(jobOwner, owner, StringComparison.Ordinal) && (id is null || id == job);

        internal void Add(JobView job)
        {
            lock (_changes)
            {
                _changes[job.Id] = job;
                if (_changed.CurrentCount == 0)
                {
                    _changed.Release();
                }
            }
        }

        /// <summary>Returns the changed jobs in batches. A batch is empty if nothing has changed for the interval.</summary>
        public async IAsyncEnumerable<IReadOnlyList<JobView>> ReadAsync(
            TimeSpan interval,
            [EnumeratorCancellation] CancellationToken cancellationToken
        )
        {
            while (true)
            {
                var isSignaled = await _changed.WaitAsync(interval, cancellationToken);
                List<JobView> changes;
                lock (_changes)
                {
                    changes = [.. _changes.Values.OrderBy(job => job.Number)];
                    _changes.Clear();
                }

                // A signal can be left over from a change that the last batch included.
                if (changes.Count > 0 || !isSignaled)
                {
                    yield return changes;
                }
            }
        }

        public void Dispose() => events._subscriptions.TryRemove(this, out _);
    }
}
