using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Tests.Captions;

public class CaptionStreamTests
{
    [Fact]
    public async Task Results_have_the_order_of_the_clips_and_few_clips_are_read_ahead()
    {
        var (read, most) = (0, 0);
        var captioner = new Captioner(
            async (clip, token) =>
            {
                await Task.Delay(NumberOf(clip) % 7, token);
                return NumberOf(clip) % 10 == 3 ? CaptionResult.None("refused") : CaptionResult.Of($"Caption {clip.Path}", "test");
            }
        );
        var report = new CaptionReport();
        var number = 0;

        await foreach (var (clip, result) in captioner.CaptionAllAsync(Read(), report, window: 8))
        {
            most = Math.Max(most, Volatile.Read(ref read) - number);
            clip.Path.ShouldBe($"{number}");
            (result.Text ?? result.Reason).ShouldBe(number % 10 == 3 ? "refused" : $"Caption {number}");
            number++;
        }

        number.ShouldBe(500);
        most.ShouldBeInRange(2, 9);
        (report.Captioned, report.WithoutCaption).ShouldBe((450, 50));
        report.Sources.ShouldBe(new Dictionary<string, long> { ["test"] = 450 });
        report.Reasons.ShouldBe(new Dictionary<string, long> { ["refused"] = 50 });

        async IAsyncEnumerable<ClipToCaption> Read()
        {
            for (var i = 0; i < 500; i++)
            {
                Interlocked.Increment(ref read);
                yield return Clip(i);
                await Task.Yield();
            }
        }
    }

    [Fact]
    public async Task A_result_is_returned_before_the_next_clip_is_available()
    {
        var next = new TaskCompletionSource();
        var captioner = new Captioner((_, _) => Task.FromResult(CaptionResult.Of("A dog runs.", "test")));
        var count = 0;
        await foreach (var _ in captioner.CaptionAllAsync(Read()))
        {
            count++;
            next.TrySetResult();
        }

        count.ShouldBe(2);

        async IAsyncEnumerable<ClipToCaption> Read()
        {
            yield return Clip(0);
            await next.Task.WaitAsync(TimeSpan.FromSeconds(20));
            yield return Clip(1);
        }
    }

    [Fact]
    public async Task An_exception_of_one_clip_is_its_reason_and_one_of_the_server_stops_the_stream()
    {
        var stopped = 0;
        var captioner = new Captioner(
            async (clip, token) =>
            {
                switch (NumberOf(clip))
                {
                    case 1:
                        throw new PreparationException("no frames", "message");
                    case 5:
                        throw new CaptionServerException("The key is wrong.");
                    case > 1:
                        try
                        {
                            await Task.Delay(Timeout.Infinite, token);
                        }
                        catch (OperationCanceledException)
                        {
                            Interlocked.Increment(ref stopped);
                            throw;
                        }

                        break;
                }

                return CaptionResult.Of("A dog runs.", "test");
            }
        );
        List<CaptionedClip> results = [];

        var error = await Should.ThrowAsync<CaptionServerException>(async () =>
        {
            await foreach (var result in captioner.CaptionAllAsync(Endless(), window: 10))
            {
                results.Add(result);
            }
        });

        error.Message.ShouldBe("The key is wrong.");
        results.Select(each => each.Result.Text ?? each.Result.Reason).ShouldBe(["A dog runs.", "no frames"]);
        stopped.ShouldBeGreaterThanOrEqualTo(3);
    }

    [Fact]
    public async Task Cancellation_and_an_early_end_stop_all_work()
    {
        var running = 0;
        var captioner = new Captioner(
            async (clip, token) =>
            {
                Interlocked.Increment(ref running);
                try
                {
                    await Task.Delay(NumberOf(clip) == 0 ? 0 : Timeout.Infinite, token);
                    return CaptionResult.Of("A dog runs.", "test");
                }
                finally
                {
                    Interlocked.Decrement(ref running);
                }
            }
        );
        await foreach (var _ in captioner.CaptionAllAsync(Endless(), window: 5))
        {
            break;
        }

        Volatile.Read(ref running).ShouldBe(0);
        using var cancel = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(async () =>
        {
            await foreach (var _ in captioner.CaptionAllAsync(Endless(), window: 5, cancellationToken: cancel.Token))
            {
                await cancel.CancelAsync();
            }
        });
        Volatile.Read(ref running).ShouldBe(0);
    }

    [Fact]
    public async Task An_error_of_the_source_of_clips_is_thrown_after_the_results_before_it()
    {
        var captioner = new Captioner((_, _) => Task.FromResult(CaptionResult.Of("A dog runs.", "test")));
        var count = 0;
        (
            await Should.ThrowAsync<IOException>(async () =>
            {
                await foreach (var _ in captioner.CaptionAllAsync(Broken()))
                {
                    count++;
                }
            })
        ).Message.ShouldBe("broken");
        count.ShouldBe(1);

        static async IAsyncEnumerable<ClipToCaption> Broken()
        {
            await Task.Yield();
            yield return Clip(0);
            throw new IOException("broken");
        }
    }

    [Fact]
    public async Task Cost_and_time_are_estimated_from_the_first_answers()
    {
        var captioner = new Captioner(
            async (clip, token) =>
            {
                await Task.Delay(20, token);
                return CaptionResult.Of("A dog runs.", "test") with
                {
                    IsFromCache = NumberOf(clip) >= 10,
                    InputTokens = NumberOf(clip) >= 10 ? null : 600 + NumberOf(clip) % 2 * 100,
                    OutputTokens = NumberOf(clip) >= 10 ? null : 40,
                };
            }
        );
        var report = new CaptionReport();
        report.Estimate(100).ShouldBeNull();
        await foreach (var _ in captioner.CaptionAllAsync(Enumerable.Range(0, 15).Select(Clip).ToAsyncEnumerable(), report, window: 1)) { }

        (report.FromCache, report.InputTokens, report.OutputTokens).ShouldBe((5, 6500, 400));
        var estimate = report.Estimate(1_000_000, inputPrice: 0.2m, outputPrice: 1m)!;
        (estimate.InputTokens, estimate.OutputTokens, estimate.Cost).ShouldBe((650_000_000, 40_000_000, 170m));
        estimate.Duration.TotalSeconds.ShouldBeInRange(20_000, 1_000_000);
    }

    [Fact]
    public async Task Captioners_are_merged()
    {
        ICaptioner none = new Captioner((_, _) => Task.FromResult(CaptionResult.None("no sidecar file")));
        ICaptioner busy = new Captioner((_, _) => Task.FromResult(CaptionResult.None("server error", "500", isTemporary: true)));
        ICaptioner first = new Captioner((_, _) => Task.FromResult(CaptionResult.Of("A dog runs", "one") with { InputTokens = 5 }));
        ICaptioner second = new Captioner((_, _) => Task.FromResult(CaptionResult.Of("It is brown.", "two") with { OutputTokens = 7 }));
        ICaptioner never = new Captioner((_, _) => throw new InvalidOperationException());

        (await CombinedCaptioner.FirstOf(none, first, never).CaptionAsync(Clip(0))).ShouldBe(
            CaptionResult.Of("A dog runs", "one") with
            {
                InputTokens = 5,
            }
        );
        (await CombinedCaptioner.JoinOf(first, none, second).CaptionAsync(Clip(0))).ShouldSatisfyAllConditions(
            each => each.Text.ShouldBe("A dog runs. It is brown."),
            each => each.Source.ShouldBe("one + two"),
            each => (each.Reason, each.InputTokens, each.OutputTokens).ShouldBe((null, 5, 7))
        );
        (await CombinedCaptioner.FirstOf(none, busy).CaptionAsync(Clip(0))).ShouldSatisfyAllConditions(
            each => (each.Text, each.Reason, each.Detail).ShouldBe((null, "no sidecar file; server error", "500")),
            each => each.IsTemporary.ShouldBeTrue()
        );
        Should.Throw<ArgumentException>(() => CombinedCaptioner.FirstOf());
    }

    private static int NumberOf(ClipToCaption clip) => int.Parse(clip.Path);

    private static ClipToCaption Clip(int number) =>
        new()
        {
            Path = $"{number}",
            Info = new SourceInfo
            {
                Path = $"{number}",
                Width = 1,
                Height = 1,
                FramesPerSecond = 1,
            },
        };

    private static async IAsyncEnumerable<ClipToCaption> Endless()
    {
        for (var i = 0; ; i++)
        {
            yield return Clip(i);
            await Task.Yield();
        }
    }

    private sealed class Captioner(Func<ClipToCaption, CancellationToken, Task<CaptionResult>> caption) : ICaptioner
    {
        public Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default) =>
            caption(clip, cancellationToken);
    }
}
