using System.Collections.Concurrent;
using System.Diagnostics;
using Microsoft.Extensions.AI;
using OpenSora.Preparation.Captions;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Preparation.Tests.Captions;

public class ChatCaptionerTests(ClipFixture fixture) : IClassFixture<ClipFixture>
{
    private const string Good = "The video shows a dog that runs on a beach.";

    [Theory]
    [InlineData("ollama")]
    [InlineData("openai")]
    public async Task A_clip_is_shown_to_the_model_as_one_picture(string protocol)
    {
        CaptionServerRequest? seen = null;
        await using var server = await CaptionServer.StartAsync(request =>
        {
            seen = request;
            return Good;
        });
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var result = await captioner.CaptionAsync(fixture.Clip);

        result.Text.ShouldBe("A dog that runs on a beach.");
        result.Source.ShouldBe(protocol is "ollama" ? "llava:7b" : "llava-1.6");
        (result.InputTokens, result.OutputTokens, result.IsFromCache).ShouldBe((600, 40, false));
        seen!.Protocol.ShouldBe(protocol);
        seen.Model.ShouldBe(result.Source);
        seen.Prompt.ShouldContain("3 frames");
        seen.Prompt.ShouldContain("from top to bottom");
        using var picture = Image.Load<Rgb24>(seen.Images.ShouldHaveSingleItem());
        (picture.Width, picture.Height).ShouldBe((64, 144));
        Colors(picture, 24, 72, 120).ShouldBe("red lime blue");
    }

    [Theory]
    [InlineData("ollama")]
    [InlineData("openai")]
    public async Task A_clip_is_shown_to_the_model_as_several_images(string protocol)
    {
        CaptionServerRequest? seen = null;
        await using var server = await CaptionServer.StartAsync(request =>
        {
            seen = request;
            return Good;
        });
        using var client = ChatClients.For(protocol, server);
        var options = Clips.Quick();
        (options.Layout, options.FrameSize) = (FrameLayout.SeparateImages, 32);
        using var captioner = new ChatCaptioner(client, options);

        (await captioner.CaptionAsync(fixture.Clip)).HasCaption.ShouldBeTrue();

        var pictures = seen!.Images.Select(each => Image.Load<Rgb24>(each)).ToArray();
        pictures.Select(each => (each.Width, each.Height)).ShouldBe([(32, 24), (32, 24), (32, 24)]);
        string.Join(' ', pictures.Select(each => Colors(each, 12))).ShouldBe("red lime blue");
    }

    [Fact]
    public async Task Frames_of_a_portrait_clip_are_side_by_side_and_an_image_has_its_own_prompt()
    {
        using var folder = new TemporaryFolder();
        var requests = new ConcurrentQueue<CaptionServerRequest>();
        await using var server = await CaptionServer.StartAsync(request =>
        {
            requests.Enqueue(request);
            return Good;
        });
        using var client = ChatClients.Ollama(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());
        var portrait = await Videos.MakeAsync("-f", "lavfi", "-i", "color=red:size=48x64:rate=10:duration=1", folder["portrait.mp4"]);
        var image = await Videos.MakeAsync("-f", "lavfi", "-i", "color=lime:size=640x20", "-frames:v", "1", folder["image.png"]);

        await captioner.CaptionAsync(await ClipToCaption.ReadAsync(portrait));
        await captioner.CaptionAsync(await ClipToCaption.ReadAsync(image));

        var (first, second) = (requests.First(), requests.Last());
        first.Prompt.ShouldContain("from left to right");
        Image.Identify(first.Images[0]).ShouldSatisfyAllConditions(each => each.Width.ShouldBe(144), each => each.Height.ShouldBe(64));
        second.Prompt.ShouldStartWith("Describe this image");
        Image.Identify(second.Images[0]).ShouldSatisfyAllConditions(each => each.Width.ShouldBe(512), each => each.Height.ShouldBe(16));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task A_clip_with_fewer_frames_is_shown_with_those_that_it_has(int frames)
    {
        using var folder = new TemporaryFolder();
        CaptionServerRequest? seen = null;
        await using var server = await CaptionServer.StartAsync(request =>
        {
            seen = request;
            return Good;
        });
        using var client = ChatClients.Ollama(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10", "-frames:v", $"{frames}", folder["short.mp4"]);
        var clip = await ClipToCaption.ReadAsync(path);

        (await captioner.CaptionAsync(clip)).HasCaption.ShouldBeTrue();
        Image.Identify(seen!.Images[0]).Height.ShouldBe(48 * frames);

        // The same without a duration, and with one that is wrong.
        var wrong = clip with { Info = clip.Info with { Duration = TimeSpan.FromSeconds(100) } };
        foreach (var each in new[] { clip with { Info = clip.Info with { Duration = null } }, wrong })
        {
            (await captioner.CaptionAsync(each)).HasCaption.ShouldBeTrue();
            Image.Identify(seen!.Images[0]).Height.ShouldBe(48 * frames);
        }
    }

    [Fact]
    public async Task A_long_video_is_searched_instead_of_decoded()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync([
            .. new[] { "red", "lime", "blue" }.SelectMany(each => (string[])["-f", "lavfi", "-i", $"color={each}:size=64x48:rate=2:duration=40"]),
            "-filter_complex",
            "concat=n=3",
            "-g",
            "20",
            folder["long.mp4"],
        ]);
        var clip = await ClipToCaption.ReadAsync(path);

        var frames = await CaptionFrames.ReadAsync(clip.Info, [0.2, 0.5, 0.8], 512, ffmpegFolder: null, default);

        using var picture = Image.Load<Rgb24>(frames.OnePicture(90));
        Colors(picture, 24, 72, 120).ShouldBe("red lime blue");
    }

    [Fact]
    public async Task A_file_that_cannot_be_decoded_has_a_reason()
    {
        using var folder = new TemporaryFolder();
        await using var server = await CaptionServer.StartAsync();
        using var client = ChatClients.Ollama(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());
        await File.WriteAllTextAsync(folder["text.mp4"], "not a video");

        var result = await captioner.CaptionAsync(fixture.Clip with { Path = folder["text.mp4"] });

        (result.Text, result.Reason, result.IsTemporary, server.Requests).ShouldBe((null, "cannot be decoded", false, 0));
        result.Detail!.ShouldContain("text.mp4");
    }

    [Theory]
    [InlineData("ollama", nameof(ServerBehavior.Pieces), 1)]
    [InlineData("openai", nameof(ServerBehavior.Pieces), 1)]
    [InlineData("ollama", nameof(ServerBehavior.Rubbish), 3)]
    [InlineData("openai", nameof(ServerBehavior.Rubbish), 3)]
    [InlineData("ollama", nameof(ServerBehavior.WrongJson), 3)]
    [InlineData("openai", nameof(ServerBehavior.WrongJson), 3)]
    [InlineData("ollama", nameof(ServerBehavior.Close), 3)]
    [InlineData("openai", nameof(ServerBehavior.Close), 3)]
    [InlineData("ollama", nameof(ServerBehavior.CloseMidway), 3)]
    [InlineData("openai", nameof(ServerBehavior.CloseMidway), 3)]
    public async Task A_request_is_repeated_until_the_server_answers(string protocol, string behavior, int requests)
    {
        await using var server = await CaptionServer.StartAsync(request =>
            new(Good) { Behavior = request.Number < 2 ? Enum.Parse<ServerBehavior>(behavior) : ServerBehavior.Answer }
        );
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var result = await captioner.CaptionAsync(fixture.Clip);

        (result.Text, server.Requests).ShouldBe(("A dog that runs on a beach.", requests));
    }

    [Theory]
    [InlineData("ollama", nameof(ServerBehavior.Rubbish), "unreadable answer")]
    [InlineData("openai", nameof(ServerBehavior.Rubbish), "unreadable answer")]
    [InlineData("ollama", nameof(ServerBehavior.WrongJson), "unreadable answer")]
    [InlineData("openai", nameof(ServerBehavior.WrongJson), "unreadable answer")]
    [InlineData("ollama", nameof(ServerBehavior.Close), "no connection to the server")]
    [InlineData("openai", nameof(ServerBehavior.Close), "no connection to the server")]
    [InlineData("ollama", nameof(ServerBehavior.CloseMidway), "no connection to the server")]
    [InlineData("openai", nameof(ServerBehavior.CloseMidway), "no connection to the server")]
    [InlineData("ollama", nameof(ServerBehavior.Endless), "unreadable answer")]
    [InlineData("openai", nameof(ServerBehavior.Endless), "unreadable answer")]
    [InlineData("ollama", nameof(ServerBehavior.Hang), "no answer in time")]
    [InlineData("openai", nameof(ServerBehavior.Hang), "no answer in time")]
    public async Task A_failure_that_remains_is_a_temporary_reason(string protocol, string behavior, string reason)
    {
        await using var server = await CaptionServer.StartAsync(_ => new(Good) { Behavior = Enum.Parse<ServerBehavior>(behavior) });
        using var client = ChatClients.For(protocol, server);
        var options = Clips.Quick(retries: 1);
        options.RequestTimeout = behavior is nameof(ServerBehavior.Hang) ? TimeSpan.FromMilliseconds(500) : options.RequestTimeout;
        using var captioner = new ChatCaptioner(client, options);

        var result = await captioner.CaptionAsync(fixture.Clip);

        (result.Text, result.Reason, result.IsTemporary).ShouldBe((null, reason, true));
        server.Requests.ShouldBeInRange(reason is "no answer in time" ? 0 : 2, 2); // on a busy machine, a request can end before it arrives
        result.Detail.ShouldNotBeNullOrEmpty();
    }

    [Theory]
    [InlineData("ollama", 500, "server error", true, 3)]
    [InlineData("openai", 500, "server error", true, 3)]
    [InlineData("ollama", 503, "server error", true, 3)]
    [InlineData("ollama", 429, "the server is overloaded", true, 3)]
    [InlineData("openai", 429, "the server is overloaded", true, 3)]
    [InlineData("ollama", 400, "rejected by the server", false, 1)]
    [InlineData("openai", 400, "rejected by the server", false, 1)]
    public async Task A_status_is_a_reason(string protocol, int status, string reason, bool isTemporary, int requests)
    {
        await using var server = await CaptionServer.StartAsync(_ => ServerAnswer.Error(status, "out of memory"));
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var result = await captioner.CaptionAsync(fixture.Clip);

        (result.Reason, result.IsTemporary, server.Requests).ShouldBe((reason, isTemporary, requests));
        result.Detail!.ShouldContain("out of memory");
    }

    [Theory]
    [InlineData("ollama", 401)]
    [InlineData("openai", 401)]
    [InlineData("ollama", 404)]
    [InlineData("openai", 404)]
    public async Task A_wrong_key_or_model_stops_everything(string protocol, int status)
    {
        await using var server = await CaptionServer.StartAsync(_ => ServerAnswer.Error(status, "model 'llava:7b' not found"));
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var error = await Should.ThrowAsync<CaptionServerException>(() => captioner.CaptionAsync(fixture.Clip));

        error.Message.ShouldContain("model 'llava:7b' not found");
        error.Message.ShouldContain("ollama pull");
        server.Requests.ShouldBe(1);
    }

    [Theory]
    [InlineData("ollama", 401, "stop")]
    [InlineData("openai", 401, "stop")]
    [InlineData("ollama", 413, "rejected by the server")]
    [InlineData("openai", 413, "rejected by the server")]
    [InlineData("ollama", 501, "server error")]
    [InlineData("openai", 501, "server error")]
    public async Task A_client_without_the_handler_reports_the_status_too(string protocol, int status, string reason)
    {
        await using var server = await CaptionServer.StartAsync(_ => ServerAnswer.Error(status));
        using var client = ChatClients.Plain(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick(retries: 0));
        string? found;
        try
        {
            found = (await captioner.CaptionAsync(fixture.Clip)).Reason;
        }
        catch (CaptionServerException)
        {
            found = "stop";
        }

        (found, server.Requests).ShouldBe((reason, 1));
    }

    [Fact]
    public async Task Many_failures_in_a_row_stop_everything_but_not_failures_in_between()
    {
        await using var server = await CaptionServer.StartAsync(request =>
            request.Number % 3 == 2 && request.Number < 9 ? Good : ServerAnswer.Error(500)
        );
        using var client = ChatClients.Ollama(server);
        var options = Clips.Quick(retries: 0);
        options.MaxFailuresInARow = 3;
        using var captioner = new ChatCaptioner(client, options);

        for (var i = 0; i < 11; i++)
        {
            (await captioner.CaptionAsync(fixture.Clip)).HasCaption.ShouldBe(i % 3 == 2 && i < 9);
        }

        var error = await Should.ThrowAsync<CaptionServerException>(() => captioner.CaptionAsync(fixture.Clip));
        error.Message.ShouldContain("3 clips in a row");
    }

    [Theory]
    [InlineData("ollama")]
    [InlineData("openai")]
    public async Task All_requests_wait_as_long_as_the_server_asks(string protocol)
    {
        var times = new ConcurrentDictionary<int, long>();
        await using var server = await CaptionServer.StartAsync(request =>
        {
            times[request.Number] = Stopwatch.GetTimestamp();
            return request.Number == 0 ? ServerAnswer.Error(429, retryAfter: "3") : Good;
        });
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var first = captioner.CaptionAsync(fixture.Clip);
        while (times.IsEmpty)
        {
            await Task.Delay(5);
        }

        await Task.Delay(1500); // the answer has arrived
        var second = captioner.CaptionAsync(fixture.Clip);
        (await first).HasCaption.ShouldBeTrue();
        (await second).HasCaption.ShouldBeTrue();

        server.Requests.ShouldBe(3);
        Stopwatch.GetElapsedTime(times[0], times[1]).TotalSeconds.ShouldBeInRange(2.95, 30);
        Stopwatch.GetElapsedTime(times[0], times[2]).TotalSeconds.ShouldBeInRange(2.95, 30);
    }

    [Fact]
    public async Task A_server_that_asks_for_too_much_time_is_not_waited_for()
    {
        await using var server = await CaptionServer.StartAsync(_ => ServerAnswer.Error(429, retryAfter: "7200"));
        using var client = ChatClients.Ollama(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var result = await captioner.CaptionAsync(fixture.Clip);

        (result.Reason, result.IsTemporary, server.Requests).ShouldBe(("the server is overloaded", true, 1));
    }

    [Fact]
    public async Task Requests_at_the_same_time_and_in_a_minute_are_bounded()
    {
        var times = new ConcurrentQueue<long>();
        CaptionServer? started = null;
        await using var server = await CaptionServer.StartAsync(request =>
        {
            times.Enqueue(Stopwatch.GetTimestamp());
            SpinWait.SpinUntil(() => started!.MostInFlight >= 2, TimeSpan.FromSeconds(20));
            return new(Good) { Delay = TimeSpan.FromMilliseconds(60) };
        });
        started = server;
        using var client = ChatClients.Ollama(server);
        var options = Clips.Quick();
        (options.MaxConcurrentRequests, options.RequestsPerMinute) = (2, null);
        using (var captioner = new ChatCaptioner(client, options))
        {
            await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => captioner.CaptionAsync(fixture.Clip)));
            server.MostInFlight.ShouldBe(2);
        }

        times.Clear();
        (options.MaxConcurrentRequests, options.RequestsPerMinute) = (8, 120); // one in 500 ms, and the first at any time within the first 500 ms
        using (var captioner = new ChatCaptioner(client, options))
        {
            await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => captioner.CaptionAsync(fixture.Clip)));
            Stopwatch.GetElapsedTime(times.Min(), times.Max()).TotalMilliseconds.ShouldBeInRange(600, 60_000); // requests may arrive late
        }
    }

    [Theory]
    [InlineData("I'm sorry, I can't help with that.", "stop", "refused")]
    [InlineData("A dog runs on the beach", "content_filter", "refused")]
    [InlineData("  \n ", "stop", "empty answer")]
    [InlineData("Dog.", "stop", "too short")]
    [InlineData("?!?? %%% 0101", "stop", "not text")]
    public async Task An_answer_without_a_caption_has_a_reason(string text, string finish, string reason)
    {
        await using var server = await CaptionServer.StartAsync(_ => new(text) { Finish = finish });
        using var client = ChatClients.OpenAI(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        var result = await captioner.CaptionAsync(fixture.Clip);

        (result.Text, result.Reason, result.IsTemporary, server.Requests).ShouldBe((null, reason, false, 1));
    }

    [Theory]
    [InlineData("ollama")]
    [InlineData("openai")]
    public async Task An_answer_that_reached_the_limit_of_tokens_ends_with_a_sentence(string protocol)
    {
        await using var server = await CaptionServer.StartAsync(_ => new("A dog runs on a beach. It jumps over a small") { Finish = "length" });
        using var client = ChatClients.For(protocol, server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());

        (await captioner.CaptionAsync(fixture.Clip)).Text.ShouldBe("A dog runs on a beach.");
    }

    [Fact]
    public async Task Cancellation_stops_a_request()
    {
        await using var server = await CaptionServer.StartAsync(_ => new(Good) { Behavior = ServerBehavior.Hang });
        using var client = ChatClients.Ollama(server);
        using var captioner = new ChatCaptioner(client, Clips.Quick());
        using var cancel = new CancellationTokenSource();

        var caption = captioner.CaptionAsync(fixture.Clip, cancel.Token);
        while (server.Requests == 0)
        {
            await Task.Delay(5);
        }

        await cancel.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(() => caption);
    }

    [Theory]
    [InlineData("ollama")]
    [InlineData("openai")]
    public async Task The_test_server_streams_as_the_protocols_say(string protocol)
    {
        await using var server = await CaptionServer.StartAsync(_ => new(Good) { Behavior = ServerBehavior.Pieces });
        using var client = ChatClients.For(protocol, server);
        List<string> parts = [];
        await foreach (var update in client.GetStreamingResponseAsync("hello"))
        {
            parts.Add(update.Text);
        }

        string.Concat(parts).ShouldBe(Good);
        parts.Count.ShouldBeGreaterThan(5);
    }

    [Fact]
    public void Invalid_options_are_errors()
    {
        using var client = new NoClient();
        Should.Throw<ArgumentException>(() => new ChatCaptioner(client, new() { FramePositions = [0.5, 0.2] })).Message.ShouldContain("ascending");
        Should.Throw<ArgumentException>(() => new ChatCaptioner(client, new() { MaxConcurrentRequests = 0 })).Message.ShouldContain("1024");
        Should.Throw<ArgumentException>(() => new ChatCaptioner(client, new() { MinWords = 5, MaxWords = 4 })).Message.ShouldContain("MinWords");
        Should
            .Throw<ArgumentException>(() => new ChatCaptioner(client, new() { RequestTimeout = TimeSpan.Zero }))
            .ParamName.ShouldBe("RequestTimeout");
    }

    private static string Colors(Image<Rgb24> picture, params int[] rows) =>
        string.Join(
            ' ',
            rows.Select(row =>
                picture[picture.Width / 2, row] switch
                {
                    { R: > 150, G: < 100, B: < 100 } => "red",
                    { R: < 100, G: > 150, B: < 100 } => "lime",
                    { R: < 100, G: < 100, B: > 150 } => "blue",
                    var other => other.ToString(),
                }
            )
        );

    private sealed class NoClient : IChatClient
    {
        public void Dispose() { }

        public Task<ChatResponse> GetResponseAsync(
            IEnumerable<ChatMessage> messages,
            ChatOptions? options = null,
            CancellationToken cancellationToken = default
        ) => throw new NotSupportedException();

        public IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
            IEnumerable<ChatMessage> messages,
            ChatOptions? options = null,
            CancellationToken cancellationToken = default
        ) => throw new NotSupportedException();

        public object? GetService(Type serviceType, object? serviceKey = null) => null;
    }
}
