using System.Diagnostics;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using OpenSora.Extensions.AI;
using OpenSora.Generation;
using OpenSora.Tests.Generation;

namespace OpenSora.Tests.ExtensionsAI;

public class PipelineTests
{
    [Fact]
    public async Task The_generator_that_is_added_first_is_the_outermost()
    {
        List<string> notes = [];
        var pipeline = new FakeGenerator()
            .AsBuilder()
            .Use(inner => new Noting(inner, "first", notes))
            .Use(inner => new Noting(inner, "second", notes))
            .Use((inner, _) => new Noting(inner, "third", notes))
            .Build();

        await pipeline.Request("a goat").GenerateAsync();

        notes.ShouldBe(["first in", "second in", "third in", "third out", "second out", "first out"]);
    }

    [Fact]
    public async Task A_pipeline_passes_every_call_on()
    {
        using var fake = new FakeGenerator();
        var pipeline = fake.AsBuilder().Use(inner => new Noting(inner, "a", [])).Build();
        await pipeline.LoadAsync();
        await Should.ThrowAsync<NotSupportedException>(() => pipeline.DescribeAsync());
        await pipeline.GenerateAsync("a goat", new GenerationSettings { Seed = 9 });
        fake.Loads.ShouldBe(1);
        (fake.Requests.Single().Prompt, fake.Requests.Single().Seed).ShouldBe(("a goat", 9));
        pipeline.Dispose();
        fake.Disposals.ShouldBe(1);
    }

    [Fact]
    public void Services_are_found_from_the_outside_to_the_inside()
    {
        var fake = new FakeGenerator();
        var pipeline = fake.AsBuilder().Use(inner => new Noting(inner, "outer", [])).Use(inner => new Noting(inner, "inner", [])).Build();
        pipeline.GetService<Noting>().ShouldBeSameAs(pipeline);
        pipeline.GetService<IVideoGenerator>().ShouldBeSameAs(pipeline);
        pipeline.GetService<FakeGenerator>().ShouldBeSameAs(fake);
        pipeline.GetService<Version>().ShouldBe(new Version(1, 2));
        pipeline.GetService<Uri>().ShouldBeNull();
        pipeline.GetService(typeof(IVideoGenerator), "x").ShouldBe("keyed x"); // keys mean something to the inner generator only
        Should.Throw<ArgumentNullException>(() => pipeline.GetService(null!));
    }

    [Fact]
    public void Mistakes_in_a_pipeline_are_reported()
    {
        var builder = new FakeGenerator().AsBuilder().Use(inner => inner).Use((_, _) => null!);
        Should.Throw<InvalidOperationException>(() => builder.Build()).Message.ShouldContain("call 2 of Use returned null");
        Should.Throw<InvalidOperationException>(() => new VideoGeneratorPipelineBuilder(_ => null!).Build()).Message.ShouldContain("returned null");
        Should.Throw<ArgumentNullException>(() => ((IVideoGenerator)null!).AsBuilder());
        Should.Throw<ArgumentNullException>(() => new VideoGeneratorPipelineBuilder((Func<IServiceProvider, IVideoGenerator>)null!));
        Should.Throw<ArgumentNullException>(() => builder.Use((Func<IVideoGenerator, IVideoGenerator>)null!));
        Should.Throw<ArgumentNullException>(() => builder.ConfigureRequest(null!));
        Should.Throw<InvalidOperationException>(() => new FakeGenerator().AsBuilder().UseDistributedCache().Build()); // no cache is registered
        Should.Throw<InvalidOperationException>(() => new FakeGenerator().AsBuilder().UseLogging().Build());
    }

    [Fact]
    public async Task A_request_is_configured_in_a_copy()
    {
        var fake = new FakeGenerator();
        var pipeline = fake.AsBuilder().ConfigureRequest(r => r.Steps ??= 7).ConfigureRequest(r => r.Prompt += "!").Build();
        var request = new VideoRequest { Prompt = "a goat" };
        await pipeline.GenerateAsync(request);
        (fake.Requests[0].Prompt, fake.Requests[0].Steps).ShouldBe(("a goat!", 7));
        (request.Prompt, request.Steps).ShouldBe(("a goat", null));
    }

    [Fact]
    public async Task Logs_contain_prompts_at_the_lowest_level_only()
    {
        (await Log(LogLevel.Debug, null)).ShouldBe(["Debug: Generating a video", "Debug: Generated 4 frames of 6x4 with fake"]);
        (await Log(LogLevel.Trace, null)).ShouldBe([
            "Trace: Generating a video of 'a secret'. Settings: Steps 3, Seed 7",
            "Debug: Generated 4 frames of 6x4 with fake",
        ]);
        (await Log(LogLevel.Information, null)).ShouldBeEmpty();
        (await Log(LogLevel.Debug, new OperationCanceledException())).Last().ShouldBe("Debug: The generation was canceled");
        (await Log(LogLevel.Debug, new InvalidOperationException("broken"))).Last().ShouldBe("Error: The generation failed");
        new FakeGenerator().AsBuilder().UseLogging(NullLoggerFactory.Instance).Build().ShouldBeOfType<FakeGenerator>();

        static async Task<List<string>> Log(LogLevel level, Exception? failure)
        {
            using var log = new ListLog(level);
            using var services = new ServiceCollection().AddSingleton<ILoggerFactory>(log).BuildServiceProvider();
            var pipeline = new FakeGenerator(_ => failure).AsBuilder().UseLogging().Build(services);
            Exception? thrown = null;
            try
            {
                await pipeline.Request("a secret").Seed(7).Steps(3).GenerateAsync();
            }
            catch (Exception e) when (e is OperationCanceledException or InvalidOperationException)
            {
                thrown = e;
            }

            thrown.ShouldBeSameAs(failure);
            return [.. log.Lines.Select(line => line.Split(" in ")[0].Split(" after ")[0])];
        }
    }

    [Fact]
    public async Task Streams_pass_through_every_generator()
    {
        using var log = new ListLog(LogLevel.Debug);
        using var services = new ServiceCollection().AddSingleton<ILoggerFactory>(log).AddDistributedMemoryCache().BuildServiceProvider();
        List<Activity> spans = [];
        using var listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name is "streams",
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
            ActivityStopped = spans.Add,
        };
        ActivitySource.AddActivityListener(listener);
        var fake = new FakeGenerator(request => request.Prompt is "bad" ? new InvalidOperationException("broken") : null);
        var pipeline = fake.AsBuilder()
            .ConfigureRequest(request => request.Seed = 3)
            .UseDistributedCache()
            .UseLogging()
            .UseOpenTelemetry(sourceName: "streams")
            .Build(services);

        (await Frames("a goat")).ShouldBe(4);
        fake.Requests.Single().Seed.ShouldBe(3);
        log.Lines.Last().ShouldStartWith("Debug: Generated 4 frames in");
        spans.Single().GetTagItem("gen_ai.response.video.frames").ShouldBe(4);

        await pipeline.GenerateAsync(new VideoRequest { Prompt = "a goat" }); // stored now
        (await Frames("a goat")).ShouldBe(4);
        fake.Requests.Count.ShouldBe(2);

        await Should.ThrowAsync<InvalidOperationException>(() => Frames("bad"));
        log.Lines.Last().ShouldBe("Error: The generation failed");
        spans[^1].Status.ShouldBe(ActivityStatusCode.Error);
        await foreach (var _ in pipeline.GenerateStreamingAsync(new VideoRequest { Prompt = "a boat" }))
        {
            break;
        }

        log.Lines.Last().ShouldStartWith("Debug: The generation was canceled");

        async Task<int> Frames(string prompt)
        {
            var count = 0;
            await foreach (var piece in pipeline.GenerateStreamingAsync(new VideoRequest { Prompt = prompt }))
            {
                count += piece.Count;
            }

            return count;
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task An_application_registers_a_pipeline_around_the_generator(bool pipelineFirst)
    {
        using var model = new TinyModel();
        List<string> notes = [];
        var collection = new ServiceCollection();
        if (pipelineFirst)
        {
            AddPipeline();
        }

        collection.AddOpenSora().UseModel(model.Path).UseBackend("cpu").UseVae<TinyVae>().UseTextEncoder<HashTextEncoder>();
        if (!pipelineFirst)
        {
            AddPipeline();
        }

        using var services = collection.BuildServiceProvider();

        var generator = services.GetRequiredService<IVideoGenerator>();
        var video = await generator.Request("a goat").Frames(4).Seed(3).Steps(1).GenerateAsync();

        notes.ShouldBe(["a in", "a out"]);
        (video.Model, video.Steps).ShouldBe((TinyModel.Name, 1));
        generator.ShouldBeSameAs(services.GetRequiredService<IVideoGenerator>());
        generator.GetService<VideoGenerator>().ShouldBeSameAs(services.GetRequiredService<VideoGenerator>());

        void AddPipeline() => collection.AddVideoGenerator(p => p.GetRequiredService<VideoGenerator>()).Use(inner => new Noting(inner, "a", notes));
    }

    [Fact]
    public void Pipelines_with_keys_are_independent()
    {
        var (fake, other) = (new FakeGenerator(), new FakeGenerator());
        var collection = new ServiceCollection();
        collection.AddVideoGenerator(fake);
        collection.AddKeyedVideoGenerator("other", _ => other).ConfigureRequest(r => r.Seed = 1);
        using var services = collection.BuildServiceProvider();
        services.GetRequiredService<IVideoGenerator>().ShouldBeSameAs(fake);
        services.GetRequiredKeyedService<IVideoGenerator>("other").GetService<FakeGenerator>().ShouldBeSameAs(other);
        Should.Throw<ArgumentNullException>(() => collection.AddVideoGenerator((IVideoGenerator)null!));
    }

    private sealed class ListLog(LogLevel level) : ILoggerFactory, ILogger
    {
        public List<string> Lines { get; } = [];

        public ILogger CreateLogger(string categoryName) => this;

        public void AddProvider(ILoggerProvider provider) { }

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => logLevel >= level;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            Lines.Add($"{logLevel}: {formatter(state, exception)}");
        }

        public void Dispose() { }
    }
}
