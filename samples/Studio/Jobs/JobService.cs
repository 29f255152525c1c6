using System.Collections.Concurrent;
using OpenSora.Generation;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>What users do with jobs: submit, cancel, delete, and view with progress. Every change is published.</summary>
internal sealed class JobService(JobStore store, IJobQueue queue, JobEvents events)
{
    private readonly ConcurrentDictionary<Guid, RunningJob> _running = new();
    private readonly Lock _publishing = new();

    /// <summary>Submits a job. Submitting it again with the same identifier and settings has no effect.</summary>
    public async Task<(AddOutcome Outcome, JobView? Job)> SubmitAsync(Guid id, string owner, JobSettings settings)
    {
        var (outcome, job) = store.Add(id, owner, settings);
        if (outcome == AddOutcome.Added)
        {
            // Not canceled with the request: the job is in the database, so it must also be in the queue.
            await queue.EnqueueAsync(id, CancellationToken.None);
            Publish(id);
        }

        return (outcome, job is null ? null : View(job));
    }

    /// <summary>Gets a job; null if the user does not have such a job.</summary>
    public Job? Find(Guid id, string owner) => store.Find(id) is { } job && string.Equals(job.Owner, owner, StringComparison.Ordinal) ? job : null;

    /// <summary>Cancels a job. A running one stops before its next step. Canceling a finished one has no effect.</summary>
    public async Task<JobView> CancelAsync(Job job)
    {
        if (store.RequestCancel(job.Id) is { } changed)
        {
            // A worker registers a job before it starts it in the database, so a job that was running is found here.
            if (_running.TryGetValue(job.Id, out var running))
            {
                await running.CancelAsync();
            }

            Publish(changed.Id);
            PublishQueue();
        }

        return View(store.Find(job.Id) ?? job);
    }

    public JobView View(Job job) =>
        JobView.Of(
            job,
            job.Status == JobStatus.Queued ? store.CountQueuedBefore(job.Number) + 1 : null,
            job.Status == JobStatus.Running && _running.TryGetValue(job.Id, out var running) ? running.Progress : null
        );

    /// <summary>Gets the latest preview of a running job; null if there is none.</summary>
    public Preview? FindPreview(Guid id) => _running.TryGetValue(id, out var running) ? running.Preview : null;

    /// <summary>Shows the progress of a running job.</summary>
    /// <param name="id">The job.</param>
    /// <param name="progress">The progress.</param>
    public void ShowProgress(Guid id, JobProgress progress)
    {
        if (_running.TryGetValue(id, out var running))
        {
            lock (running.Changing)
            {
                running.Progress = progress with { PreviewUrl = running.Progress?.PreviewUrl };
            }

            Publish(id);
        }
    }

    /// <summary>Shows what the video of a running job looks like so far.</summary>
    /// <param name="id">The job.</param>
    /// <param name="step">The step that the picture belongs to. Pictures that arrive late are ignored.</param>
    /// <param name="preview">The picture.</param>
    public void ShowPreview(Guid id, int step, Preview preview)
    {
        if (!_running.TryGetValue(id, out var running))
        {
            return;
        }

        lock (running.Changing)
        {
            if (running.Progress is null || step <= running.PreviewStep)
            {
                return;
            }

            (running.PreviewStep, running.Preview) = (step, preview);
            running.Progress = running.Progress with { PreviewUrl = $"/api/jobs/{id}/preview?step={step}" }; // a new address for each picture
        }

        Publish(id);
    }

    /// <summary>Publishes the current state of a job. The lock keeps states in order.</summary>
    public void Publish(Guid id)
    {
        lock (_publishing)
        {
            if (store.Find(id) is { } job)
            {
                events.Publish(job.Owner, View(job));
            }
        }
    }

    /// <summary>Publishes the waiting jobs, whose positions have changed.</summary>
    public void PublishQueue()
    {
        foreach (var job in store.ListQueued())
        {
            Publish(job.Id);
        }
    }

    /// <summary>Registers a job that a worker is about to start.</summary>
    public RunningJob Register(Guid id, CancellationToken stopping)
    {
        var running = new RunningJob(stopping);
        _running[id] = running;
        return running;
    }

    public void Unregister(Guid id)
    {
        if (_running.TryRemove(id, out var running))
        {
            running.Dispose();
        }
    }

    /// <summary>A picture of an unfinished video.</summary>
    /// <param name="Bytes">The file.</param>
    /// <param name="ContentType">The type of the file, such as image/png.</param>
    internal sealed record Preview(ReadOnlyMemory<byte> Bytes, string ContentType);

    /// <summary>A job that a worker runs: its cancellation and its progress.</summary>
    internal sealed class RunningJob(CancellationToken stopping) : IDisposable
    {
        private readonly CancellationTokenSource _cancel = CancellationTokenSource.CreateLinkedTokenSource(stopping);

        public CancellationToken CancellationToken => _cancel.Token;

        public JobProgress? Progress { get; set; }

        public Preview? Preview { get; set; }

        public int PreviewStep { get; set; }

        public Lock Changing { get; } = new();

        public Task CancelAsync()
        {
            try
            {
                return _cancel.CancelAsync();
            }
            catch (ObjectDisposedException) // it has just finished
            {
                return Task.CompletedTask;
            }
        }

        public void Dispose() => _cancel.Dispose();
    }
}
