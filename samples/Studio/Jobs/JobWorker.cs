using System.Diagnostics;
using System.Threading.Channels;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Studio.Api;

namespace OpenSora.Studio.Jobs;

/// <summary>Runs the jobs of the queue.</summary>
internal sealed partial class JobWorker(
    IJobStore store,
    IResultStore results,
    JobEvents events,
    IVideoGenerator generator,
    VideoWriter writer,
    IOptions<StudioOptions> options,
    ILogger<JobWorker> logger
) : BackgroundService
{
    private static readonly TimeSpan RetryInterval = TimeSpan.FromSeconds(1);

    protected override Task ExecuteAsync(CancellationToken stoppingToken) =>
        Task.WhenAll(Enumerable.Range(0, options.Value.Workers).Select(_ => Task.Run(() => WorkAsync(stoppingToken), stoppingToken)));

    private async Task WorkAsync(CancellationToken stopping)
    {
        while (!stopping.IsCancellationRequested)
        {
            try
            {
                if (await store.TryTakeAsync() is { } job)
                {
                    await RunAsync(job, stopping);
                }
                else
                {
                    await store.WaitAsync(stopping);
                }
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                if (e is not JobStoreUnavailableException) // which the store logs
                {
                    LogNotTaken(e);
                }

                await Task.Delay(RetryInterval, stopping);
            }
        }
    }

    private async Task RunAsync(Job job, CancellationToken stopping)
    {
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(stopping);
        using var ended = new CancellationTokenSource();
        var keeping = KeepAsync(job, cancel, ended.Token);
        Func<Task> finish;
        try
        {
            var result = await GenerateAsync(job, cancel.Token);
            finish = () => store.FinishAsync(job, JobStatus.Succeeded, result);
        }
        catch (OperationCanceledException) when (cancel.IsCancellationRequested)
        {
            // A job that the user canceled stays canceled, even if the application is stopping.
            finish = async () =>
                _ = await store.FindAsync(job.Id) is { CancelRequested: true }
                    ? await store.FinishAsync(job, JobStatus.Canceled)
                    : await store.RequeueAsync(job);
        }
        catch (Exception e)
        {
            LogFailed(e, job.Id);
            finish = () => store.FinishAsync(job, JobStatus.Failed, error: Explain(e));
        }

        await FinishAsync(job, finish, stopping);
        await ended.CancelAsync();
        await keeping;
    }

    // The video is complete, so it is worth waiting for the store. If the application stops first, another worker takes the job over.
    private async Task FinishAsync(Job job, Func<Task> finish, CancellationToken stopping)
    {
        while (true)
        {
            try
            {
                await finish();
                return;
            }
            catch (Exception e)
            {
                LogNotFinished(e, job.Id);
                if (stopping.IsCancellationRequested)
                {
                    return;
                }

                await Task.WhenAny(Task.Delay(RetryInterval, stopping));
            }
        }
    }

    // Renews the lease, at once when the user has canceled the job. A job that another worker has taken over stops here.
    private async Task KeepAsync(Job job, CancellationTokenSource cancel, CancellationToken ended)
    {
        var interval = TimeSpan.FromSeconds(options.Value.LeaseSeconds / 4.0);
        using var subscription = events.Subscribe(job.Owner, job.Id);
        var renewed = Stopwatch.GetTimestamp();
        try
        {
            await foreach (var changes in subscription.ReadAsync(interval, ended))
            {
                if (Stopwatch.GetElapsedTime(renewed) < interval && !changes.Any(change => change.CancelRequested))
                {
                    continue; // only progress
                }

                try
                {
                    if (!await store.RenewAsync(job))
                    {
                        await cancel.CancelAsync();
                        return;
                    }
                }
                catch (Exception e) // the video is generated while the store is away
                {
                    LogNotRenewed(e, job.Id);
                }

                renewed = Stopwatch.GetTimestamp();
            }
        }
        catch (OperationCanceledException) when (ended.IsCancellationRequested) { }
    }

    private async Task<JobResult> GenerateAsync(Job job, CancellationToken cancellationToken)
    {
        results.Clean(job.Id);
        // Generation does not wait for progress to be shown: only the latest is.
        var reports = Channel.CreateBounded<GenerationProgress>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropOldest });
        var showing = ShowAsync(job, reports.Reader);
        try
        {
            var progress = new Progress(report => reports.Writer.TryWrite(report));
            var video = await generator.GenerateAsync(Request(job), progress, cancellationToken);
            await results.SaveAsync($"{job.Id}.mp4", path => video.SaveMp4Async(path, progress, cancellationToken), cancellationToken);
            await results.SaveAsync(
                $"{job.Id}.png",
                path => writer.WriteAsync(video.Frames.Slice(0, 1), path, VideoFormat.Image, cancellationToken),
                cancellationToken
            );
            return new JobResult(
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
        }
        finally
        {
            reports.Writer.Complete();
            await showing;
        }
    }

    private async Task ShowAsync(Job job, ChannelReader<GenerationProgress> reports)
    {
        await foreach (var report in reports.ReadAllAsync())
        {
            try
            {
                await store.ShowProgressAsync(job, JobProgress.Of(report));
                if (report.Preview is { } preview)
                {
                    using var gif = new MemoryStream(); // a small animated picture, which the browser scales up
                    await writer.WriteAsync(preview, gif, VideoFormat.Gif);
                    await store.ShowPreviewAsync(job, report.Step, new Preview(gif.ToArray(), "image/gif"));
                }
            }
            catch (Exception e) // a video without progress is better than none
            {
                LogNoProgress(e, job.Id);
            }
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

    [LoggerMessage(Level = LogLevel.Warning, Message = "The progress of job {Id} could not be shown")]
    private partial void LogNoProgress(Exception e, Guid id);

    [LoggerMessage(Level = LogLevel.Warning, Message = "The lease of job {Id} could not be renewed; it is tried again")]
    private partial void LogNotRenewed(Exception e, Guid id);

    [LoggerMessage(Level = LogLevel.Error, Message = "The end of job {Id} could not be stored; it is tried again")]
    private partial void LogNotFinished(Exception e, Guid id);

    [LoggerMessage(Level = LogLevel.Error, Message = "No job can be taken; it is tried again")]
    private partial void LogNotTaken(Exception e);
}
