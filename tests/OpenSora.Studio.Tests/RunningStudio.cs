using System.Net;
using System.Net.Http.Json;
using System.Net.ServerSentEvents;
using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;
using OpenSora.Studio.Api;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>Studio on a free port of this machine with real HTTP, and a user of it. Its folder is deleted at the end, unless it was given.</summary>
internal sealed class RunningStudio : IAsyncDisposable
{
    private static readonly JsonSerializerOptions Json = new(JsonSerializerOptions.Web)
    {
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase) },
    };

    private readonly WebApplication _app;
    private readonly bool _ownsFolder;

    private RunningStudio(WebApplication app, string folder, bool ownsFolder, FakeVideoGenerator fake)
    {
        (_app, Folder, _ownsFolder, Fake) = (app, folder, ownsFolder, fake);
        Client = NewUser();
    }

    public string Folder { get; }

    public FakeVideoGenerator Fake { get; }

    /// <summary>A user, who keeps the cookie of the server.</summary>
    public HttpClient Client { get; }

    public string Address => _app.Urls.Single();

    public IServiceProvider Services => _app.Services;

    /// <summary>Starts the application.</summary>
    /// <param name="fake">The generator; null for a new one.</param>
    /// <param name="folder">The data folder; null for a new one.</param>
    /// <param name="isReal">Indicates whether the bundled model is used instead of the fake generator.</param>
    /// <param name="settings">Settings of the section Studio, as in <c>Workers=2</c>.</param>
    public static async Task<RunningStudio> StartAsync(
        FakeVideoGenerator? fake = null,
        string? folder = null,
        bool isReal = false,
        params string[] settings
    )
    {
        var generator = fake ?? new FakeVideoGenerator();
        var data = folder ?? Directory.CreateTempSubdirectory("studio-").FullName;
        var app = StudioApp.Create(
            ["--urls=http://127.0.0.1:0", $"--Studio:DataFolder={data}", .. settings.Select(setting => $"--Studio:{setting}")],
            services =>
            {
                services.AddLogging(logging => logging.ClearProviders());
                if (!isReal && !settings.Contains("Role=Web")) // which does not generate
                {
                    services.AddSingleton<IVideoGenerator>(generator);
                }
            }
        );
        try
        {
            await app.StartAsync();
        }
        catch
        {
            await app.DisposeAsync();
            throw;
        }

        return new(app, data, folder is null, generator);
    }

    public HttpClient NewUser() => NewUser(Address);

    public static HttpClient NewUser(string address) =>
        new(new HttpClientHandler { CookieContainer = new CookieContainer() }) { BaseAddress = new Uri(address), Timeout = TimeSpan.FromMinutes(5) };

    public static async Task<T> ReadAsync<T>(HttpResponseMessage response) => (await response.Content.ReadFromJsonAsync<T>(Json))!;

    public Task<HttpResponseMessage> PostAsync(object settings, HttpClient? user = null) => (user ?? Client).PostAsJsonAsync("/api/jobs", settings);

    public async Task<JobView> SubmitAsync(string prompt, HttpClient? user = null)
    {
        var response = await PostAsync(new { prompt, frames = 4 }, user);
        response.StatusCode.ShouldBe(HttpStatusCode.Created, await response.Content.ReadAsStringAsync());
        return await ReadAsync<JobView>(response);
    }

    public async Task<JobView> GetAsync(Guid id) => await ReadAsync<JobView>(await Client.GetAsync($"/api/jobs/{id}"));

    public async Task<JobPage> ListAsync(string query = "", HttpClient? user = null) =>
        await ReadAsync<JobPage>(await (user ?? Client).GetAsync("/api/jobs" + query));

    /// <summary>Waits until a job has finished.</summary>
    public Task<JobView> FinishAsync(Guid id) => WaitAsync(Client, id, job => job.Finished is not null);

    /// <summary>Waits until a job is in the middle of its generation.</summary>
    public Task<JobView> HoldAsync(Guid id) => WaitAsync(Client, id, job => job.Progress is { Stage: GenerationStage.Denoising, Step: 12 });

    /// <summary>Determines whether a job has completed a step of its generation.</summary>
    public static bool HasBegun(JobView job) =>
        job.Progress is { Stage: GenerationStage.Denoising, Step: > 0 } or { Stage: > GenerationStage.Denoising };

    public static async Task<JobView> WaitAsync(HttpClient user, Guid id, Func<JobView, bool> until)
    {
        JobView? last = null;
        await foreach (var (type, job) in EventsAsync(user, $"/api/jobs/{id}/events"))
        {
            if (type is "job" && until(last = job!))
            {
                return job!;
            }
        }

        throw new InvalidOperationException($"The stream of events ended before the job was in the expected state. Its last state was {last}.");
    }

    public static async IAsyncEnumerable<(string Type, JobView? Job)> EventsAsync(HttpClient user, string address)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromMinutes(4));
        await using var stream = await user.GetStreamAsync(address, limit.Token);
        var events = SseParser.Create(stream, (type, data) => type is "job" ? JsonSerializer.Deserialize<JobView>(data, Json) : null);
        await foreach (var each in events.EnumerateAsync(limit.Token))
        {
            yield return (each.EventType, each.Data);
        }
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await _app.StopAsync();
        await _app.DisposeAsync();
        if (_ownsFolder)
        {
            Directory.Delete(Folder, recursive: true);
        }
    }
}
