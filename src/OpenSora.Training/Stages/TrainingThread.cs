using System.Collections.Concurrent;

namespace OpenSora.Training.Stages;

/// <summary>Runs the asynchronous work of a training run on one dedicated thread. Code after an <c>await</c> that captures the context continues on
/// that thread.</summary>
/// <remarks>libtorch keeps a number of threads and a pool of threads for each calling thread. If a run moved between threads, more pools would
/// compete for the processor, and sums could be rounded differently from one run to the next.</remarks>
internal sealed class TrainingThread : SynchronizationContext
{
    private readonly BlockingCollection<(SendOrPostCallback Callback, object? State)> _queue = [];

    /// <summary>Runs asynchronous work on a new thread, which ends when the work is complete.</summary>
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
