using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace OpenSora.Tests.Hub;

/// <summary>A hub on this machine; <see cref="Misbehave"/> changes its answers.</summary>
internal sealed class FakeHub : IAsyncDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _stopping = new();
    private readonly Task _serving;

    public FakeHub()
    {
        _listener.Start();
        _serving = ServeAsync();
    }

    public string Repository { get; set; } = "org/name";

    public string Commit { get; set; } = new('a', 40);

    /// <summary>Contents by path.</summary>
    public Dictionary<string, byte[]> Files { get; } = new(StringComparer.Ordinal);

    /// <summary>The contents by path of further repositories by name.</summary>
    public Dictionary<string, Dictionary<string, byte[]>> Others { get; } = new(StringComparer.Ordinal);

    /// <summary>The address of large files, those of more than 1000 bytes; null for this server.</summary>
    public FakeHub? Store { get; set; }

    /// <summary>Changes an answer; returns null to keep it.</summary>
    public Func<Request, Answer, Answer?>? Misbehave { get; set; }

    public ConcurrentQueue<Request> Requests { get; } = new();

    public string Address => $"http://127.0.0.1:{Port}";

    public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

    public IEnumerable<Request> Asked(string method, string part) =>
        Requests.Where(request => request.Is(method) && request.Path.Contains(part, StringComparison.Ordinal));

    public static string Sha256(byte[] content) => Convert.ToHexStringLower(SHA256.HashData(content));

    public static string GitSha1(byte[] content) =>
        Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));

    public static string HashOf(byte[] content) => IsLarge(content) ? Sha256(content) : GitSha1(content);

    public async ValueTask DisposeAsync()
    {
        await _stopping.CancelAsync();
        await _serving; // before the listener stops: to accept on a stopped one is an error of another kind
        _listener.Stop();
        _stopping.Dispose();
    }

    private static bool IsLarge(byte[] content) => content.Length > 1000;

    private async Task ServeAsync()
    {
        var connections = new List<Task>();
        try
        {
            while (true)
            {
                connections.Add(AnswerAsync(await _listener.AcceptSocketAsync(_stopping.Token)));
            }
        }
        catch (Exception exception) when (exception is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            await Task.WhenAll(connections);
        }
    }

    private async Task AnswerAsync(Socket socket)
    {
        using var stream = new NetworkStream(socket, ownsSocket: true);
        try
        {
            if (await ReadAsync(stream, _stopping.Token) is not { } request)
            {
                return;
            }

            Requests.Enqueue(request);
            var answer = Usual(request);
            answer = Misbehave?.Invoke(request, answer) ?? answer;
            var head = new StringBuilder(
                $"HTTP/1.1 {answer.Status} Whatever\r\nConnection: close\r\nContent-Length: {answer.Length ?? answer.Body.Length}\r\n"
            );
            foreach (var (name, value) in answer.Headers)
            {
                head.Append($"{name}: {value}\r\n");
            }

            await stream.WriteAsync(Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()), _stopping.Token);
            if (!request.Is("HEAD"))
            {
                await stream.WriteAsync(answer.Body.AsMemory(0, Math.Min(answer.Body.Length, answer.CutAfter ?? int.MaxValue)), _stopping.Token);
            }

            await stream.FlushAsync(_stopping.Token);
            if (answer.StallFor is { } time)
            {
                await Task.Delay(time, _stopping.Token);
            }

            if (answer.CutAfter is not null)
            {
                socket.LingerState = new LingerOption(enable: false, 0);
            }
        }
        catch (Exception exception) when (exception is IOException or OperationCanceledException or SocketException)
        {
            // the client went away, or the test is over
        }
    }

    private static async Task<Request?> ReadAsync(NetworkStream stream, CancellationToken cancellationToken)
    {
        var text = new StringBuilder();
        var one = new byte[1];
        while (!text.ToString().EndsWith("\r\n\r\n", StringComparison.Ordinal))
        {
            if (await stream.ReadAsync(one, cancellationToken) == 0)
            {
                return null;
            }

            text.Append((char)one[0]);
        }

        var lines = text.ToString().Split("\r\n", StringSplitOptions.RemoveEmptyEntries);
        var first = lines[0].Split(' ');
        return new Request(
            first[0],
            first[1],
            lines.Skip(1).Select(line => line.Split(": ", 2)).ToDictionary(pair => pair[0], pair => pair[1], StringComparer.OrdinalIgnoreCase)
        );
    }

    private Answer Usual(Request request) =>
        Others
            .Where(other => request.IsFor($"/api/models/{other.Key}/") || request.IsFor($"/{other.Key}/"))
            .Select(other => Usual(request, other.Key, other.Value))
            .FirstOrDefault()
        ?? Usual(request, Repository, Files);

    private Answer Usual(Request request, string repository, Dictionary<string, byte[]> files)
    {
        if (request.IsFor($"/api/models/{repository}/revision/"))
        {
            return new Answer(
                200,
                JsonSerializer.SerializeToUtf8Bytes(
                    new
                    {
                        id = repository,
                        sha = Commit,
                        siblings = files.Keys.Select(file => new { rfilename = file }),
                    }
                )
            );
        }

        if (request.IsFor("/store/"))
        {
            return
                Others
                    .Values.SelectMany(other => other.Values)
                    .Concat(Files.Values)
                    .FirstOrDefault(content => request.Path.EndsWith(Sha256(content), StringComparison.Ordinal))
                    is { } stored
                ? Part(request, stored)
                : new Answer(404, []);
        }

        var prefix = $"/{repository}/resolve/{Commit}/";
        if (!request.IsFor(prefix) || !files.TryGetValue(Uri.UnescapeDataString(request.Path[prefix.Length..]), out var body))
        {
            return new Answer(404, []) { Headers = { ["X-Error-Message"] = "Entry not found" } };
        }

        if (!IsLarge(body))
        {
            var small = Part(request, body);
            small.Headers["ETag"] = $"\"{GitSha1(body)}\"";
            return small;
        }

        return new Answer(302, "moved"u8.ToArray())
        {
            Headers =
            {
                ["Location"] = $"{(Store is null ? "" : $"http://localhost:{Store.Port}")}/store/{Sha256(body)}",
                ["X-Linked-Etag"] = $"\"{Sha256(body)}\"",
                ["X-Linked-Size"] = body.Length.ToString(CultureInfo.InvariantCulture),
                ["ETag"] = "\"something-else\"",
            },
        };
    }

    private static Answer Part(Request request, byte[] body)
    {
        if (request.Headers.GetValueOrDefault("Range") is not { } range)
        {
            return new Answer(200, body);
        }

        var from = int.Parse(range["bytes=".Length..^1], CultureInfo.InvariantCulture);
        return from >= body.Length
            ? new Answer(416, [])
            : new Answer(206, body[from..]) { Headers = { ["Content-Range"] = $"bytes {from}-{body.Length - 1}/{body.Length}" } };
    }

    internal sealed record Request(string Method, string Path, Dictionary<string, string> Headers)
    {
        public bool Is(string method) => string.Equals(Method, method, StringComparison.Ordinal);

        public bool IsFor(string prefix) => Path.StartsWith(prefix, StringComparison.Ordinal);
    }

    internal sealed record Answer(int Status, byte[] Body)
    {
        public Dictionary<string, string> Headers { get; init; } = [];

        /// <summary>The length in the header.</summary>
        public int? Length { get; init; }

        /// <summary>The connection ends after these bytes of the body.</summary>
        public int? CutAfter { get; init; }

        /// <summary>The pause before the connection ends.</summary>
        public TimeSpan? StallFor { get; init; }
    }
}
