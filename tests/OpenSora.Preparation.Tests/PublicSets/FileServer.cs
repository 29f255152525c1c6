using System.Collections.Concurrent;
using System.Globalization;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Net.Http.Headers;

namespace OpenSora.Preparation.Tests.PublicSets;

/// <summary>A local server with one file for each path, which answers as a test asks.</summary>
public sealed class FileServer : IAsyncLifetime
{
    private WebApplication _app = null!;
    private readonly ConcurrentDictionary<string, Func<HttpContext, int, Task>> _answers = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, int> _counts = new(StringComparer.Ordinal);

    /// <summary>The requests in the order of their arrival: path, Range header, User-Agent.</summary>
    public ConcurrentQueue<(string Path, string? Range, string Agent, DateTime Time)> Requests { get; } = [];

    public Uri Address { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(System.Net.IPAddress.Loopback, 0));
        _app = builder.Build();
        _app.Run(AnswerAsync);
        await _app.StartAsync();
        var addresses = _app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!;
        Address = new Uri(addresses.Addresses.Single());
    }

    /// <summary>Forgets all answers and requests.</summary>
    public void Reset()
    {
        _answers.Clear();
        _counts.Clear();
        Requests.Clear();
    }

    /// <summary>Makes a file of a size with contents that its name determines.</summary>
    public static byte[] Contents(string name, int size)
    {
        var bytes = new byte[size];
        new Random(name.Length + (name[^1] * 31)).NextBytes(bytes);
        return bytes;
    }

    /// <summary>Answers a path with a function that receives the number of the request, from 0.</summary>
    public string On(string path, Func<HttpContext, int, Task> answer)
    {
        _answers[path] = answer;
        return new Uri(Address, path).ToString();
    }

    /// <summary>Serves a file as a good server does: Range, If-Range, ETag.</summary>
    /// <param name="path">The path.</param>
    /// <param name="bytes">The contents.</param>
    /// <param name="cutAfter">Gets the number of bytes after which the connection is cut, by the number of the request; null to send all.</param>
    /// <param name="tag">Gets the ETag by the number of the request.</param>
    public string Serve(string path, byte[] bytes, Func<int, int?>? cutAfter = null, Func<int, string?>? tag = null) =>
        On(path, (context, i) => SendAsync(context, bytes, cutAfter?.Invoke(i), tag is null ? "\"v1\"" : tag(i), ranges: true));

    public static async Task SendAsync(HttpContext context, byte[] bytes, int? cutAfter, string? tag, bool ranges, string type = "video/mp4")
    {
        var (request, response) = (context.Request, context.Response);
        response.ContentType = type;
        response.Headers.ETag = tag;
        var start = 0;
        if (
            ranges
            && request.GetTypedHeaders().Range?.Ranges.Single().From is { } from
            && (tag is null || tag.StartsWith('W') || request.Headers.IfRange == tag)
        )
        {
            start = (int)from;
            response.StatusCode = 206;
            response.GetTypedHeaders().ContentRange = new ContentRangeHeaderValue(start, bytes.Length - 1, bytes.Length);
        }

        response.ContentLength = bytes.Length - start;
        if (cutAfter is { } cut)
        {
            await response.Body.WriteAsync(bytes.AsMemory(start, Math.Min(cut, bytes.Length - start)));
            return; // fewer bytes than announced, so Kestrel closes the connection after them
        }

        await response.Body.WriteAsync(bytes.AsMemory(start));
    }

    public async ValueTask DisposeAsync() => await _app.DisposeAsync();

    private async Task AnswerAsync(HttpContext context)
    {
        var path = context.Request.Path.Value! + context.Request.QueryString;
        Requests.Enqueue((path, context.Request.Headers.Range, context.Request.Headers.UserAgent.ToString(), DateTime.UtcNow));
        if (_answers.TryGetValue(path, out var answer))
        {
            await answer(context, _counts.AddOrUpdate(path, 0, (_, count) => count + 1));
        }
        else
        {
            context.Response.StatusCode = 404;
        }
    }
}
