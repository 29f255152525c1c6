namespace OpenSora.Studio.Jobs;

/// <summary>What users do with their jobs: submit, find, cancel and delete.</summary>
internal sealed class JobService(IJobStore store, IResultStore results)
{
    /// <summary>Submits a job. Submitting it again with the same identifier and settings has no effect.</summary>
    public Task<(AddOutcome Outcome, Job? Job)> SubmitAsync(Guid id, string owner, JobSettings settings) =>
        store.AddAsync(new Job(0, id, owner, settings, settings.Seed ?? Random.Shared.NextInt64(uint.MaxValue)));

    /// <summary>Gets a job; null if the user does not have such a job.</summary>
    public async Task<Job?> FindAsync(Guid id, string owner) =>
        await store.FindAsync(id) is { } job && string.Equals(job.Owner, owner, StringComparison.Ordinal) ? job : null;

    /// <summary>Cancels a job. A running one stops before its next step. Canceling a finished one has no effect.</summary>
    public async Task<Job> CancelAsync(Job job) => await store.RequestCancelAsync(job.Id) ?? await store.FindAsync(job.Id) ?? job;

    /// <summary>Deletes a finished job and its files.</summary>
    /// <returns>True if it was deleted; false if it has not finished.</returns>
    public async Task<bool> DeleteAsync(Job job)
    {
        if (!await store.DeleteAsync(job.Id))
        {
            return false;
        }

        await results.DeleteAsync(job.Id);
        return true;
    }
}
