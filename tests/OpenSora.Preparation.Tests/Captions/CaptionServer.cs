using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Logging;

namespace OpenSora.Preparation.Tests.Captions;

/// <summary>A request for a caption.</summary>
/// <param name="Number">The number of the request, from 0.</param>
/// <param name="Protocol"><c>ollama</c> or <c>openai</c>.</param>
/// <param name="Model">The model.</param>
/// <param name="Prompt">The text of the message.</param>
/// <param name="Images">The images of the message, as files.</param>
internal sealed record CaptionServerRequest(int Number, string Protocol, string Model, string Prompt, IReadOnlyList<byte[]> Images);

/// <summary>Specifies what a server does with a request.</summary>
internal enum ServerBehavior
{
    /// <summary>Answers as the protocol says.</summary>
    Answer,

    /// <summary>Sends the body in many small pieces with pauses.</summary>
    Pieces,

    /// <summary>Sends text that is not JSON, with status 200.</summary>
    Rubbish,

    /// <summary>Sends JSON without the expected properties.</summary>
    WrongJson,

    /// <summary>Closes the connection without an answer.</summary>
    Close,

    /// <summary>Closes the connection in the middle of the answer.</summary>
    CloseMidway,

    /// <summary>Sends text without an end.</summary>
    Endless,

    /// <summary>Does not answer until the client closes the connection.</summary>
    Hang,
}

/// <summary>An answer of a <see cref="CaptionServer"/>.</summary>
internal sealed record ServerAnswer(string Text = "")
{
    public TimeSpan Delay { get; init; }
    public ServerBehavior Behavior { get; init; }
    public int Status { get; init; } = 200;
    public string? RetryAfter { get; init; }
    public string Finish { get; init; } = "stop";
    public (int Input, int Output)? Tokens { get; init; } = (600, 40);

    /// <summary>An error with a status.</summary>
    public static ServerAnswer Error(int status, string message = "something is wrong", string? retryAfter = null) =>
        new(message) { Status = status, RetryAfter = retryAfter };

    public static implicit operator ServerAnswer(string text) => new(text);
}

/// <summary>A local server that speaks Ollama's <c>/api/chat</c> and OpenAI's <c>/v1/chat/completions</c>, and can misbehave. By default it writes a
/// caption that follows from the pictures: the same pictures always get the same caption.</summary>
internal sealed class CaptionServer : IAsyncDisposable
{
    private static readonly string[] Subjects = ["A brown dog", "A red car", "An old man", "A child", "A white bird", "A woman in blue", "A train"];
    private static readonly string[] Actions = ["moves slowly", "turns around", "stands still", "comes closer", "passes by"];
    private static readonly string[] Places = ["on a sunny beach", "in a dark forest", "in a busy street", "near a lake", "in a bright room"];

    private readonly WebApplication _application;
    private readonly Func<CaptionServerRequest, ServerAnswer> _respond;
    private readonly CancellationTokenSource _stop = new();
    private int _requests,
        _inFlight,
        _mostInFlight;

    private CaptionServer(WebApplication application, Func<CaptionServerRequest, ServerAnswer> respond) =>
        (_application, _respond) = (application, respond);

    /// <summary>Gets the address of the server, for Ollama's protocol.</summary>
    public Uri Address => new(_application.Urls.First());

    /// <summary>Gets the address for OpenAI's protocol.</summary>
    public Uri OpenAIAddress => new(Address, "v1");

    /// <summary>Gets the number of requests so far.</summary>
    public int Requests => Volatile.Read(ref _requests);

    /// <summary>Gets the most requests that were in progress at the same time.</summary>
    public int MostInFlight => Volatile.Read(ref _mostInFlight);

    /// <summary>Starts a server on a free port.</summary>
    /// <param name="respond">Answers requests; null for <see cref="Describe"/>.</param>
    public static async Task<CaptionServer> StartAsync(Func<CaptionServerRequest, ServerAnswer>? respond = null)
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.Listen(IPAddress.Loopback, 0);
            kestrel.Limits.MaxRequestBodySize = 64 << 20;
        });
        var server = new CaptionServer(builder.Build(), respond ?? (request => Describe(request)));
        server._application.Run(server.HandleAsync);
        await server._application.StartAsync();
        return server;
    }

    /// <summary>Writes a caption that follows from the pictures.</summary>
    public static string Describe(CaptionServerRequest request)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var image in request.Images)
        {
            hash.AppendData(image);
        }

        var bytes = hash.GetHashAndReset();
        return $"The video shows {Subjects[bytes[0] % Subjects.Length].ToLowerInvariant()} that {Actions[bytes[1] % Actions.Length]} "
            + $"{Places[bytes[2] % Places.Length]}.";
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _application.DisposeAsync();
        _stop.Dispose();
    }

    private async Task HandleAsync(HttpContext context)
    {
        var number = Interlocked.Increment(ref _requests) - 1;
        var inFlight = Interlocked.Increment(ref _inFlight);
        for (var most = MostInFlight; inFlight > most; most = MostInFlight)
        {
            Interlocked.CompareExchange(ref _mostInFlight, inFlight, most);
        }

        using var stop = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token, context.RequestAborted);
        try
        {
            var path = context.Request.Path.Value;
            if (context.Request.Method is not "POST" || path is not ("/api/chat" or "/v1/chat/completions"))
            {
                context.Response.StatusCode = 404;
                return;
            }

            var json = (await JsonNode.ParseAsync(context.Request.Body, cancellationToken: stop.Token))!;
            var isOllama = path is "/api/chat";
            var request = Read(number, isOllama, json);
            var answer = _respond(request);
            if (answer.Delay > TimeSpan.Zero)
            {
                await Task.Delay(answer.Delay, stop.Token);
            }

            // Ollama streams unless "stream" is false; OpenAI only if it is true.
            var isStream = json["stream"]?.GetValue<bool>() ?? isOllama;
            await AnswerAsync(context, request, answer, isStream, stop.Token);
        }
        catch (OperationCanceledException)
        {
            context.Abort(); // the client has left, or the server stops
        }
        finally
        {
            Interlocked.Decrement(ref _inFlight);
        }
    }

    private static CaptionServerRequest Read(int number, bool isOllama, JsonNode json)
    {
        List<byte[]> images = [];
        var text = new StringBuilder();
        foreach (var message in json["messages"]!.AsArray())
        {
            foreach (var image in message!["images"]?.AsArray() ?? [])
            {
                images.Add(Convert.FromBase64String(image!.GetValue<string>()));
            }

            if (message["content"] is JsonArray parts)
            {
                foreach (var part in parts)
                {
                    text.Append(part!["text"]?.GetValue<string>());
                    if (part["image_url"]?["url"]?.GetValue<string>() is { } url)
                    {
                        images.Add(Convert.FromBase64String(url[(url.IndexOf(',', StringComparison.Ordinal) + 1)..]));
                    }
                }
            }
            else
            {
                text.Append(message["content"]?.GetValue<string>());
            }
        }

        return new CaptionServerRequest(number, isOllama ? "ollama" : "openai", json["model"]?.GetValue<string>() ?? "", text.ToString(), images);
    }

    private static async Task AnswerAsync(
        HttpContext context,
        CaptionServerRequest request,
        ServerAnswer answer,
        bool isStream,
        CancellationToken stop
    )
    {
        switch (answer.Behavior)
        {
            case ServerBehavior.Close:
                context.Abort();
                return;
            case ServerBehavior.Hang:
                await Task.Delay(Timeout.Infinite, stop);
                return;
        }

        context.Response.StatusCode = answer.Status;
        if (answer.RetryAfter is not null)
        {
            context.Response.Headers.RetryAfter = answer.RetryAfter;
        }

        var isOllama = request.Protocol is "ollama";
        context.Response.ContentType =
            !isStream || answer.Status != 200 ? "application/json"
            : isOllama ? "application/x-ndjson"
            : "text/event-stream";
        var body = answer switch
        {
            { Behavior: ServerBehavior.Rubbish } => "<html><body>Bad gateway \uFFFD\u0001 { \"message\": [</body></html>",
            { Behavior: ServerBehavior.WrongJson } => """{"wrong": [1, 2, 3], "choices": 7, "message": "text"}""",
            { Status: not 200 } when isOllama => new JsonObject { ["error"] = answer.Text }.ToJsonString(),
            { Status: not 200 } => new JsonObject
            {
                ["error"] = new JsonObject { ["message"] = answer.Text, ["type"] = "test" },
            }.ToJsonString(),
            _ when isOllama => Ollama(request, answer, isStream),
            _ => OpenAI(request, answer, isStream),
        };
        var bytes = Encoding.UTF8.GetBytes(body);
        var pieces = answer.Behavior is ServerBehavior.Pieces or ServerBehavior.CloseMidway ? 7 : 1;
        context.Features.Get<IHttpResponseBodyFeature>()!.DisableBuffering();
        var endless = new string('a', 1 << 16);
        while (answer.Behavior == ServerBehavior.Endless)
        {
            await context.Response.WriteAsync(endless, stop);
        }

        for (var i = 0; i < pieces; i++)
        {
            if (answer.Behavior == ServerBehavior.CloseMidway && i == pieces / 2)
            {
                context.Abort();
                return;
            }

            var (start, end) = (bytes.Length * i / pieces, bytes.Length * (i + 1) / pieces);
            await context.Response.Body.WriteAsync(bytes.AsMemory(start, end - start), stop);
            await context.Response.Body.FlushAsync(stop);
            if (pieces > 1)
            {
                await Task.Delay(5, stop);
            }
        }
    }

    private static string Ollama(CaptionServerRequest request, ServerAnswer answer, bool isStream)
    {
        var end = new JsonObject
        {
            ["done"] = true,
            ["done_reason"] = answer.Finish,
            ["total_duration"] = 1_000_000,
        };
        if (answer.Tokens is { } tokens)
        {
            (end["prompt_eval_count"], end["eval_count"]) = (tokens.Input, tokens.Output);
        }

        JsonObject[] lines = isStream
            ? [.. Words(answer.Text).Select(each => Line(each, new JsonObject { ["done"] = false })), Line("", end)]
            : [Line(answer.Text, end)];
        return string.Join('\n', lines.Select(each => each.ToJsonString())) + "\n";

        JsonObject Line(string text, JsonObject rest)
        {
            rest["model"] = request.Model;
            rest["created_at"] = "2026-01-01T00:00:00Z";
            rest["message"] = new JsonObject { ["role"] = "assistant", ["content"] = text };
            return rest;
        }
    }

    private static string OpenAI(CaptionServerRequest request, ServerAnswer answer, bool isStream)
    {
        JsonObject? usage = answer.Tokens is { } tokens
            ? new JsonObject
            {
                ["prompt_tokens"] = tokens.Input,
                ["completion_tokens"] = tokens.Output,
                ["total_tokens"] = tokens.Input + tokens.Output,
            }
            : null;
        if (!isStream)
        {
            var whole = Start("chat.completion");
            whole["choices"] = new JsonArray(
                new JsonObject
                {
                    ["index"] = 0,
                    ["message"] = new JsonObject { ["role"] = "assistant", ["content"] = answer.Text },
                    ["finish_reason"] = answer.Finish,
                }
            );
            whole["usage"] = usage;
            return whole.ToJsonString();
        }

        var chunks = new List<JsonObject>();
        foreach (var word in Words(answer.Text))
        {
            chunks.Add(Chunk(new JsonObject { ["role"] = "assistant", ["content"] = word }, finish: null));
        }

        chunks.Add(Chunk([], answer.Finish));
        chunks[^1]["usage"] = usage;
        return string.Concat(chunks.Select(each => $"data: {each.ToJsonString()}\n\n")) + "data: [DONE]\n\n";

        JsonObject Chunk(JsonObject delta, string? finish)
        {
            var chunk = Start("chat.completion.chunk");
            chunk["choices"] = new JsonArray(
                new JsonObject
                {
                    ["index"] = 0,
                    ["delta"] = delta,
                    ["finish_reason"] = finish,
                }
            );
            return chunk;
        }

        JsonObject Start(string kind) =>
            new()
            {
                ["id"] = string.Create(CultureInfo.InvariantCulture, $"chatcmpl-{request.Number}"),
                ["object"] = kind,
                ["created"] = 1_767_225_600,
                ["model"] = request.Model,
            };
    }

    private static IEnumerable<string> Words(string text) => text.Split(' ').Select((each, i) => i == 0 ? each : " " + each);
}
