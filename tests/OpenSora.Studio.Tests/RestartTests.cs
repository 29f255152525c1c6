using System.Diagnostics;
using System.Net.Http.Json;
using System.Text;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>No job is lost when the application stops or is killed.</summary>
public sealed class RestartTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("studio-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task Killing_the_process_in_the_middle_of_three_jobs_loses_none(int workers)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "The ffmpeg that waits is a script of a Unix shell.");
        List<JobView> jobs = [];
        string cookie;
        var gate = new FFmpegGate(_folder); // so that none ends before all have begun
        using (var first = await StudioProcess.StartAsync(_folder, gate, $"Workers={workers}"))
        {
            using var user = RunningStudio.NewUser(first.Address.ToString());
            foreach (var prompt in new[] { "a goat", "a rocket", "a red apple" })
            {
                jobs.Add(await SubmitAsync(user, prompt));
            }

            await Task.WhenAll(jobs.Take(workers).Select(job => RunningStudio.WaitAsync(user, job.Id, RunningStudio.HasBegun)));

            cookie = "studio-user=" + Owner(jobs[0].Id)["browser:".Length..];
            first.Kill();
        }

        // It was killed in the middle.
        var interrupted =
            workers == 1 ? new[] { JobStatus.Running, JobStatus.Queued, JobStatus.Queued } : [.. Enumerable.Repeat(JobStatus.Running, 3)];
        (await StatusesAsync([.. jobs.Select(job => job.Id)])).ShouldBe(interrupted);
        var leftOver = Path.Combine(_folder, "videos", $"{jobs[0].Id}.mp4.{Guid.NewGuid():N}.tmp");
        await File.WriteAllTextAsync(leftOver, "half of a video");

        using var second = await StudioProcess.StartAsync(_folder, gate: null, $"Workers={workers}");
        using var again = new HttpClient { BaseAddress = second.Address, DefaultRequestHeaders = { { "Cookie", cookie } } };
        foreach (var job in jobs)
        {
            var finished = await RunningStudio.WaitAsync(again, job.Id, each => each.Finished is not null);
            (finished.Status, finished.Error, finished.Seed).ShouldBe((JobStatus.Succeeded, null, job.Seed), second.Log);
            (await again.GetByteArrayAsync(finished.VideoUrl))[4..8].ShouldBe("ftyp"u8.ToArray());
        }

        var history = await RunningStudio.ReadAsync<JobPage>(await again.GetAsync("/api/jobs"));
        history.Jobs.Select(job => job.Id).ShouldBe(jobs.Select(job => job.Id).Reverse());
        File.Exists(leftOver).ShouldBeFalse();

        // The interrupted job made the video that it would have made without the interruption.
        var repeated = await SubmitAsync(again, "a goat", jobs[0].Seed);
        await RunningStudio.WaitAsync(again, repeated.Id, each => each.Finished is not null);
        var (poster, expected) = (File.ReadAllBytes(Poster(jobs[0])), File.ReadAllBytes(Poster(repeated)));
        poster.ShouldBe(expected);

        string Poster(JobView job) => Path.Combine(_folder, "videos", $"{job.Id}.png");
    }

    [Fact]
    public async Task Stopping_puts_the_running_job_back()
    {
        Guid running,
            waiting;
        string cookie;
        await using (var first = await RunningStudio.StartAsync(folder: _folder))
        {
            running = (await first.SubmitAsync("hold it")).Id;
            await first.HoldAsync(running);
            waiting = (await first.SubmitAsync("a goat")).Id;
            cookie = "studio-user=" + (await first.Services.GetRequiredService<IJobStore>().FindAsync(running))!.Owner["browser:".Length..];
        }

        (await StatusesAsync(running)).ShouldBe([JobStatus.Queued]);
        var fake = new FakeVideoGenerator();
        fake.Release();
        await using var second = await RunningStudio.StartAsync(fake, _folder);
        second.Client.DefaultRequestHeaders.Add("Cookie", cookie);
        (await second.FinishAsync(waiting)).Status.ShouldBe(JobStatus.Succeeded);
        (await second.FinishAsync(running)).Status.ShouldBe(JobStatus.Succeeded);
        fake.Prompts.ShouldBe(["hold it", "a goat"]);
    }

    [Fact]
    public async Task A_job_that_was_interrupted_too_often_fails()
    {
        var job = NewJob();
        using (var store = Open())
        {
            await store.AddAsync(job);
        }

        for (var attempt = 1; attempt <= 3; attempt++)
        {
            using var store = Open();
            store.Recover();
            (await store.TryTakeAsync())!.Attempts.ShouldBe(attempt); // and then the process dies
        }

        using var last = Open();
        last.Recover();
        var failed = (await last.FindAsync(job.Id))!;
        failed.Status.ShouldBe(JobStatus.Failed);
        failed.Error!.ShouldContain("stopped 3 times");
        (await last.TryTakeAsync()).ShouldBeNull();
    }

    [Fact]
    public async Task A_job_that_was_canceled_before_the_end_of_the_process_does_not_run_again()
    {
        var job = NewJob();
        using (var store = Open())
        {
            await store.AddAsync(job);
            await store.TryTakeAsync();
            await store.RequestCancelAsync(job.Id);
        }

        using var next = Open();
        next.Recover();
        (await next.FindAsync(job.Id))!.Status.ShouldBe(JobStatus.Canceled);
        (await next.CountQueuedAsync()).ShouldBe(0);
        (await next.TryTakeAsync()).ShouldBeNull();
    }

    [Fact]
    public async Task A_job_is_started_by_one_worker_only()
    {
        using var store = Open();
        await store.AddAsync(NewJob());
        var taken = await Task.WhenAll(Enumerable.Range(0, 16).Select(_ => Task.Run(store.TryTakeAsync)));
        taken.Count(job => job is not null).ShouldBe(1);
    }

    [Fact]
    public void A_folder_belongs_to_one_process()
    {
        using var store = Open();
        Should.Throw<InvalidOperationException>(Open).Message.ShouldContain("is in use by another process");
    }

    private static async Task<JobView> SubmitAsync(HttpClient user, string prompt, long? seed = null)
    {
        var answer = await user.PostAsJsonAsync(
            "/api/jobs",
            new
            {
                prompt,
                seed,
                frames = 1,
                steps = 24,
            }
        );
        return await RunningStudio.ReadAsync<JobView>(answer.EnsureSuccessStatusCode());
    }

    private static Job NewJob() => new(0, Guid.NewGuid(), "me", new JobSettings { Prompt = "a goat" }, 1);

    private SqliteJobStore Open() => new(Options.Create(new StudioOptions { DataFolder = _folder }));

    private async Task<List<JobStatus>> StatusesAsync(params Guid[] ids)
    {
        using var store = Open();
        List<JobStatus> statuses = [];
        foreach (var id in ids)
        {
            statuses.Add((await store.FindAsync(id))!.Status);
        }

        return statuses;
    }

    // Read while the process has the folder, so not with a store.
    private string Owner(Guid id)
    {
        using var connection = new Microsoft.Data.Sqlite.SqliteConnection(
            $"Data Source={Path.Combine(_folder, "jobs.db")};Mode=ReadOnly;Pooling=false"
        );
        connection.Open();
        using var command = connection.CreateCommand();
        command.CommandText = $"SELECT owner FROM jobs WHERE id = '{id}'";
        return (string)command.ExecuteScalar()!;
    }
}
