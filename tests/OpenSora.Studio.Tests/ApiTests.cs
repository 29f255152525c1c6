using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text.Json;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>The contract of the HTTP API, over real HTTP with a generator that draws at once.</summary>
public class ApiTests
{
    [Fact]
    public async Task A_job_runs_and_its_files_can_be_read()
    {
        await using var studio = await RunningStudio.StartAsync();
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
    public async Task The_bundled_model_makes_a_video()
    {
        await using var studio = await RunningStudio.StartAsync(isReal: true);
        var response = await studio.PostAsync(
            new
            {
                prompt = "a goat",
                frames = 8,
                steps = 1,
            }
        );
        var job = await studio.FinishAsync((await RunningStudio.ReadAsync<JobView>(response)).Id);
        (job.Status, job.Error).ShouldBe((JobStatus.Succeeded, null));
        (job.Result!.Frames, job.Result.Width, job.Result.Model).ShouldBe((8, 128, "stickers"));
        (await studio.Client.GetByteArrayAsync(job.VideoUrl))[4..8].ShouldBe("ftyp"u8.ToArray());
    }

    [Fact]
    public async Task The_model_describes_the_supported_settings()
    {
        await using var studio = await RunningStudio.StartAsync();
        var model = await RunningStudio.ReadAsync<ModelView>(await studio.Client.GetAsync("/api/model"));
        model.Frames.ShouldBe(new SettingRange(1, 32, 1, 16));
        model.Width.ShouldBe(new SettingRange(64, 512, 16, 256));
        (model.Name, model.Steps.Default, model.GuidanceScale, model.Examples[0]).ShouldBe(("fake", 20, 4, "a goat"));
    }

    [Fact]
    public async Task A_job_that_is_submitted_twice_runs_once()
    {
        await using var studio = await RunningStudio.StartAsync();
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

    [Theory]
    [InlineData("""{ "prompt": " " }""", "prompt", "The prompt is empty")]
    [InlineData("""{ "prompt": "a", "frames": 33 }""", "frames", "Frames is 33; fake supports from 1 to 32.")]
    [InlineData("""{ "prompt": "a", "width": 65, "height": 64 }""", "width", "Width is 65; fake supports from 64 to 512 in steps of 16.")]
    [InlineData("""{ "prompt": "a", "width": 64 }""", "height", "must be set together")]
    [InlineData("""{ "prompt": "a", "steps": 0 }""", "steps", "Steps is 0; fake supports from 1 to 1000.")]
    [InlineData("""{ "prompt": "a", "guidanceScale": 101 }""", "guidanceScale", "from 0 to 100")]
    [InlineData("""{ "prompt": "a", "framesPerSecond": 0 }""", "framesPerSecond", "from 1 to 120")]
    [InlineData("""{ "prompt": "a", "seed": -1 }""", "seed", "from 0 to 9007199254740991")]
    public async Task Unsupported_settings_are_refused_with_the_reason(string json, string name, string problem)
    {
        await using var studio = await RunningStudio.StartAsync();
        var response = await studio.PostAsync(JsonSerializer.Deserialize<JsonElement>(json));
        response.StatusCode.ShouldBe(HttpStatusCode.BadRequest);
        var errors = (await RunningStudio.ReadAsync<JsonElement>(response)).GetProperty("errors");
        errors.GetProperty(name)[0].GetString()!.ShouldContain(problem);
        (await studio.ListAsync()).Jobs.ShouldBeEmpty();
    }

    [Theory]
    [InlineData("""{ "prompt": "a", "frmes": 4 }""", "$.frmes")]
    [InlineData("""{ "prompt": "a", "frames": "4" }""", "$.frames")]
    [InlineData("""{ "prompt": """, "$")]
    public async Task Invalid_JSON_is_refused_with_its_place(string json, string place)
    {
        await using var studio = await RunningStudio.StartAsync();
        using var content = new StringContent(json, MediaTypeHeaderValue.Parse("application/json"));
        var response = await studio.Client.PostAsync("/api/jobs", content);
        response.StatusCode.ShouldBe(HttpStatusCode.BadRequest);
        (await RunningStudio.ReadAsync<JsonElement>(response)).GetProperty("detail").GetString()!.ShouldContain($"'{place}");
    }

    [Fact]
    public async Task Events_report_the_whole_life_of_a_job_and_then_end()
    {
        var fake = new FakeVideoGenerator();
        await using var studio = await RunningStudio.StartAsync(fake);
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
        await using var studio = await RunningStudio.StartAsync(fake);
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
        await using var studio = await RunningStudio.StartAsync();
        var id = (await studio.SubmitAsync("hold it")).Id;
        (await studio.HoldAsync(id)).Progress!.PreviewUrl.ShouldBeNull();
        var address = $"/api/jobs/{id}/preview";
        (await studio.Client.GetAsync(address)).StatusCode.ShouldBe(HttpStatusCode.NotFound);

        var jobs = studio.Services.GetRequiredService<JobService>();
        jobs.ShowProgress(id, new(GenerationStage.Denoising, 13, 20, null, 0.6));
        jobs.ShowPreview(id, 13, new("picture"u8.ToArray(), "image/jpeg"));
        jobs.ShowPreview(id, 12, new("late"u8.ToArray(), "image/jpeg"));
        jobs.ShowProgress(id, new(GenerationStage.Denoising, 14, 20, null, 0.65));
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
        await using var studio = await RunningStudio.StartAsync();
        var submitted = await studio.SubmitAsync("hold it");
        var running = await studio.HoldAsync(submitted.Id);
        await studio.Client.PostAsync($"/api/jobs/{submitted.Id}/cancel", null); // the request and its effect are two changes
        var canceled = await studio.FinishAsync(submitted.Id);
        new[] { submitted, running, canceled }.Select(job => job.Revision).ShouldBe([0, 1, 3]);
    }

    [Fact]
    public async Task Jobs_can_be_canceled_while_they_run_and_while_they_wait()
    {
        await using var studio = await RunningStudio.StartAsync();
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
        await using var studio = await RunningStudio.StartAsync();
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
        await using var studio = await RunningStudio.StartAsync();
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
        await using var studio = await RunningStudio.StartAsync(settings: ["MaxJobsPerUser=20"]);
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
        await using var studio = await RunningStudio.StartAsync(settings: ["MaxJobsPerUser=2", "MaxJobs=3"]);
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

    [Fact]
    public async Task Submissions_are_limited_for_each_minute()
    {
        await using var studio = await RunningStudio.StartAsync(settings: ["MaxRequestsPerMinute=2", "MaxJobsPerUser=9"]);
        await studio.SubmitAsync("a goat");
        await studio.SubmitAsync("a cat");
        using var other = studio.NewUser(); // a new cookie does not avoid the limit
        var refused = await studio.PostAsync(new { prompt = "a rocket" }, other);
        refused.StatusCode.ShouldBe(HttpStatusCode.TooManyRequests);
        refused.Headers.RetryAfter!.Delta!.Value.ShouldBeInRange(TimeSpan.FromSeconds(1), TimeSpan.FromMinutes(1));
        refused.Content.Headers.ContentType!.MediaType.ShouldBe("application/problem+json");
        (await studio.ListAsync()).Jobs.Count.ShouldBe(2);
    }

    [Fact]
    public async Task Every_endpoint_is_in_the_OpenAPI_document_with_a_summary()
    {
        await using var studio = await RunningStudio.StartAsync();
        var document = await RunningStudio.ReadAsync<JsonElement>(await studio.Client.GetAsync("/openapi/v1.json"));
        var operations = (
            from path in document.GetProperty("paths").EnumerateObject()
            from operation in path.Value.EnumerateObject()
            select (Name: $"{operation.Name.ToUpperInvariant()} {path.Name}", operation.Value)
        ).ToDictionary(each => each.Name, each => each.Value);
        var routes =
            from endpoint in studio.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>()
            let route = "/" + endpoint.RoutePattern.RawText!.Trim('/').Replace(":guid", "", StringComparison.Ordinal)
            where route.StartsWith("/api", StringComparison.Ordinal)
            from method in endpoint.Metadata.GetMetadata<HttpMethodMetadata>()!.HttpMethods
            select $"{method} {route}";
        operations.Keys.Order().ShouldBe(routes.Order());
        operations.Count.ShouldBe(12);
        operations.Values.ShouldAllBe(operation => operation.GetProperty("summary").GetString() != "");
        var settings = document.GetProperty("components").GetProperty("schemas").GetProperty("JobSettings");
        settings.GetProperty("required").EnumerateArray().Select(name => name.GetString()).ShouldBe(["prompt"]);
        settings.GetProperty("properties").EnumerateObject().ShouldAllBe(setting => setting.Value.GetProperty("description").GetString() != "");
    }

    [Fact]
    public async Task Health_follows_the_model()
    {
        var loading = new TaskCompletionSource();
        await using var studio = await RunningStudio.StartAsync(new FakeVideoGenerator { Loading = loading.Task });
        (await studio.Client.GetAsync("/health/live")).StatusCode.ShouldBe(HttpStatusCode.OK);
        var ready = await studio.Client.GetAsync("/health/ready");
        ready.StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
        (await ready.Content.ReadAsStringAsync()).ShouldContain("The model is being loaded.");
        loading.SetResult();
        await RunningStudio.ReadAsync<ModelView>(await studio.Client.GetAsync("/api/model"));
        for (var i = 0; i < 100 && ready.StatusCode != HttpStatusCode.OK; i++)
        {
            await Task.Delay(50);
            ready = await studio.Client.GetAsync("/health/ready");
        }

        ready.StatusCode.ShouldBe(HttpStatusCode.OK, await ready.Content.ReadAsStringAsync());
    }

    [Fact]
    public async Task A_model_that_cannot_be_loaded_is_reported()
    {
        var failure = Task.FromException(new InvalidModelException("/models/x", "The file denoiser.safetensors is missing."));
        await using var studio = await RunningStudio.StartAsync(new FakeVideoGenerator { Loading = failure });
        var model = await studio.Client.GetAsync("/api/model");
        model.StatusCode.ShouldBe(HttpStatusCode.ServiceUnavailable);
        (await model.Content.ReadAsStringAsync()).ShouldContain("denoiser.safetensors is missing");
        var ready = await studio.Client.GetAsync("/health/ready");
        (await ready.Content.ReadAsStringAsync()).ShouldContain("denoiser.safetensors is missing");
    }

    [Fact]
    public async Task The_page_uses_nothing_from_other_servers()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await studio.Client.GetAsync("/");
        page.Headers.GetValues("Content-Security-Policy").Single().ShouldStartWith("default-src 'self';");
        page.Content.Headers.ContentType!.MediaType.ShouldBe("text/html");
        foreach (var file in new[] { "/", "/app.css", "/app.js" })
        {
            var text = await studio.Client.GetStringAsync(file);
            text.ShouldNotContain("http://");
            text.ShouldNotContain("https://");
        }
    }
}
