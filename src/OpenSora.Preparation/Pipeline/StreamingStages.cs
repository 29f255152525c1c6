using System.Threading.Channels;

namespace OpenSora.Preparation.Pipeline;

/// <summary>Runs stages at the same time that pass items on through bounded queues.</summary>
internal static class StreamingStages
{
    /// <summary>Runs tasks until all end. If one fails, the others are stopped, and its exception is thrown.</summary>
    internal static async Task RunAsync(CancellationToken cancellationToken, params Func<CancellationToken, Task>[] stages)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        List<Exception> failures = [];
        await Task.WhenAll(stages.Select(stage => Task.Run(() => RunOneAsync(stage), CancellationToken.None))).ConfigureAwait(false);
        cancellationToken.ThrowIfCancellationRequested();
        if (failures.Count > 0)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failures[0]);
        }

        async Task RunOneAsync(Func<CancellationToken, Task> stage)
        {
            try
            {
                await stage(stop.Token).ConfigureAwait(false);
            }
            catch (Exception exception)
            {
                lock (failures)
                {
                    if (exception is not OperationCanceledException || !stop.IsCancellationRequested)
                    {
                        failures.Add(exception);
                    }
                }

                await stop.CancelAsync().ConfigureAwait(false);
            }
        }
    }

    /// <summary>Processes the items of a queue with several workers, and then completes the next queue.</summary>
    internal static async Task ProcessAsync<TIn, TOut>(
        ChannelReader<TIn> items,
        int workers,
        ChannelWriter<TOut>? next,
        Func<TIn, CancellationToken, Task> process,
        CancellationToken cancellationToken
    )
    {
        try
        {
            await Parallel
                .ForEachAsync(
                    items.ReadAllAsync(cancellationToken),
                    new ParallelOptions { MaxDegreeOfParallelism = workers, CancellationToken = cancellationToken },
                    async (item, token) => await process(item, token).ConfigureAwait(false)
                )
                .ConfigureAwait(false);
        }
        finally
        {
            next?.TryComplete();
        }
    }
}
