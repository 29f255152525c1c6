using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Manifests;

/// <summary>Processes the items of a stream in parallel and keeps their order, with a bounded number of items in memory.</summary>
internal static class OrderedParallel
{
    internal static async IAsyncEnumerable<TResult> SelectAsync<TItem, TResult>(
        this IAsyncEnumerable<TItem> items,
        int parallelism,
        Func<TItem, CancellationToken, Task<TResult>> process,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Queue<Task<TResult>> running = [];
        try
        {
            await foreach (var item in items.WithCancellation(stop.Token).ConfigureAwait(false))
            {
                running.Enqueue(Task.Run(() => process(item, stop.Token), stop.Token));
                if (running.Count >= parallelism)
                {
                    yield return await running.Dequeue().ConfigureAwait(false);
                }
            }

            while (running.TryDequeue(out var next))
            {
                yield return await next.ConfigureAwait(false);
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            foreach (var left in running)
            {
                await ((Task)left).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
    }
}
