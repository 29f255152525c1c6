using System.ClientModel;
using System.ClientModel.Primitives;
using System.Diagnostics;
using Microsoft.Extensions.AI;
using OllamaSharp;
using OpenAI;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Tests.Captions;

namespace OpenSora.Benchmarks;

/// <summary>The time that the client adds to a server that takes a fixed time for every caption, with 8 requests in flight.</summary>
internal static class Captions
{
    private const int InFlight = 8,
        Files = 8;

    public static void Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task RunAsync()
    {
        var folder = Directory.CreateTempSubdirectory("opensora-captions-").FullName;
        try
        {
            var clips = await ClipsAsync(folder);
            await MeasureAsync("ollama", 0.2, clips, 16, isPrinted: false); // compiles everything
            Console.WriteLine("clips of 2 s, 910x512; 'added' is the time beyond that of a client that never lets the server wait");
            Console.WriteLine("protocol   per caption   captions    ideal   measured    added   frames and JPEG");
            foreach (var protocol in (string[])["ollama", "openai"])
            {
                foreach (var (seconds, count) in new[] { (1.0, 128), (2.0, 96), (4.0, 64) })
                {
                    await MeasureAsync(protocol, seconds, clips, count, isPrinted: true);
                }
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task MeasureAsync(string protocol, double seconds, ClipToCaption[] files, int count, bool isPrinted)
    {
        var (requests, starts) = (0, new long[count]);
        await using var server = await CaptionServer.StartAsync(request =>
        {
            starts[Interlocked.Increment(ref requests) - 1] = Stopwatch.GetTimestamp();
            return new ServerAnswer(CaptionServer.Describe(request)) { Delay = TimeSpan.FromSeconds(seconds) };
        });
        using var client = ClientFor(protocol, server);
        using var captioner = new ChatCaptioner(client, new ChatCaptionerOptions { MaxConcurrentRequests = InFlight });
        var report = new CaptionReport();
        var clips = Enumerable.Range(0, count).Select(i => files[i % files.Length]).ToAsyncEnumerable();

        var start = Stopwatch.GetTimestamp();
        await foreach (var _ in captioner.CaptionAllAsync(clips, report)) { }
        var measured = Stopwatch.GetElapsedTime(start).TotalSeconds;

        if (isPrinted && (report.Captioned != count || server.MostInFlight != InFlight))
        {
            throw new InvalidOperationException($"{report.Captioned} captions, {server.MostInFlight} requests in flight");
        }

        if (isPrinted)
        {
            var ideal = seconds * count / InFlight;
            var first = Stopwatch.GetElapsedTime(start, starts[0]).TotalMilliseconds;
            Console.WriteLine(
                $"{protocol, -8} {seconds, 10:F1} s {count, 10} {ideal, 8:F1} s {measured, 8:F2} s {measured / ideal - 1, 8:P1} {first, 12:F0} ms"
            );
        }
    }

    private static async Task<ClipToCaption[]> ClipsAsync(string folder)
    {
        var clips = new ClipToCaption[Files];
        for (var i = 0; i < Files; i++)
        {
            var path = Path.Combine(folder, $"{i}.mp4");
            string[] arguments =
            [
                .. new[] { "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=910x512:rate=24:duration=2" },
                .. new[] { "-vf", $"hue=h={i * 40}", "-pix_fmt", "yuv420p", path },
            ];
            using var process = Process.Start("ffmpeg", arguments);
            await process.WaitForExitAsync();
            clips[i] = await ClipToCaption.ReadAsync(path);
        }

        return clips;
    }

    private static IChatClient ClientFor(string protocol, CaptionServer server) =>
        protocol is "ollama" ? new OllamaApiClient(ChatStatusHandler.CreateClient(server.Address), "llava:7b") : new OpenAIClient(
                new ApiKeyCredential("none"),
                new OpenAIClientOptions
                {
                    Endpoint = server.OpenAIAddress,
                    Transport = new HttpClientPipelineTransport(ChatStatusHandler.CreateClient()),
                    RetryPolicy = new ClientRetryPolicy(maxRetries: 0),
                    NetworkTimeout = Timeout.InfiniteTimeSpan,
                }
            ).GetChatClient("llava-1.6").AsIChatClient();
}
