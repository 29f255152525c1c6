using System.Collections.Concurrent;

namespace OpenSora.Training.Stages;

/// <summary>A thread of its own for the asynchronous work of a run: what follows an await that captures the context runs on the same thread.</summary>
/// <remarks>libtorch's number of threads, its thread pools and the random state of some of its operations belong to the calling thread. If a run
/// moved between threads of the pool, its sums could be rounded differently from one run to the next.</remarks>
internal sealed class TrainingThread : SynchronizationContext
{
    private readonly BlockingCollection<(SendOrPostCallback Callback, object? State)> _queue = [];

    /// <summary>Runs asynchronous work on a new thread, which ends with the work.</summary>
    public static Task RunAsync(Func<Task> work)
    {
        var result = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(() => result.SetFromTask(new TrainingThread().Run(work))) { IsBackground = true, Name = "training" };
        thread.Start();
        return result.Task;
    }

    /// <summary>Calls code of users without the context, so that this code may block on its own tasks.</summary>
    public static T CallOutside<T>(Func<T> call)
    {
        var context = Current;
        SetSynchronizationContext(null);
        try
        {
            return call();
        }
        finally
        {
            SetSynchronizationContext(context);
        }
    }

    /// <inheritdoc/>
    public override void Post(SendOrPostCallback d, object? state)
    {
        try
        {
            _queue.Add((d, state));
        }
        catch (InvalidOperationException) // the run is over
        {
            base.Post(d, state);
        }
    }

    // Returns the completed task.
    private Task Run(Func<Task> work)
    {
        SetSynchronizationContext(this);
        var task = work();
        _ = task.ContinueWith(
            _ => _queue.CompleteAdding(),
            CancellationToken.None,
            TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default
        );
        foreach (var (callback, state) in _queue.GetConsumingEnumerable())
        {
            callback(state);
        }

        return task;
    }
}
