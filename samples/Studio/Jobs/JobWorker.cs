using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>Runs the jobs of the queue. At startup it recovers the jobs that were interrupted and fills the queue from the database.</summary>
internal sealed partial class JobWorker(
    JobStore store,
    IJobQueue queue,
    JobService jobs,
    IVideoGenerator generator,
    VideoWriter writer,
    IOptions<StudioOptions> options,
    ILogger<JobWorker> logger
) : BackgroundService
{
    public override async Task StartAsync(CancellationToken cancellationToken)
    {
        store.Recover();
        foreach (var job in store.ListQueued())
        {
            await queue.EnqueueAsync(job.Id, cancellationToken);
        }

        await base.StartAsync(cancellationToken);
    }

    protected override Task ExecuteAsync(CancellationToken stoppingToken) =>
        Task.WhenAll(Enumerable.Range(0, options.Value.Workers).Select(_ => Task.Run(() => WorkAsync(stoppingToken), stoppingToken)));

    private async Task WorkAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            var id = await queue.DequeueAsync(stopping);
            try
            {
                await RunAsync(id, stopping);
            }
            catch (Exception e) // the database failed; the next job may succeed, and a restart recovers this one
            {
                LogLost(e, id);
            }
        }
    }

    private async Task RunAsync(Guid id, CancellationToken stopping)
    {
        var running = jobs.Register(id, stopping);
        try
        {
            if (store.TryStart(id) is not { } job)
            {
                return;
            }

            jobs.Publish(id);
            jobs.PublishQueue();
            await GenerateAsync(job, running, stopping);
            jobs.Publish(id);
        }
        finally
        {
            jobs.Unregister(id);
        }
    }

    private async Task GenerateAsync(Job job, JobService.RunningJob running, CancellationToken stopping)
    {
        var progress = new Progress(p =>
        {
            jobs.ShowProgress(job.Id, JobProgress.Of(p));
            if (p.Preview is { } preview)
            {
                _ = ShowPreviewAsync(job.Id, p.Step, preview);
            }
        });
        var cancellationToken = running.CancellationToken;
        try
        {
            var video = await generator.GenerateAsync(Request(job), progress, cancellationToken);
            // Under a temporary name first, so a file with the final name is complete.
            await video.SaveMp4Async(store.VideoPath(job.Id), progress, cancellationToken);
            await writer.WriteAsync(video.Frames.Slice(0, 1), store.PosterPath(job.Id), VideoFormat.Image, cancellationToken);
            var result = new JobResult(
                video.Frames.Count,
                video.Frames.Width,
                video.Frames.Height,
                video.Frames.FramesPerSecond,
                video.Steps,
                video.GuidanceScale,
                video.Model,
                video.Backend,
                video.Elapsed.TotalSeconds,
                video.Warnings
            );
            store.Finish(job.Id, JobStatus.Succeeded, result);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            // A job that the user canceled stays canceled, even if the application is stopping.
            var canceled = store.Find(job.Id) is { CancelRequested: true } || !stopping.IsCancellationRequested;
            _ = canceled ? store.Finish(job.Id, JobStatus.Canceled) : store.Requeue(job.Id);
        }
        catch (Exception e)
        {
            LogFailed(e, job.Id);
            store.Finish(job.Id, JobStatus.Failed, error: Explain(e));
        }
    }

    // A small animated picture, which the browser scales up.
    private async Task ShowPreviewAsync(Guid id, int step, VideoFrames preview)
    {
        try
        {
            using var gif = new MemoryStream();
            await writer.WriteAsync(preview, gif, VideoFormat.Gif);
            jobs.ShowPreview(id, step, new JobService.Preview(gif.ToArray(), "image/gif"));
        }
        catch (Exception e) // a video without previews is better than none
        {
            LogNoPreview(e, id);
        }
    }

    private static VideoRequest Request(Job job) =>
        new()
        {
            Prompt = job.Settings.Prompt,
            NegativePrompt = job.Settings.NegativePrompt,
            Frames = job.Settings.Frames,
            Width = job.Settings.Width,
            Height = job.Settings.Height,
            Steps = job.Settings.Steps,
            GuidanceScale = job.Settings.GuidanceScale,
            FramesPerSecond = job.Settings.FramesPerSecond,
            Seed = job.Seed,
            PreviewEvery = 1,
        };

    // Users see the messages that the library writes for them, but no internal errors.
    private static string Explain(Exception e) =>
        e switch
        {
            ArgumentException { ParamName: { } name } => e.Message.Replace($" (Parameter '{name}')", "", StringComparison.Ordinal),
            ArgumentException or MediaException => e.Message,
            OutOfMemoryException => "The server does not have enough memory for this video. Try fewer frames or a smaller size.",
            _ => "The video could not be generated because of an error on the server. The server's log has the details.",
        };

    // Progress<T> would report on other threads and out of order.
    private sealed class Progress(Action<GenerationProgress> report) : IProgress<GenerationProgress>
    {
        public void Report(GenerationProgress value) => report(value);
    }

    [LoggerMessage(Level = LogLevel.Error, Message = "Job {Id} failed")]
    private partial void LogFailed(Exception e, Guid id);

    [LoggerMessage(Level = LogLevel.Warning, Message = "A preview of job {Id} could not be shown")]
    private partial void LogNoPreview(Exception e, Guid id);

    [LoggerMessage(Level = LogLevel.Error, Message = "Job {Id} could not be run; it is tried again after a restart")]
    private partial void LogLost(Exception e, Guid id);
}
