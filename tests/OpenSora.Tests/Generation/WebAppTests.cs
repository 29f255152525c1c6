using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using Microsoft.Extensions.Options;
using OpenSora.Generation;

namespace OpenSora.Tests.Generation;

/// <summary>What web applications need: limits, several videos, estimates, diagnostics.</summary>
public class WebAppTests
{
    [Fact]
    public async Task Requests_beyond_the_limit_wait_and_run_in_order()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().Configure(o => (o.MaxConcurrentRequests, o.MaxWaitingRequests) = (1, 2)).Build();
        await generator.LoadAsync();
        using var hold = new ManualResetEventSlim();
        using var started = new ManualResetEventSlim();
        ConcurrentQueue<int> order = [];
        var first = generator
            .Request("a")
            .GenerateAsync(
                new Listener(p =>
                {
                    started.Set();
                    hold.Wait();
                })
            );
        started.Wait();
        List<GenerationStage> stages = [];
        var waiting = Enumerable
            .Range(0, 2)
            .Select(i =>
                generator
                    .Request("b")
                    .GenerateAsync(
                        new Listener(p =>
                        {
                            if (p is { Stage: GenerationStage.EncodingText, Step: 0 })
                            {
                                order.Enqueue(i);
                            }

                            if (i == 0)
                            {
                                stages.Add(p.Stage);
                            }
                        })
                    )
            )
            .ToList();

        var refused = await Should.ThrowAsync<InvalidOperationException>(generator.Request("c").GenerateAsync());
        refused.Message.ShouldContain("running (MaxConcurrentRequests: 1) and waiting (MaxWaitingRequests: 2)");
        refused.Data.Contains(VideoGenerator.QueueFullKey).ShouldBeTrue();
        order.ShouldBeEmpty();

        hold.Set();
        await first;
        await Task.WhenAll(waiting);
        order.ShouldBe([0, 1]);
        stages[..2].ShouldBe([GenerationStage.Waiting, GenerationStage.Waiting]);
        await generator.Request("d").GenerateAsync(); // the places are free again
    }

    [Fact]
    public async Task Other_errors_do_not_look_like_a_full_queue()
    {
        using var model = new TinyModel();
        var generator = model.Builder().Configure(o => (o.MaxConcurrentRequests, o.MaxWaitingRequests) = (1, 0)).Build();
        await generator.Request("a").GenerateAsync();
        generator.Dispose();
        var disposed = await Should.ThrowAsync<InvalidOperationException>(generator.Request("b").GenerateAsync());
        disposed.Data.Contains(VideoGenerator.QueueFullKey).ShouldBeFalse();
    }

    [Fact]
    public async Task A_waiting_request_can_be_canceled()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().Configure(o => o.MaxConcurrentRequests = 1).Build();
        await generator.LoadAsync();
        using var hold = new ManualResetEventSlim();
        using var started = new ManualResetEventSlim();
        var first = generator
            .Request("a")
            .GenerateAsync(
                new Listener(p =>
                {
                    started.Set();
                    hold.Wait();
                })
            );
        started.Wait();
        using var cancel = new CancellationTokenSource();
        var second = generator.Request("b").GenerateAsync(cancellationToken: cancel.Token);
        await cancel.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(second);
        hold.Set();
        await first;
        await generator.Request("c").GenerateAsync();
    }

    [Theory]
    [InlineData(0, null, "MaxConcurrentRequests is 0")]
    [InlineData(1, -1, "MaxWaitingRequests is -1")]
    public void Limits_that_make_no_sense_are_refused(int? running, int? waiting, string message)
    {
        using var model = new TinyModel();
        Should
            .Throw<OptionsValidationException>(() =>
                model.Builder().Configure(o => (o.MaxConcurrentRequests, o.MaxWaitingRequests) = (running, waiting)).Build()
            )
            .Message.ShouldContain(message);
    }

    [Fact]
    public async Task Several_videos_have_consecutive_seeds()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        List<GeneratedVideo> videos = [];
        await foreach (var video in generator.Request("a goat").Seed(41).GenerateManyAsync(3))
        {
            videos.Add(video);
        }

        videos.Select(video => video.Seed).ShouldBe([41L, 42L, 43L]);
        var alone = await generator.Request("a goat").Seed(42).GenerateAsync();
        videos[1].Frames.Pixels.ToArray().ShouldBe(alone.Frames.Pixels.ToArray());
        videos[0].Frames.Pixels.ToArray().ShouldNotBe(alone.Frames.Pixels.ToArray());
    }

    [Fact]
    public async Task Videos_are_saved_to_streams()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var video = await generator.Request("a goat").GenerateAsync();
        using var folder = new TemporaryFolder();
        using var mp4 = new MemoryStream();
        await video.SaveMp4Async(mp4);
        await video.SaveMp4Async(folder["a.mp4"]);
        mp4.ToArray().ShouldBe(await File.ReadAllBytesAsync(folder["a.mp4"]));
        using var gif = new MemoryStream();
        await video.SaveGifAsync(gif);
        await video.SaveGifAsync(folder["a.gif"]);
        gif.ToArray().ShouldBe(await File.ReadAllBytesAsync(folder["a.gif"]));
    }

    [Fact]
    public async Task Progress_estimates_the_remaining_time_of_denoising()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        List<GenerationProgress> heard = [];
        await generator.Request("a goat").Steps(4).GenerateAsync(new Listener(heard.Add));
        var steps = heard.Where(p => p.Stage == GenerationStage.Denoising).ToList();
        steps[0].Remaining.ShouldBeNull();
        steps.Skip(1).ShouldAllBe(p => p.Remaining != null);
        steps[^1].Remaining.ShouldBe(TimeSpan.Zero);
    }

    [Fact]
    public async Task Activities_and_metrics_describe_a_generation_without_its_prompt()
    {
        ConcurrentQueue<Activity> activities = [];
        using var listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name is VideoGenerator.DiagnosticsName,
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = activities.Enqueue,
        };
        ActivitySource.AddActivityListener(listener);
        ConcurrentQueue<(string Name, double Value, string Tags)> measured = [];
        using var meters = new MeterListener
        {
            InstrumentPublished = (instrument, own) =>
            {
                if (instrument.Meter.Name is VideoGenerator.DiagnosticsName)
                {
                    own.EnableMeasurementEvents(instrument);
                }
            },
        };
        meters.SetMeasurementEventCallback<double>((i, value, tags, _) => measured.Enqueue((i.Name, value, Text(tags))));
        meters.SetMeasurementEventCallback<long>((i, value, tags, _) => measured.Enqueue((i.Name, value, Text(tags))));
        meters.SetMeasurementEventCallback<int>((i, value, tags, _) => measured.Enqueue((i.Name, value, Text(tags))));
        meters.Start();

        using var model = new TinyModel(d => d with { Name = "observed" });
        using var generator = model.Builder().Configure(o => o.MaxConcurrentRequests = 1).Build();
        await generator.Request("a secret goat").Frames(2).Seed(3).GenerateAsync();
        using var cancel = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(
            generator
                .Request("a secret goat")
                .GenerateAsync(
                    new Listener(p =>
                    {
                        if (p.Stage == GenerationStage.Denoising)
                        {
                            cancel.Cancel();
                        }
                    }),
                    cancel.Token
                )
        );

        var ours = activities.Where(activity => activity.DisplayName is "generate_video observed").ToList();
        ours.Count.ShouldBe(2);
        ours[0].GetTagItem("opensora.frames").ShouldBe(2);
        ours[0].Status.ShouldBe(ActivityStatusCode.Ok);
        ours[1].GetTagItem("error.type").ShouldBe("System.OperationCanceledException");
        var numbers = measured.Where(each => each.Tags.Contains("observed", StringComparison.Ordinal)).ToList();
        numbers.Count(each => each.Name is "opensora.generation.duration").ShouldBe(2);
        numbers.Where(each => each.Name is "opensora.generation.frames").Sum(each => each.Value).ShouldBe(2);
        numbers.Where(each => each.Name is "opensora.generation.active").Sum(each => each.Value).ShouldBe(0);
        measured.Count(each => each.Name is "opensora.generation.waiting").ShouldBeGreaterThan(0);
        string.Join(' ', ours.SelectMany(activity => activity.TagObjects)).ShouldNotContain("secret");
        string.Join(' ', numbers).ShouldNotContain("secret");

        static string Text(ReadOnlySpan<KeyValuePair<string, object?>> tags) => string.Join(' ', tags.ToArray());
    }
}
