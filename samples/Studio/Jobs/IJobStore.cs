using System.Threading.Channels;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>The jobs of all users: their queue and their history. <see cref="SqliteJobStore"/> serves one process, <see cref="RedisJobStore"/> any
/// number of them. Every change is atomic, so two callers cannot both make it.</summary>
internal interface IJobStore
{
    /// <summary>Gets the changes of jobs in all processes, as far as this process has not read them.</summary>
    ChannelReader<JobChange> Changes { get; }

    /// <summary>Adds a job at the end of the queue, unless it exists or a limit is reached.</summary>
    /// <returns>The outcome, and the job if it was added or exists.</returns>
    Task<(AddOutcome Outcome, Job? Job)> AddAsync(Job job);

    Task<Job?> FindAsync(Guid id);

    /// <summary>Lists the jobs of a user, the latest first.</summary>
    /// <param name="owner">The user.</param>
    /// <param name="search">Words that the prompt or the negative prompt must contain.</param>
    /// <param name="status">The status of the jobs; null for all.</param>
    /// <param name="before">The number that the numbers of the jobs are below; null for no limit.</param>
    /// <param name="limit">The maximum number of jobs.</param>
    Task<IReadOnlyList<Job>> ListAsync(string owner, string? search = null, JobStatus? status = null, long? before = null, int limit = 20);

    /// <summary>Counts the waiting jobs of all users.</summary>
    Task<int> CountQueuedAsync();

    /// <summary>Starts the next waiting job. The caller has it until it calls <see cref="FinishAsync"/> or <see cref="RequeueAsync"/>, or does not
    /// call <see cref="RenewAsync"/> for <see cref="StudioOptions.LeaseSeconds"/>.</summary>
    /// <returns>The job; null if none waits.</returns>
    Task<Job?> TryTakeAsync();

    /// <summary>Waits until a job may be waiting.</summary>
    Task WaitAsync(CancellationToken cancellationToken);

    /// <summary>Keeps a running job.</summary>
    /// <returns>True to continue; false if the job was canceled or another worker has it.</returns>
    Task<bool> RenewAsync(Job job);

    /// <summary>Shows the progress of a job that the caller runs.</summary>
    Task ShowProgressAsync(Job job, JobProgress progress);

    /// <summary>Shows what the video of a job that the caller runs looks like so far.</summary>
    /// <param name="job">The job.</param>
    /// <param name="step">The step that the picture belongs to. Pictures that arrive late are ignored.</param>
    /// <param name="preview">The picture.</param>
    Task ShowPreviewAsync(Job job, int step, Preview preview);

    /// <summary>Gets the latest preview of a running job; null if there is none.</summary>
    Task<Preview?> FindPreviewAsync(Guid id);

    /// <summary>Changes a job that the caller runs to a final status.</summary>
    /// <returns>The job; null if it has finished or another worker has it.</returns>
    Task<Job?> FinishAsync(Job job, JobStatus status, JobResult? result = null, string? error = null);

    /// <summary>Puts a job back that the caller runs, because the application is stopping. The attempt does not count.</summary>
    /// <returns>The job; null if it has finished or another worker has it.</returns>
    Task<Job?> RequeueAsync(Job job);

    /// <summary>Cancels a waiting job, or notes that a running one is to be canceled.</summary>
    /// <returns>The job; null if it has finished or does not exist.</returns>
    Task<Job?> RequestCancelAsync(Guid id);

    /// <summary>Deletes a finished job.</summary>
    /// <returns>True if it was deleted; false if it has not finished or does not exist.</returns>
    Task<bool> DeleteAsync(Guid id);
}

/// <summary>A change of a job, which includes its progress.</summary>
/// <param name="Id">The job.</param>
/// <param name="Owner">The user.</param>
/// <param name="IsQueueChanged">Indicates whether the positions of waiting jobs have changed.</param>
internal readonly record struct JobChange(Guid Id, string Owner, bool IsQueueChanged);

/// <summary>A picture of an unfinished video.</summary>
/// <param name="Bytes">The file.</param>
/// <param name="ContentType">The type of the file, such as image/png.</param>
internal sealed record Preview(ReadOnlyMemory<byte> Bytes, string ContentType);

/// <summary>The outcome of <see cref="IJobStore.AddAsync"/>.</summary>
internal enum AddOutcome
{
    Added,

    /// <summary>A job of this user with this identifier and the same settings exists.</summary>
    Exists,

    /// <summary>The identifier belongs to a job with other settings, or of another user.</summary>
    Conflict,

    /// <summary>The user has as many unfinished jobs as one user can have.</summary>
    UserLimit,

    /// <summary>There are as many unfinished jobs as the server accepts.</summary>
    ServerLimit,
}

/// <summary>The jobs cannot be read or changed at the moment. Try again later.</summary>
internal sealed class JobStoreUnavailableException(string message, Exception inner) : Exception(message, inner);
