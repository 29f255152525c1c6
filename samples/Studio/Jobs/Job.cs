using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>What a video is generated from. An omitted value is the application's or the model's default.</summary>
public sealed record JobSettings
{
    /// <summary>The description of the video, at most 1000 characters.</summary>
    public required string Prompt { get; init; }

    /// <summary>The description of what the video should not show.</summary>
    public string? NegativePrompt { get; init; }

    /// <summary>The number of frames.</summary>
    public int? Frames { get; init; }

    /// <summary>The width in pixels. Set it together with the height.</summary>
    public int? Width { get; init; }

    /// <summary>The height in pixels. Set it together with the width.</summary>
    public int? Height { get; init; }

    /// <summary>The number of denoising steps.</summary>
    public int? Steps { get; init; }

    /// <summary>The classifier-free guidance scale, from 0 to 100. 1 means no guidance.</summary>
    public double? GuidanceScale { get; init; }

    /// <summary>The frame rate in frames per second.</summary>
    public double? FramesPerSecond { get; init; }

    /// <summary>The seed, from 0 to 9007199254740991. The same settings and seed give the same video. A random one is drawn if it is
    /// omitted.</summary>
    public long? Seed { get; init; }
}

/// <summary>The state of a job.</summary>
public enum JobStatus
{
    /// <summary>The job waits for other jobs.</summary>
    Queued,

    /// <summary>The video is being generated.</summary>
    Running,

    /// <summary>The video is complete.</summary>
    Succeeded,

    /// <summary>The video could not be generated; the job has an error message.</summary>
    Failed,

    /// <summary>The job was canceled.</summary>
    Canceled,
}

/// <summary>The settings that a finished video was generated with.</summary>
/// <param name="Frames">The number of frames.</param>
/// <param name="Width">The width in pixels.</param>
/// <param name="Height">The height in pixels.</param>
/// <param name="FramesPerSecond">The frame rate in frames per second.</param>
/// <param name="Steps">The number of denoising steps.</param>
/// <param name="GuidanceScale">The classifier-free guidance scale.</param>
/// <param name="Model">The name of the model.</param>
/// <param name="Backend">The name of the compute backend.</param>
/// <param name="Seconds">The time that generation took, in seconds.</param>
/// <param name="Warnings">Messages for the user, such as that the model does not know anything in the prompt.</param>
public sealed record JobResult(
    int Frames,
    int Width,
    int Height,
    double FramesPerSecond,
    int Steps,
    double GuidanceScale,
    string Model,
    string Backend,
    double Seconds,
    IReadOnlyList<string> Warnings
);

/// <summary>A job as the store holds it.</summary>
/// <param name="Number">The position in the order of submission.</param>
/// <param name="Id">The identifier, chosen by the client or by the server.</param>
/// <param name="Owner">The user who submitted the job.</param>
/// <param name="Settings">The settings as submitted.</param>
/// <param name="Seed">The seed of the settings, or the one that was drawn at submission, so that a repeated run gives the same video.</param>
internal sealed record Job(long Number, Guid Id, string Owner, JobSettings Settings, long Seed)
{
    public JobStatus Status { get; init; }

    public DateTimeOffset Created { get; init; }

    public DateTimeOffset? Started { get; init; }

    public DateTimeOffset? Finished { get; init; }

    /// <summary>How often the job was started.</summary>
    public int Attempts { get; init; }

    /// <summary>Indicates whether the user canceled the job while it was running.</summary>
    public bool CancelRequested { get; init; }

    /// <summary>The number of changes of the job. A change of the progress does not count.</summary>
    public long Revision { get; init; }

    public string? Error { get; init; }

    public JobResult? Result { get; init; }

    /// <summary>The position among the waiting jobs of all users, starting at 1; null if the job does not wait.</summary>
    public int? QueuePosition { get; init; }

    /// <summary>The progress of a running job.</summary>
    public JobProgress? Progress { get; init; }

    /// <summary>The step of the latest preview of a running job; null if there is none.</summary>
    public int? PreviewStep { get; init; }

    /// <summary>The number of the lease of the worker that runs the job. A worker that lost its lease cannot change the job.</summary>
    public long Lease { get; init; }

    /// <summary>The text that a search looks at.</summary>
    public string Words => $"{Settings.Prompt} {Settings.NegativePrompt}".ToLowerInvariant();

    public bool IsFinished => Status is JobStatus.Succeeded or JobStatus.Failed or JobStatus.Canceled;

    /// <summary>Returns the words of a search, which <see cref="Words"/> must contain.</summary>
    public static string[] Split(string? search) => (search ?? "").ToLowerInvariant().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);

    /// <summary>Compares the job with one that is submitted with its identifier.</summary>
    public AddOutcome Compare(Job submitted) =>
        string.Equals(Owner, submitted.Owner, StringComparison.Ordinal) && Settings == submitted.Settings ? AddOutcome.Exists : AddOutcome.Conflict;

    /// <summary>Returns the error of a job that was interrupted too often, because it may be what ended the process.</summary>
    public static string Interrupted(int attempts) => $"The server stopped {attempts} times while it generated this video. Try smaller settings.";
}
