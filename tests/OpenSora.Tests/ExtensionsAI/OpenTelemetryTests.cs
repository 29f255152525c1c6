using System.Diagnostics;
using System.Diagnostics.Metrics;
using OpenSora.Extensions.AI;
using OpenSora.Generation;
using OpenSora.Tests.Generation;

namespace OpenSora.Tests.ExtensionsAI;

public class OpenTelemetryTests
{
    [Fact]
    public async Task A_span_describes_a_generation_without_its_prompt()
    {
        using var model = new TinyModel();
        using var telemetry = new Recorder();
        using var generator = model.Generator();
        var pipeline = generator.AsBuilder().UseOpenTelemetry(sourceName: telemetry.Name).Build();

        await pipeline.Request("a secret").NegativePrompt("a hidden").Seed(7).Frames(4).Steps(2).GenerateAsync();

        var span = telemetry.Spans.ShouldHaveSingleItem();
        (span.DisplayName, span.Kind, span.Status).ShouldBe(("generate_content tiny", ActivityKind.Internal, ActivityStatusCode.Unset));
        var tags = span.TagObjects.ToDictionary(tag => tag.Key, tag => tag.Value);
        tags["gen_ai.operation.name"].ShouldBe("generate_content");
        tags["gen_ai.provider.name"].ShouldBe("opensora");
        tags["gen_ai.request.model"].ShouldBe("tiny");
        tags["gen_ai.response.model"].ShouldBe("tiny");
        tags["gen_ai.output.type"].ShouldBe("video");
        tags["gen_ai.request.seed"].ShouldBe(7L);
        tags["gen_ai.request.video.frames"].ShouldBe(4);
        tags["gen_ai.response.video.width"].ShouldBe(32);
        tags["gen_ai.response.video.steps"].ShouldBe(2);
        tags.ContainsKey("gen_ai.request.video.width").ShouldBeFalse(); // the request did not set it
        string.Join(" ", tags.Values).ShouldNotContain("secret");
        string.Join(" ", tags.Values).ShouldNotContain("hidden");

        var (seconds, metric) = telemetry.Durations.ShouldHaveSingleItem();
        seconds.ShouldBeGreaterThan(0);
        metric.Order().ShouldBe(["gen_ai.operation.name=generate_content", "gen_ai.provider.name=opensora", "gen_ai.request.model=tiny"]);
    }

    [Fact]
    public async Task Prompts_are_recorded_if_they_are_enabled()
    {
        using var telemetry = new Recorder();
        var pipeline = new FakeGenerator()
            .AsBuilder()
            .UseOpenTelemetry(sourceName: telemetry.Name, configure: g => (g.EnableSensitiveData, g.ProviderName) = (true, "mine"))
            .Build();

        await pipeline.Request("a \"secret\"").NegativePrompt("a hidden").GenerateAsync();

        var span = telemetry.Spans.Single();
        span.Kind.ShouldBe(ActivityKind.Client); // the model may be anywhere
        span.GetTagItem("gen_ai.input.messages").ShouldBe("""[{"role":"user","parts":[{"type":"text","content":"a \u0022secret\u0022"}]}]""");
        span.GetTagItem("gen_ai.request.video.negative_prompt").ShouldBe("a hidden");
        span.GetTagItem("gen_ai.provider.name").ShouldBe("mine");
        telemetry.Durations.Single().Tags.ShouldContain("gen_ai.request.model=fake"); // known from the video
    }

    [Fact]
    public async Task Failures_are_recorded_without_their_message()
    {
        using var telemetry = new Recorder();
        var pipeline = new FakeGenerator(request => new InvalidOperationException(request.Prompt))
            .AsBuilder()
            .UseOpenTelemetry(sourceName: telemetry.Name)
            .Build();

        await Should.ThrowAsync<InvalidOperationException>(pipeline.Request("a secret").GenerateAsync());

        var span = telemetry.Spans.Single();
        (span.Status, span.StatusDescription, span.DisplayName).ShouldBe((ActivityStatusCode.Error, null, "generate_content"));
        span.GetTagItem("error.type").ShouldBe("System.InvalidOperationException");
        telemetry.Durations.Single().Tags.ShouldContain("error.type=System.InvalidOperationException");
    }

    [Fact]
    public async Task Nobody_listens_and_nothing_is_recorded()
    {
        using var pipeline = new OpenTelemetryVideoGenerator(new FakeGenerator());
        (await pipeline.Request("a goat").Seed(4).GenerateAsync()).Seed.ShouldBe(4);
        pipeline.GetService<ActivitySource>()!.Name.ShouldBe(OpenTelemetryVideoGenerator.DefaultSourceName);
    }

    private sealed class Recorder : IDisposable
    {
        private readonly ActivityListener _activities;
        private readonly MeterListener _meters = new();

        public Recorder()
        {
            _activities = new ActivityListener
            {
                ShouldListenTo = source => string.Equals(source.Name, Name, StringComparison.Ordinal),
                Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
                ActivityStopped = Spans.Add,
            };
            ActivitySource.AddActivityListener(_activities);
            _meters.InstrumentPublished = (instrument, listener) =>
            {
                if (
                    string.Equals(instrument.Meter.Name, Name, StringComparison.Ordinal)
                    && instrument is { Name: "gen_ai.client.operation.duration", Unit: "s" }
                )
                {
                    listener.EnableMeasurementEvents(instrument);
                }
            };
            _meters.SetMeasurementEventCallback<double>(
                (_, value, tags, _) => Durations.Add((value, [.. tags.ToArray().Select(tag => $"{tag.Key}={tag.Value}")]))
            );
            _meters.Start();
        }

        public string Name { get; } = $"test {Guid.NewGuid()}";

        public List<Activity> Spans { get; } = [];

        public List<(double Seconds, List<string> Tags)> Durations { get; } = [];

        public void Dispose()
        {
            _activities.Dispose();
            _meters.Dispose();
        }
    }
}
