using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>Tells subscribers about changes of jobs. An event is the whole state of a job, so a slow subscriber receives the latest state of each
/// job instead of every event, and never misses the last one.</summary>
internal sealed class JobEvents
{
    private readonly ConcurrentDictionary<Subscription, bool> _subscriptions = new();

    public void Publish(string owner, JobView job)
    {
        foreach (var subscription in _subscriptions.Keys)
        {
            subscription.Add(owner, job);
        }
    }

    /// <summary>Subscribes to the jobs of a user. Changes count from this call on, not from the first read.</summary>
    /// <param name="owner">The user.</param>
    /// <param name="id">The job to listen to; null for all jobs of the user.</param>
    public Subscription Subscribe(string owner, Guid? id = null)
    {
        var subscription = new Subscription(this, owner, id);
        _subscriptions[subscription] = true;
        return subscription;
    }

    internal sealed class Subscription(JobEvents events, string owner, Guid? id) : IDisposable
    {
        private readonly Dictionary<Guid, JobView> _changes = [];
        private readonly SemaphoreSlim _changed = new(0, 1);

        internal void Add(string jobOwner, JobView job)
        {
            if (!string.Equals(jobOwner, owner, StringComparison.Ordinal) || (id is not null && id != job.Id))
            {
                return;
            }

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
