using System.Collections.Concurrent;
using OpenSora.Generation;

namespace OpenSora.Tests.Generation;

/// <summary>One loaded model under load: many requests at the same time, of which many are canceled at random points.</summary>
[Collection(nameof(LiveTensorCount))]
public class ManyRequestsTests
{
    private const int Requests = 1000;
    private const int AtOnce = 8;
    private const int Seeds = 6;
    private const int Reports = 8; // of each request

    [Fact]
    public async Task A_thousand_requests_end_as_they_should_and_leave_nothing_behind()
    {
        using var model = new TinyModel();
        using var generator = model.Whole();
        List<byte[]> expected = [];
        for (var seed = 0; seed < Seeds; seed++)
        {
            expected.Add((await generator.GenerateAsync(RequestOf(seed))).Frames.Pixels.ToArray());
        }

        var before = TensorCount.Settled;
        var outcomes = new ConcurrentBag<string>();
        var options = new ParallelOptions { MaxDegreeOfParallelism = AtOnce };
        await Parallel.ForEachAsync(Enumerable.Range(0, Requests), options, async (i, _) =>
        {
            // 40 % are canceled: most of them at a report of progress, some at a time that may fall anywhere in the computation or after it.
            var random = new Random(i);
            using var source = new CancellationTokenSource();
            var (cancels, reports) = (random.NextDouble() < 0.4, random.Next(Reports));
            if (cancels && random.Next(4) == 0)
            {
                source.CancelAfter(TimeSpan.FromMilliseconds(random.Next(30)));
                reports = int.MaxValue;
            }

            var progress = new Listener(_ =>
            {
                if (cancels && reports-- == 0)
                {
                    source.Cancel();
                }
            });
            try
            {
                var seed = random.Next(Seeds);
                var video = await generator.GenerateAsync(RequestOf(seed), progress, source.Token);
                outcomes.Add(video.Frames.Pixels.Span.SequenceEqual(expected[seed]) ? "complete" : "wrong");
            }
            catch (OperationCanceledException) when (source.IsCancellationRequested)
            {
                outcomes.Add("canceled");
            }
        });

        outcomes.Count.ShouldBe(Requests);
        outcomes.ShouldNotContain("wrong");
        outcomes.Count(outcome => outcome is "canceled").ShouldBeInRange(Requests * 28 / 100, Requests * 43 / 100);
        TensorCount.ShouldBe(before);
    }

    private static VideoRequest RequestOf(int seed) =>
        new()
        {
            Prompt = $"a goat {seed}",
            Seed = seed,
            Frames = 2 + seed % 3,
            Steps = 3,
        };
}
