using System.Runtime.ExceptionServices;

namespace OpenSora.Training.Stages;

/// <summary>Updates of weights that run in order on a background thread while the next step computes.</summary>
internal sealed class HostUpdates : IDisposable
{
    private readonly object _gate = new();
    private readonly Thread _thread;
    private Queue<Action> _left = new();
    private Exception? _failure;
    private long _added;
    private long _done;
    private bool _ends;

    public HostUpdates()
    {
        _thread = new Thread(Work) { IsBackground = true, Name = "training updates" };
        _thread.Start();
    }

    /// <summary>Adds an update and returns its number for <see cref="Wait(long)"/>.</summary>
    public long Add(Action update)
    {
        lock (_gate)
        {
            _left.Enqueue(update);
            Monitor.PulseAll(_gate);
            return ++_added;
        }
    }

    /// <summary>Waits until all updates are done.</summary>
    public void Wait() => Wait(Interlocked.Read(ref _added));

    /// <summary>Waits until the update with the number is done. If an update failed, its exception is thrown.</summary>
    public void Wait(long number)
    {
        lock (_gate)
        {
            while (_done < number && _failure is null)
            {
                Monitor.Wait(_gate);
            }

            if (_failure is { } failure)
            {
                ExceptionDispatchInfo.Throw(failure);
            }
        }
    }

    private void Work()
    {
        while (true)
        {
            Action update;
            lock (_gate)
            {
                while (_left.Count == 0)
                {
                    if (_ends)
                    {
                        return;
                    }

                    Monitor.Wait(_gate);
                }

                update = _left.Dequeue();
            }

            Exception? failure = null;
            try
            {
                if (_failure is null)
                {
                    update();
                }
            }
            catch (Exception exception)
            {
                failure = exception;
            }

            lock (_gate)
            {
                _failure ??= failure;
                _done++;
                Monitor.PulseAll(_gate);
            }
        }
    }

    /// <summary>Completes the updates that were added, and ends the thread.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _ends = true;
            Monitor.PulseAll(_gate);
        }

        _thread.Join();
    }
}
