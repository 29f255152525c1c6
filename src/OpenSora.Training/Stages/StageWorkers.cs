using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>A group of threads that process parts of a batch in parallel, each with its portion of libtorch's threads.</summary>
/// <remarks>The threads live as long as the stage, because libtorch creates a new thread pool each time the number of threads is set.</remarks>
internal sealed class StageWorkers : IDisposable
{
    private readonly BlockingCollection<Action>[] _queues;
    private readonly Thread[] _threads;

    public StageWorkers(int count)
    {
        var each = Math.Max(1, get_num_threads() / count);
        _queues = [.. Enumerable.Range(0, count).Select(_ => new BlockingCollection<Action>(boundedCapacity: 1))];
        _threads =
        [
            .. _queues.Select(
                (queue, number) =>
                    new Thread(() =>
                    {
                        set_num_threads(each); // applies to this thread only
                        foreach (var work in queue.GetConsumingEnumerable())
                        {
                            work();
                        }
                    })
                    {
                        IsBackground = true,
                        Name = $"training worker {number}",
                    }
            ),
        ];
        Array.ForEach(_threads, thread => thread.Start());
    }

    /// <summary>Runs work on the first <paramref name="count"/> workers, passing each its index, and waits until all have finished.</summary>
    /// <remarks>If several workers fail, the exception of the one with the lowest index is thrown.</remarks>
    public void Run(int count, Action<int> work)
    {
        var failures = new Exception?[count];
        using var left = new CountdownEvent(count);
        for (var i = 0; i < count; i++)
        {
            var number = i;
            _queues[number]
                .Add(() =>
                {
                    try
                    {
                        work(number);
                    }
                    catch (Exception exception)
                    {
                        failures[number] = exception;
                    }
                    finally
                    {
                        left.Signal();
                    }
                });
        }
        left.Wait();
        if (Array.Find(failures, failure => failure is not null) is { } first)
        {
            ExceptionDispatchInfo.Throw(first);
        }
    }

    public void Dispose()
    {
        Array.ForEach(_queues, queue => queue.CompleteAdding());
        Array.ForEach(_threads, thread => thread.Join());
        Array.ForEach(_queues, queue => queue.Dispose());
        set_num_threads(get_num_threads()); // restores the count in BLAS libraries that have a single one for all threads
    }
}
