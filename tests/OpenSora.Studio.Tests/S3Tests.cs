using System.Collections.Concurrent;
using System.Net;
using System.Security.Cryptography;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Extensions;
using Microsoft.Extensions.Logging;
using OpenSora.Studio.Jobs;

namespace OpenSora.Studio.Tests;

/// <summary>Videos in a bucket. The store is a small HTTP server that checks the requests.</summary>
public sealed class S3Tests : IAsyncLifetime
{
    private readonly ConcurrentDictionary<string, byte[]> _objects = new(StringComparer.Ordinal);
    private readonly ConcurrentQueue<string> _requests = [];
    private readonly ConcurrentQueue<string> _problems = [];
    private WebApplication _server = null!;

    public async ValueTask InitializeAsync()
    {
        // The client has no settings for credentials: they are those of the machine.
        Environment.SetEnvironmentVariable("AWS_ACCESS_KEY_ID", "studio");
        Environment.SetEnvironmentVariable("AWS_SECRET_ACCESS_KEY", "secret");
        var builder = WebApplication.CreateBuilder(["--urls=http://127.0.0.1:0"]);
        builder.Logging.ClearProviders();
        _server = builder.Build();
        _server.Run(AnswerAsync);
        await _server.StartAsync();
    }

    public async ValueTask DisposeAsync() => await _server.DisposeAsync();

    [Fact]
    public async Task Videos_are_uploaded_downloaded_once_and_deleted()
    {
        await using var studio = await RunningStudio.StartAsync(settings: ["S3Bucket=clips", $"S3Url={_server.Urls.Single()}"]);
        var job = await studio.FinishAsync((await studio.SubmitAsync("a goat")).Id);
        (job.Status, job.Error).ShouldBe((JobStatus.Succeeded, null));
        var id = job.Id;
        _objects.Keys.Order().ShouldBe([$"/clips/videos/{id}.mp4", $"/clips/videos/{id}.png"]);
        _objects[$"/clips/videos/{id}.mp4"][4..8].ShouldBe("ftyp"u8.ToArray());

        // As another machine sees it.
        var folder = Path.Combine(studio.Folder, "videos");
        Array.ForEach(Directory.GetFiles(folder), File.Delete);
        for (var i = 0; i < 2; i++)
        {
            (await studio.Client.GetByteArrayAsync(job.VideoUrl)).ShouldBe(_objects[$"/clips/videos/{id}.mp4"]);
        }

        Directory.GetFiles(folder).Select(Path.GetFileName).ShouldBe([$"{id}.mp4"]);
        (await studio.Client.DeleteAsync($"/api/jobs/{id}")).StatusCode.ShouldBe(HttpStatusCode.NoContent);
        _objects.ShouldBeEmpty();
        Directory.GetFiles(folder).ShouldBeEmpty();
        _requests.Select(request => request.Split(' ')[0]).ShouldBe(["PUT", "PUT", "GET", "DELETE", "DELETE"]);
        _problems.ShouldBeEmpty();
    }

    [Fact]
    public async Task A_video_that_the_bucket_does_not_have_is_not_found()
    {
        await using var studio = await RunningStudio.StartAsync(settings: ["S3Bucket=clips", $"S3Url={_server.Urls.Single()}"]);
        var job = await studio.FinishAsync((await studio.SubmitAsync("a goat")).Id);
        _objects.Clear();
        Array.ForEach(Directory.GetFiles(Path.Combine(studio.Folder, "videos")), File.Delete);
        (await studio.Client.GetAsync(job.VideoUrl)).StatusCode.ShouldBe(HttpStatusCode.NotFound);
    }

    private async Task AnswerAsync(HttpContext context)
    {
        var (request, response) = (context.Request, context.Response);
        _requests.Enqueue($"{request.Method} {request.Path}");
        using var content = new MemoryStream();
        await request.Body.CopyToAsync(content);
        var body = content.ToArray();
        Check(request.Headers.Authorization.ToString().StartsWith("AWS4-HMAC-SHA256 Credential=studio/", StringComparison.Ordinal), "not signed");
        Check(
            body.Length == 0
                || string.Equals(request.Headers["x-amz-content-sha256"], Convert.ToHexStringLower(SHA256.HashData(body)), StringComparison.Ordinal),
            "the signed hash is not that of the body"
        );
        var path = request.Path.Value!;
        switch (request.Method)
        {
            case "PUT":
                _objects[path] = body;
                break;
            case "GET" when _objects.TryGetValue(path, out var found):
                response.ContentLength = found.Length;
                await response.Body.WriteAsync(found);
                break;
            case "GET":
                response.StatusCode = StatusCodes.Status404NotFound;
                response.ContentType = "application/xml";
                await response.WriteAsync("<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>");
                break;
            case "DELETE":
                _objects.TryRemove(path, out _);
                response.StatusCode = StatusCodes.Status204NoContent;
                break;
            default:
                Check(false, "unexpected");
                break;
        }

        void Check(bool isRight, string problem)
        {
            if (!isRight)
            {
                _problems.Enqueue($"{request.Method} {request.GetDisplayUrl()}: {problem}");
            }
        }
    }
}
