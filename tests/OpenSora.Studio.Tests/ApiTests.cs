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
