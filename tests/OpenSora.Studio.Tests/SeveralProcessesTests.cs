using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;
using StackExchange.Redis;

namespace OpenSora.Studio.Tests;

/// <summary>One web process and several workers that share the jobs through Redis. Workers with a fake generator are in this process and share
/// nothing but Redis and the folder; those that are killed are processes.</summary>
public sealed class SeveralProcessesTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("studio-").FullName;
    private readonly List<IAsyncDisposable> _running = [];
    private RedisServer _redis = null!;

    public async ValueTask InitializeAsync() => _redis = await RedisServer.StartAsync(isPersistent: true);

    public async ValueTask DisposeAsync()
    {
        foreach (var studio in Enumerable.Reverse(_running))
        {
            await studio.DisposeAsync();
        }

        _redis.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task Workers_share_the_jobs_and_none_runs_twice()
    {
        var web = await StartAsync("Web", settings: ["MaxJobsPerUser=50"]);
        var workers = new[] { await StartAsync("Worker"), await StartAsync("Worker"), await StartAsync("Worker") };
        List<JobView> jobs = [];
        for (var i = 1; i <= 12; i++)
        {
            jobs.Add(await web.SubmitAsync($"hold {i}"));
        }

        foreach (var job in jobs.Take(3))
        {
            await web.HoldAsync(job.Id);
        }

        workers.ShouldAllBe(worker => worker.Fake.Requests.Count == 1);
        Array.ForEach(workers, worker => worker.Fake.Release());
        foreach (var job in jobs)
        {
            var finished = await web.FinishAsync(job.Id);
            (finished.Status, finished.Revision).ShouldBe((JobStatus.Succeeded, 2)); // started once and finished once
            (await web.Client.GetByteArrayAsync(finished.VideoUrl))[4..8].ShouldBe("ftyp"u8.ToArray());
        }

        workers.SelectMany(worker => worker.Fake.Prompts).Order().ShouldBe(jobs.Select(job => job.Settings.Prompt).Order());
        Directory.GetFiles(Path.Combine(_folder, "videos")).Length.ShouldBe(24);
    }

    [Fact]
    public async Task The_job_of_a_killed_worker_is_taken_over_with_the_same_result()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "The ffmpeg that waits is a script of a Unix shell.");
        var web = await StartAsync("Web");
        string[] settings = ["Role=Worker", $"Redis={_redis.Address}", "LeaseSeconds=2"];
        var gate = new FFmpegGate(_folder); // so that the job does not finish before its worker is killed
        using var first = await StudioProcess.StartAsync(_folder, gate, settings);
        using var second = await StudioProcess.StartAsync(_folder, gate, settings);
        await web.Client.GetAsync("/api/model"); // waits until a worker has loaded it
        var job = await SubmitAsync(null);
        await RunningStudio.WaitAsync(web.Client, job.Id, RunningStudio.HasBegun);

        using var redis = await ConnectionMultiplexer.ConnectAsync(_redis.Address);
        var running = await redis.GetDatabase().StreamPendingMessagesAsync("{studio}:running", "workers", 10, RedisValue.Null);
        var victim = running.Single().ConsumerName.ToString().EndsWith($":{first.Id}", StringComparison.Ordinal) ? first : second;
        victim.Kill();
        var killed = DateTimeOffset.UtcNow;
        gate.Open();
        var leftOver = Path.Combine(_folder, "videos", $"{job.Id}.mp4.{Guid.NewGuid():N}.tmp");
        await File.WriteAllTextAsync(leftOver, "half of a video");

        var finished = await web.FinishAsync(job.Id);
        (finished.Status, finished.Error, finished.Seed).ShouldBe((JobStatus.Succeeded, null, job.Seed), (victim == first ? second : first).Log);
        (finished.Started!.Value - killed).ShouldBeInRange(TimeSpan.Zero, TimeSpan.FromSeconds(10));
        (await web.Services.GetRequiredService<IJobStore>().FindAsync(job.Id))!.Attempts.ShouldBe(2);
        File.Exists(leftOver).ShouldBeFalse();

        // It is the video that would have been made without the interruption.
        var repeated = await web.FinishAsync((await SubmitAsync(job.Seed)).Id);
        (await web.Client.GetByteArrayAsync(finished.PosterUrl)).ShouldBe(await web.Client.GetByteArrayAsync(repeated.PosterUrl));

        async Task<JobView> SubmitAsync(long? seed)
        {
            var request = new
            {
                prompt = "a goat",
                seed,
                frames = 1,
                steps = 24,
            };
            return await RunningStudio.ReadAsync<JobView>((await web.PostAsync(request)).EnsureSuccessStatusCode());
        }
    }

    [Fact]
    public async Task Progress_arrives_from_workers_and_cancellation_reaches_them()
    {
        var web = await StartAsync("Web");
        var worker = await StartAsync("Worker", settings: ["LeaseSeconds=600"]); // so that cancellation does not come with the renewal
        var job = await web.SubmitAsync("hold it");
        var held = await web.HoldAsync(job.Id);
        held.Progress!.Fraction.ShouldBeInRange(0.1, 0.9);
        var store = worker.Services.GetRequiredService<IJobStore>();
        await store.ShowPreviewAsync((await store.FindAsync(job.Id))!, 12, new("picture"u8.ToArray(), "image/jpeg"));
        var shown = await RunningStudio.WaitAsync(web.Client, job.Id, each => each.Progress?.PreviewUrl is not null);
        (await web.Client.GetStringAsync(shown.Progress!.PreviewUrl)).ShouldBe("picture");

        var next = await web.SubmitAsync("a goat");
        var watch = Stopwatch.StartNew();
        (await web.Client.PostAsync($"/api/jobs/{job.Id}/cancel", null)).EnsureSuccessStatusCode();
        (await web.FinishAsync(job.Id)).Status.ShouldBe(JobStatus.Canceled);
        (await web.FinishAsync(next.Id)).Status.ShouldBe(JobStatus.Succeeded); // the worker is free
        watch.Elapsed.ShouldBeLessThan(TimeSpan.FromSeconds(60));
    }

    [Fact]
    public async Task A_user_with_many_jobs_does_not_block_others()
    {
        var web = await StartAsync("Web", settings: ["MaxJobsPerUser=50"]);
        var worker = await StartAsync("Worker");
        using var other = web.NewUser();
        using var third = web.NewUser();
        await web.ListAsync(); // gets the cookie
        List<JobView> jobs = [await web.SubmitAsync("hold it")];
        await web.HoldAsync(jobs[0].Id);
        for (var i = 1; i <= 10; i++)
        {
            jobs.Add(await web.SubmitAsync($"many {i}"));
        }

        jobs.Add(await web.SubmitAsync("other 1", other));
        jobs.Add(await web.SubmitAsync("other 2", other));
        jobs.Add(await web.SubmitAsync("third 1", third));

        // The positions that users see are the order in which the jobs run.
        string[] expected = ["many 1", "other 1", "third 1", "many 2", "other 2", .. Enumerable.Range(3, 8).Select(i => $"many {i}")];
        var store = web.Services.GetRequiredService<IJobStore>();
        var waiting = await Task.WhenAll(jobs.Skip(1).Select(job => store.FindAsync(job.Id)));
        waiting.OrderBy(job => job!.QueuePosition).Select(job => job!.Settings.Prompt).ShouldBe(expected);
        waiting.Select(job => job!.QueuePosition!.Value).Order().ShouldBe(Enumerable.Range(1, 13));

        worker.Fake.Release();
        await web.FinishAsync(jobs[10].Id);
        worker.Fake.Prompts.ShouldBe(["hold it", .. expected]);
    }

    [Fact]
    public async Task Nothing_is_lost_while_Redis_is_away()
    {
        var web = await StartAsync("Web", settings: ["LeaseSeconds=4"]);
        var worker = await StartAsync("Worker", settings: ["LeaseSeconds=4"]);
        var running = await web.SubmitAsync("hold it");
        await web.HoldAsync(running.Id);
        var waiting = new[] { await web.SubmitAsync("a goat"), await web.SubmitAsync("a rocket") };

        _redis.Kill();
        worker.Fake.Release(); // the video is complete while Redis is away
        var reading = web.Client.GetAsync($"/api/jobs/{running.Id}");
        foreach (var health in await Task.WhenAll(web.Client.GetAsync("/health/ready"), worker.Client.GetAsync("/health/ready")))
        {
            health.StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
            (await health.Content.ReadAsStringAsync()).ShouldContain("Redis at 127.0.0.1");
        }

        var refused = await reading;
        refused.StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
        (await RunningStudio.ReadAsync<JsonElement>(refused)).GetProperty("detail").GetString()!.ShouldContain("Try again in a moment");
        var late = await StartAsync("Worker", settings: ["LeaseSeconds=4"]); // a process can start while Redis is away
        await Task.Delay(TimeSpan.FromSeconds(5)); // longer than a lease

        await _redis.StartAgainAsync();
        while ((await web.Client.GetAsync("/health/ready")).StatusCode != HttpStatusCode.OK)
        {
            await Task.Delay(100);
        }

        foreach (var job in waiting.Prepend(running))
        {
            var finished = await web.FinishAsync(job.Id);
            (finished.Status, finished.Revision).ShouldBe((JobStatus.Succeeded, 2));
        }

        worker.Fake.Prompts.Concat(late.Fake.Prompts).Order().ShouldBe(["a goat", "a rocket", "hold it"]);
    }

    [Fact]
    public async Task A_job_that_is_delivered_twice_counts_once()
    {
        var (first, second) = (await StoreAsync(), await StoreAsync());
        var job = NewJob();
        (await first.AddAsync(job)).Outcome.ShouldBe(AddOutcome.Added);
        (await second.AddAsync(job with { Seed = 2 })).Outcome.ShouldBe(AddOutcome.Exists);
        var slow = (await first.TryTakeAsync())!; // and then the process hangs for longer than a lease
        (await second.TryTakeAsync()).ShouldBeNull();
        var taken = await TakeAsync(second);
        (taken.Id, taken.Seed, taken.Attempts).ShouldBe((job.Id, 1, 2));

        (await first.RenewAsync(slow)).ShouldBeFalse();
        await first.ShowProgressAsync(slow, new(GenerationStage.Writing, 1, 1, null, 1));
        await first.ShowPreviewAsync(slow, 1, new("late"u8.ToArray(), "image/png"));
        (await first.FinishAsync(slow, JobStatus.Failed, error: "late")).ShouldBeNull();
        (await first.RequeueAsync(slow)).ShouldBeNull();
        var running = (await second.FindAsync(job.Id))!;
        (running.Status, running.Progress, running.PreviewStep, running.Attempts).ShouldBe((JobStatus.Running, null, null, 2));

        (await second.RenewAsync(taken)).ShouldBeTrue();
        (await second.FinishAsync(taken, JobStatus.Succeeded))!.Status.ShouldBe(JobStatus.Succeeded);
        (await second.FinishAsync(taken, JobStatus.Failed, error: "again")).ShouldBeNull();
        (await first.FinishAsync(slow, JobStatus.Failed, error: "again")).ShouldBeNull();
        var finished = (await first.FindAsync(job.Id))!;
        (finished.Status, finished.Error, finished.Revision).ShouldBe((JobStatus.Succeeded, null, 3));
        (await first.TryTakeAsync()).ShouldBeNull();
        (await first.ListAsync("me")).Count.ShouldBe(1);
    }

    [Fact]
    public async Task Abandoned_jobs_fail_after_the_last_attempt_and_stay_canceled()
    {
        var store = await StoreAsync();
        var (fatal, canceled) = (NewJob(), NewJob());
        await store.AddAsync(fatal);
        (await store.TryTakeAsync())!.Attempts.ShouldBe(1);
        (await TakeAsync(store)).Attempts.ShouldBe(2);
        (await TakeAsync(store)).Attempts.ShouldBe(3); // and then the process dies for the third time
        await store.AddAsync(canceled);
        (await store.TryTakeAsync())!.Id.ShouldBe(canceled.Id);
        (await store.RequestCancelAsync(canceled.Id))!.CancelRequested.ShouldBeTrue();

        for (var i = 0; i < 100 && !(await store.FindAsync(canceled.Id))!.IsFinished; i++)
        {
            await Task.Delay(50);
            (await store.TryTakeAsync()).ShouldBeNull();
        }

        (await store.FindAsync(canceled.Id))!.Status.ShouldBe(JobStatus.Canceled);
        var failed = (await store.FindAsync(fatal.Id))!;
        failed.Status.ShouldBe(JobStatus.Failed);
        failed.Error!.ShouldContain("stopped 3 times");
        (await store.CountQueuedAsync()).ShouldBe(0);
    }

    [Fact]
    public async Task All_abandoned_jobs_are_found_among_many_running_ones()
    {
        var store = await StoreAsync(5);
        List<Job> running = [];
        for (var i = 0; i < 30; i++)
        {
            await store.AddAsync(NewJob());
            running.Add((await store.TryTakeAsync())!);
        }

        var abandoned = running[25..];
        running.RemoveRange(25, 5);
        List<Guid> found = [];
        for (var i = 0; i < 200 && found.Count < 5; i++)
        {
            foreach (var job in running)
            {
                (await store.RenewAsync(job)).ShouldBeTrue();
            }

            if (await store.TryTakeAsync() is { } taken)
            {
                running.Add(taken);
                found.Add(taken.Id);
            }

            await Task.Delay(50);
        }

        found.Order().ShouldBe(abandoned.Select(job => job.Id).Order());
    }

    [Fact]
    public async Task Stopping_a_worker_puts_its_job_back_at_the_front()
    {
        var web = await StartAsync("Web");
        var worker = await StartAsync("Worker");
        var job = await web.SubmitAsync("hold it");
        await web.HoldAsync(job.Id);
        var next = await web.SubmitAsync("a goat");
        _running.Remove(worker);
        await worker.DisposeAsync();
        var store = web.Services.GetRequiredService<IJobStore>();
        var waiting = (await store.FindAsync(job.Id))!;
        (waiting.Status, waiting.QueuePosition, waiting.Attempts).ShouldBe((JobStatus.Queued, 1, 0));

        var other = await StartAsync("Worker");
        other.Fake.Release();
        (await web.FinishAsync(job.Id)).Status.ShouldBe(JobStatus.Succeeded);
        (await web.FinishAsync(next.Id)).Status.ShouldBe(JobStatus.Succeeded);
        other.Fake.Prompts.ShouldBe(["hold it", "a goat"]);
    }

    [Fact]
    public async Task A_worker_serves_health_checks_only_and_the_web_process_describes_its_model()
    {
        var web = await StartAsync("Web");
        (await (await web.Client.GetAsync("/health/ready")).Content.ReadAsStringAsync()).ShouldContain("The model is being loaded.");
        var worker = await StartAsync("Worker");
        var model = await RunningStudio.ReadAsync<ModelView>(await web.Client.GetAsync("/api/model"));
        (model.Name, model.Frames, model.Steps.Default).ShouldBe(("fake", new SettingRange(1, 32, 1, 16), 20));
        foreach (var path in new[] { "/", "/api/model", "/api/jobs", "/openapi/v1.json" })
        {
            (await worker.Client.GetAsync(path)).StatusCode.ShouldBe(HttpStatusCode.NotFound);
        }

        (await worker.Client.GetAsync("/health/live")).StatusCode.ShouldBe(HttpStatusCode.OK);
        (await worker.Client.GetAsync("/health/ready")).StatusCode.ShouldBe(HttpStatusCode.OK);
    }

    [Theory]
    [InlineData("Web")]
    [InlineData("Worker")]
    public async Task One_part_of_the_application_requires_Redis(string role)
    {
        var start = () => RunningStudio.StartAsync(folder: _folder, settings: $"Role={role}");
        (await Should.ThrowAsync<OptionsValidationException>(start)).Message.ShouldContain("Studio:Redis is not set");
    }

    private static Job NewJob() => new(0, Guid.NewGuid(), "me", new JobSettings { Prompt = "a goat" }, 1);

    /// <summary>Waits until a store takes over a job.</summary>
    private static async Task<Job> TakeAsync(IJobStore store)
    {
        for (var i = 0; i < 200; i++)
        {
            if (await store.TryTakeAsync() is { } job)
            {
                return job;
            }

            await Task.Delay(50);
        }

        throw new InvalidOperationException("No job was taken over within 10 seconds.");
    }

    private async Task<RunningStudio> StartAsync(string role, params string[] settings)
    {
        var studio = await RunningStudio.StartAsync(folder: _folder, settings: [$"Role={role}", $"Redis={_redis.Address}", .. settings]);
        _running.Add(studio);
        return studio;
    }

    /// <summary>A store of a web process that takes jobs.</summary>
    private async Task<IJobStore> StoreAsync(int leaseSeconds = 2) =>
        (await StartAsync("Web", $"LeaseSeconds={leaseSeconds}", "MaxJobs=100", "MaxJobsPerUser=100")).Services.GetRequiredService<IJobStore>();
}
