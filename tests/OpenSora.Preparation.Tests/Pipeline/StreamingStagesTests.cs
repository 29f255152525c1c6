using System.Threading.Channels;
using OpenSora.Preparation.Pipeline;

namespace OpenSora.Preparation.Tests.Pipeline;

public class StreamingStagesTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Items_pass_through_all_stages()
    {
        var (first, second) = (Channel.CreateBounded<int>(2), Channel.CreateBounded<int>(2));
        List<int> results = [];

        await StreamingStages.RunAsync(
            Token,
            async token =>
            {
                for (var i = 0; i < 100; i++)
                {
                    await first.Writer.WriteAsync(i, token);
                }

                first.Writer.Complete();
            },
            token => StreamingStages.ProcessAsync(first.Reader, 3, second.Writer, (i, stop) => second.Writer.WriteAsync(2 * i, stop).AsTask(), token),
            token =>
                StreamingStages.ProcessAsync<int, int>(
                    second.Reader,
                    1,
                    next: null,
                    (i, _) =>
                    {
                        results.Add(i);
                        return Task.CompletedTask;
                    },
                    token
                )
        );

        results.Order().ShouldBe(Enumerable.Range(0, 100).Select(i => 2 * i));
    }

    [Fact]
    public async Task A_failure_stops_the_stages_that_wait_for_a_full_queue()
    {
        var queue = Channel.CreateBounded<int>(1);
        var error = await Should.ThrowAsync<IOException>(() =>
            StreamingStages.RunAsync(
                Token,
                async token =>
                {
                    while (true)
                    {
                        await queue.Writer.WriteAsync(1, token);
                    }
                },
                _ => throw new IOException("the disk is full")
            )
        );
        error.Message.ShouldBe("the disk is full");
    }

    [Fact]
    public async Task A_stage_that_fails_does_not_lose_its_exception_among_cancellations()
    {
        var queue = Channel.CreateBounded<int>(1);
        await Should.ThrowAsync<InvalidDataException>(() =>
            StreamingStages.RunAsync(
                Token,
                async token =>
                {
                    await queue.Writer.WriteAsync(1, token);
                    await Task.Delay(Timeout.Infinite, token);
                },
                token => StreamingStages.ProcessAsync<int, int>(queue.Reader, 2, null, (_, _) => throw new InvalidDataException(), token)
            )
        );
    }

    [Fact]
    public async Task Cancellation_is_reported_as_such()
    {
        using var stop = new CancellationTokenSource();
        var run = StreamingStages.RunAsync(stop.Token, token => Task.Delay(Timeout.Infinite, token));
        await stop.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(() => run);
    }
}
