using OpenSora.Generation;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Api;

/// <summary>A job: one video to generate, its state and its result.</summary>
/// <param name="Id">The identifier.</param>
/// <param name="Number">The position in the order of submission.</param>
/// <param name="Revision">The number of changes of the job, not counting changes of its progress. Of two views of a job, the one with the lower
/// number is out of date.</param>
/// <param name="Status">The state.</param>
/// <param name="Settings">The settings as submitted.</param>
/// <param name="Seed">The seed that the video is generated with.</param>
/// <param name="Created">The time of submission.</param>
/// <param name="Started">The time when the job last began to run.</param>
/// <param name="Finished">The time when the job ended.</param>
/// <param name="CancelRequested">Indicates whether the job was canceled; a running job stops before its next step.</param>
/// <param name="QueuePosition">The position among the waiting jobs of all users, starting at 1; null if the job does not wait.</param>
/// <param name="Progress">The progress of a running job.</param>
/// <param name="Error">The reason why the job failed.</param>
/// <param name="Result">The settings of the finished video, with all values.</param>
/// <param name="VideoUrl">The address of the finished video, an MP4 file.</param>
/// <param name="PosterUrl">The address of the first frame of the finished video, a PNG file.</param>
public sealed record JobView(
    Guid Id,
    long Number,
    long Revision,
    JobStatus Status,
    JobSettings Settings,
    long Seed,
    DateTimeOffset Created,
    DateTimeOffset? Started,
    DateTimeOffset? Finished,
    bool CancelRequested,
    int? QueuePosition,
    JobProgress? Progress,
    string? Error,
    JobResult? Result,
    string? VideoUrl,
    string? PosterUrl
)
{
    internal static JobView Of(Job job)
    {
        var address = job.Status == JobStatus.Succeeded ? $"/api/jobs/{job.Id}" : null;
        return new(
            job.Id,
            job.Number,
            job.Revision,
            job.Status,
            job.Settings,
            job.Seed,
            job.Created,
            job.Started,
            job.Finished,
            job.CancelRequested,
            job.QueuePosition,
            job is { Progress: { } progress, PreviewStep: { } step }
                ? progress with
                {
                    PreviewUrl = $"/api/jobs/{job.Id}/preview?step={step}", // a new address for each picture
                }
                : job.Progress,
            job.Error,
            job.Result,
            address is null ? null : address + "/video",
            address is null ? null : address + "/poster"
        );
    }
}

/// <summary>The progress of a running job.</summary>
/// <param name="Stage">The current stage.</param>
/// <param name="Step">The number of completed steps of the stage.</param>
/// <param name="Steps">The number of steps of the stage.</param>
/// <param name="RemainingSeconds">The estimated time until the end of the stage, in seconds; null if unknown.</param>
/// <param name="Fraction">The estimated completed fraction of the whole job, from 0 to 1.</param>
/// <param name="PreviewUrl">The address of a picture of the unfinished video, which changes with the picture; null if there is none.</param>
public sealed record JobProgress(GenerationStage Stage, int Step, int Steps, double? RemainingSeconds, double Fraction, string? PreviewUrl = null)
{
    internal static JobProgress Of(GenerationProgress progress)
    {
        // Denoising takes most of the time.
        var (start, end) = progress.Stage switch
        {
            GenerationStage.Denoising => (0.05, 0.9),
            GenerationStage.Decoding => (0.9, 0.97),
            GenerationStage.Writing => (0.97, 1),
            _ => (0, 0.05),
        };
        var fraction = start + ((end - start) * progress.Step / Math.Max(1, progress.Steps));
        return new(progress.Stage, progress.Step, progress.Steps, progress.Remaining?.TotalSeconds, Math.Round(fraction, 4));
    }
}

/// <summary>A page of the history, the latest jobs first.</summary>
/// <param name="Jobs">The jobs.</param>
/// <param name="Next">The value of <c>before</c> for the next page; null if there are no more jobs.</param>
public sealed record JobPage(IReadOnlyList<JobView> Jobs, long? Next);

/// <summary>The model, and the settings that it supports.</summary>
/// <param name="Name">The name of the model.</param>
/// <param name="Description">A description of the videos that the model generates.</param>
/// <param name="Frames">The supported numbers of frames.</param>
/// <param name="Width">The supported widths in pixels.</param>
/// <param name="Height">The supported heights in pixels.</param>
/// <param name="Steps">The supported numbers of denoising steps.</param>
/// <param name="GuidanceScale">The default classifier-free guidance scale.</param>
/// <param name="FramesPerSecond">The default frame rate in frames per second.</param>
/// <param name="MaxPromptLength">The longest prompt, in characters.</param>
/// <param name="MaxJobs">The number of waiting and running jobs that one user can have.</param>
/// <param name="Examples">Prompts to suggest.</param>
public sealed record ModelView(
    string Name,
    string? Description,
    SettingRange Frames,
    SettingRange Width,
    SettingRange Height,
    SettingRange Steps,
    double GuidanceScale,
    double FramesPerSecond,
    int MaxPromptLength,
    int MaxJobs,
    IReadOnlyList<string> Examples
);

/// <summary>The values that a setting can have.</summary>
/// <param name="Min">The smallest value.</param>
/// <param name="Max">The largest value.</param>
/// <param name="Step">The distance between adjacent values.</param>
/// <param name="Default">The value that is used if the setting is omitted.</param>
public sealed record SettingRange(int Min, int Max, int Step, int Default)
{
    internal bool Contains(int value) => value >= Min && value <= Max && (value - Min) % Step == 0;

    /// <summary>Returns a description of the range, such as <c>from 128 to 256 in steps of 16</c>.</summary>
    public override string ToString() =>
        Min == Max ? $"{Min}"
        : Step == 1 ? $"from {Min} to {Max}"
        : $"from {Min} to {Max} in steps of {Step}";
}
