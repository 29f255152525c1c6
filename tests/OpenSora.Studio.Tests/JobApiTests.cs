using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Generation;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>What the HTTP API does with jobs, which does not depend on where they are stored.</summary>
public abstract class JobApiTests
{
    [Fact]
    public async Task A_job_runs_and_its_files_can_be_read()
    {
        await using var studio = await StartAsync();
        var response = await studio.PostAsync(
            new
            {
                prompt = "a giraf",
                negativePrompt = "blur",
                frames = 4,
                width = 64,
                height = 96,
                steps = 5,
                guidanceScale = 2.5,
                seed = 7,
            }
        );
        response.StatusCode.ShouldBe(HttpStatusCode.Created);
        var submitted = await RunningStudio.ReadAsync<JobView>(response);
        response.Headers.Location!.ToString().ShouldBe($"/api/jobs/{submitted.Id}");
        submitted.VideoUrl.ShouldBeNull();

        var job = await studio.FinishAsync(submitted.Id);
        job.Status.ShouldBe(JobStatus.Succeeded);
        (job.Result!.Frames, job.Result.Width, job.Result.Height, job.Result.Steps, job.Seed).ShouldBe((4, 64, 96, 5, 7));
        job.Result.Warnings.ShouldBe(["The nearest names are 'giraffe'."]);
        var request = studio.Fake.Requests.Single();
        (request.Prompt, request.NegativePrompt, request.GuidanceScale, request.Seed).ShouldBe(("a giraf", "blur", 2.5, 7));

        using var part = new HttpRequestMessage(HttpMethod.Get, job.VideoUrl) { Headers = { Range = new RangeHeaderValue(4, 7) } };
        var video = await studio.Client.SendAsync(part);
        video.StatusCode.ShouldBe(HttpStatusCode.PartialContent);
        video.Content.Headers.ContentType!.MediaType.ShouldBe("video/mp4");
        (await video.Content.ReadAsStringAsync()).ShouldBe("ftyp");
        var download = await studio.Client.GetAsync(job.VideoUrl + "?download=true");
        download.Content.Headers.ContentDisposition!.FileName.ShouldBe($"{job.Id}.mp4");
        (await studio.Client.GetByteArrayAsync(job.PosterUrl))[1..4].ShouldBe("PNG"u8.ToArray());
    }

    [Fact]
    public async Task A_job_that_is_submitted_twice_runs_once()
    {
        await using var studio = await StartAsync();
        await studio.ListAsync(); // gets the cookie
        var address = $"/api/jobs/{Guid.NewGuid()}";
        var answers = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => studio.Client.PutAsJsonAsync(address, new { prompt = "a goat" })));
        answers.Select(answer => answer.StatusCode).Order().ShouldBe([.. Enumerable.Repeat(HttpStatusCode.OK, 7), HttpStatusCode.Created]);
        var job = await studio.FinishAsync((await RunningStudio.ReadAsync<JobView>(answers[0])).Id);
        address.ShouldEndWith(job.Id.ToString());
        studio.Fake.Requests.Count.ShouldBe(1);

        (await studio.Client.PutAsJsonAsync(address, new { prompt = "a goat", steps = 3 })).StatusCode.ShouldBe(HttpStatusCode.Conflict);
        using var other = studio.NewUser();
        (await other.PutAsJsonAsync(address, new { prompt = "a goat" })).StatusCode.ShouldBe(HttpStatusCode.Conflict);
        studio.Fake.Requests.Count.ShouldBe(1);
    }

    [Fact]
    public async Task Events_report_the_whole_life_of_a_job_and_then_end()
    {
        var fake = new FakeVideoGenerator();
        await using var studio = await StartAsync(fake);
        var first = await studio.SubmitAsync("hold it");
        await studio.HoldAsync(first.Id);
        var second = await studio.SubmitAsync("a goat");
        List<JobView> states = [];
        await foreach (var (type, job) in RunningStudio.EventsAsync(studio.Client, $"/api/jobs/{second.Id}/events"))
        {
            fake.Release();
            if (type is "job")
            {
                states.Add(job!);
            }
        }

        (states[0].Status, states[0].QueuePosition).ShouldBe((JobStatus.Queued, 1));
        states[^1].Status.ShouldBe(JobStatus.Succeeded);
        states.Select(job => job.Status).Distinct().Order().ShouldBe(states.Select(job => job.Status).Distinct());
        var fractions = states.Where(job => job.Progress is not null).Select(job => job.Progress!.Fraction).ToList();
        fractions.ShouldBe(fractions.Order());
    }

    [Fact]
    public async Task Events_of_a_user_do_not_include_jobs_of_others()
    {
        var fake = new FakeVideoGenerator();
        await using var studio = await StartAsync(fake);
        using var other = studio.NewUser();
        await studio.ListAsync(); // gets the cookie
        var theirs = await studio.SubmitAsync("hold theirs", other);
        var mine = await studio.SubmitAsync("a goat");
        List<Guid> seen = [];
        await foreach (var (type, job) in RunningStudio.EventsAsync(studio.Client, "/api/events"))
        {
            fake.Release();
            if (type is not "job")
            {
                continue;
            }

            seen.Add(job!.Id);
            if (job.Finished is not null)
            {
                break;
            }
        }

        seen.ShouldAllBe(id => id == mine.Id);
        (await other.GetAsync($"/api/jobs/{theirs.Id}")).StatusCode.ShouldBe(HttpStatusCode.OK);
        var actions = new[] { "", "/video", "/poster", "/preview", "/events" }.Select(path => studio.Client.GetAsync($"/api/jobs/{theirs.Id}{path}"));
        (await Task.WhenAll(actions)).ShouldAllBe(answer => answer.StatusCode == HttpStatusCode.NotFound);
        (await studio.Client.PostAsync($"/api/jobs/{theirs.Id}/cancel", null)).StatusCode.ShouldBe(HttpStatusCode.NotFound);
        (await studio.Client.DeleteAsync($"/api/jobs/{theirs.Id}")).StatusCode.ShouldBe(HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task A_preview_can_be_read_while_the_job_runs()
    {
        await using var studio = await StartAsync();
        var id = (await studio.SubmitAsync("hold it")).Id;
        (await studio.HoldAsync(id)).Progress!.PreviewUrl.ShouldBeNull();
        var address = $"/api/jobs/{id}/preview";
        (await studio.Client.GetAsync(address)).StatusCode.ShouldBe(HttpStatusCode.NotFound);

        var store = studio.Services.GetRequiredService<IJobStore>();
        var job = (await store.FindAsync(id))!;
        await store.ShowProgressAsync(job, new(GenerationStage.Denoising, 13, 20, null, 0.6));
        await store.ShowPreviewAsync(job, 13, new("picture"u8.ToArray(), "image/jpeg"));
        await store.ShowPreviewAsync(job, 12, new("late"u8.ToArray(), "image/jpeg"));
        await store.ShowProgressAsync(job, new(GenerationStage.Denoising, 14, 20, null, 0.65));
        var progress = (await studio.GetAsync(id)).Progress!;
        (progress.Step, progress.PreviewUrl).ShouldBe((14, address + "?step=13"));
        var preview = await studio.Client.GetAsync(progress.PreviewUrl);
        preview.Content.Headers.ContentType!.MediaType.ShouldBe("image/jpeg");
        (await preview.Content.ReadAsStringAsync()).ShouldBe("picture");

        studio.Fake.Release();
        await studio.FinishAsync(id);
        (await studio.Client.GetAsync(address)).StatusCode.ShouldBe(HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task Every_change_of_a_job_increases_its_revision()
    {
        await using var studio = await StartAsync();
        var submitted = await studio.SubmitAsync("hold it");
        var running = await studio.HoldAsync(submitted.Id);
        await studio.Client.PostAsync($"/api/jobs/{submitted.Id}/cancel", null); // the request and its effect are two changes
        var canceled = await studio.FinishAsync(submitted.Id);
        new[] { submitted, running, canceled }.Select(job => job.Revision).ShouldBe([0, 1, 3]);
    }

    [Fact]
    public async Task Jobs_can_be_canceled_while_they_run_and_while_they_wait()
    {
        await using var studio = await StartAsync();
        var running = await studio.SubmitAsync("hold it");
        await studio.HoldAsync(running.Id);
        var waiting = await studio.SubmitAsync("a goat");
        var last = await studio.SubmitAsync("a rocket");
        (await studio.GetAsync(last.Id)).QueuePosition.ShouldBe(2);

        (await CancelAsync(waiting.Id)).Status.ShouldBe(JobStatus.Canceled);
        (await studio.GetAsync(last.Id)).QueuePosition.ShouldBe(1);
        (await CancelAsync(running.Id)).CancelRequested.ShouldBeTrue();
        (await studio.FinishAsync(running.Id)).Status.ShouldBe(JobStatus.Canceled);
        (await studio.FinishAsync(last.Id)).Status.ShouldBe(JobStatus.Succeeded);
        studio.Fake.Prompts.ShouldBe(["hold it", "a rocket"]);
        (await CancelAsync(last.Id)).Status.ShouldBe(JobStatus.Succeeded);

        async Task<JobView> CancelAsync(Guid id) =>
            await RunningStudio.ReadAsync<JobView>(await studio.Client.PostAsync($"/api/jobs/{id}/cancel", null));
    }

    [Fact]
    public async Task A_finished_job_can_be_deleted_with_its_files()
    {
        await using var studio = await StartAsync();
        var job = await studio.SubmitAsync("hold it");
        await studio.HoldAsync(job.Id);
        (await studio.Client.DeleteAsync($"/api/jobs/{job.Id}")).StatusCode.ShouldBe(HttpStatusCode.Conflict);
        studio.Fake.Release();
        await studio.FinishAsync(job.Id);
        Directory.GetFiles(Path.Combine(studio.Folder, "videos")).Length.ShouldBe(2);
        (await studio.Client.DeleteAsync($"/api/jobs/{job.Id}")).StatusCode.ShouldBe(HttpStatusCode.NoContent);
        (await studio.Client.DeleteAsync($"/api/jobs/{job.Id}")).StatusCode.ShouldBe(HttpStatusCode.NotFound);
        Directory.GetFiles(Path.Combine(studio.Folder, "videos")).ShouldBeEmpty();
    }

    [Fact]
    public async Task Failures_explain_themselves_without_internal_details()
    {
        await using var studio = await StartAsync();
        var broken = await studio.FinishAsync((await studio.SubmitAsync("break it")).Id);
        broken.Status.ShouldBe(JobStatus.Failed);
        broken.Error!.ShouldNotContain("secret");
        broken.Error!.ShouldContain("error on the server");
        var refused = await studio.FinishAsync((await studio.SubmitAsync("refuse it")).Id);
        refused.Error.ShouldBe("The prompt needs more memory than there is. Use fewer frames.");
        (await studio.Client.GetAsync($"/api/jobs/{broken.Id}/video")).StatusCode.ShouldBe(HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task The_history_is_searched_filtered_and_paged()
    {
        await using var studio = await StartAsync(settings: ["MaxJobsPerUser=20"]);
        foreach (var prompt in new[] { "a red Goat", "a goat, 100% blue", "ÉCLAIR on a plate", "break the goat", "a rocket" })
        {
            await studio.FinishAsync((await studio.SubmitAsync(prompt)).Id);
        }

        (await PromptsAsync("?search=goat")).ShouldBe(["break the goat", "a goat, 100% blue", "a red Goat"]);
        (await PromptsAsync("?search=GOAT%20red")).ShouldBe(["a red Goat"]);
        (await PromptsAsync("?search=0%25")).ShouldBe(["a goat, 100% blue"]);
        (await PromptsAsync("?search=_")).ShouldBeEmpty();
        (await PromptsAsync("?search=%C3%A9clair")).ShouldBe(["ÉCLAIR on a plate"]);
        (await PromptsAsync("?status=failed")).ShouldBe(["break the goat"]);
        (await PromptsAsync("?status=succeeded&search=goat")).ShouldBe(["a goat, 100% blue", "a red Goat"]);

        var first = await studio.ListAsync("?limit=3");
        var second = await studio.ListAsync($"?limit=3&before={first.Next}");
        (first.Jobs.Count, second.Jobs.Count, second.Next).ShouldBe((3, 2, null));
        first.Jobs.Concat(second.Jobs).Select(job => job.Number).ShouldBe([5, 4, 3, 2, 1]);
        (await studio.Client.GetAsync("/api/jobs?status=done")).StatusCode.ShouldBe(HttpStatusCode.BadRequest);
        (await studio.Client.GetAsync("/api/jobs?limit=0")).StatusCode.ShouldBe(HttpStatusCode.BadRequest);
        (await studio.Client.GetAsync("/api/jobs?limit=all")).StatusCode.ShouldBe(HttpStatusCode.BadRequest);
        using var other = studio.NewUser();
        (await studio.ListAsync("", other)).Jobs.ShouldBeEmpty();

        async Task<IEnumerable<string>> PromptsAsync(string query) => (await studio.ListAsync(query)).Jobs.Select(job => job.Settings.Prompt);
    }

    [Fact]
    public async Task Unfinished_jobs_are_limited_for_each_user_and_for_all()
    {
        await using var studio = await StartAsync(settings: ["MaxJobsPerUser=2", "MaxJobs=3"]);
        using var other = studio.NewUser();
        var first = await studio.SubmitAsync("hold it");
        await studio.SubmitAsync("a goat");
        (await studio.PostAsync(new { prompt = "a rocket" })).StatusCode.ShouldBe(HttpStatusCode.TooManyRequests);
        await studio.SubmitAsync("a rocket", other);
        (await studio.PostAsync(new { prompt = "a cat" }, other)).StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
        studio.Fake.Release();
        await studio.FinishAsync(first.Id);
        await studio.SubmitAsync("a cat");
    }

    private protected abstract Task<RunningStudio> StartAsync(FakeVideoGenerator? fake = null, params string[] settings);
}

/// <summary>With SQLite.</summary>
public class SqliteJobApiTests : JobApiTests
{
    private protected override Task<RunningStudio> StartAsync(FakeVideoGenerator? fake = null, params string[] settings) =>
        RunningStudio.StartAsync(fake, settings: settings);
}

/// <summary>With Redis.</summary>
public sealed class RedisJobApiTests : JobApiTests, IAsyncLifetime
{
    private RedisServer? _redis;

    public async ValueTask InitializeAsync() => _redis = await RedisServer.StartAsync();

    public ValueTask DisposeAsync()
    {
        _redis?.Dispose();
        return ValueTask.CompletedTask;
    }

    private protected override Task<RunningStudio> StartAsync(FakeVideoGenerator? fake = null, params string[] settings) =>
        RunningStudio.StartAsync(fake, settings: [$"Redis={_redis!.Address}", .. settings]);
}
