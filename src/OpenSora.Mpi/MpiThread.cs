using System.Collections.Concurrent;
using System.Diagnostics;
using System.Runtime.InteropServices;
using OpenSora.Distributed;

namespace OpenSora.Mpi;

/// <summary>The thread that calls all functions of MPI. It starts requests in their order and polls those in flight.</summary>
/// <remarks>MPI makes progress only within calls. A poll that takes long has moved data, so the next one follows at once; after polls without effect,
/// the thread sleeps longer and longer, so that waiting does not take the time of a core that computes.</remarks>
internal sealed partial class MpiThread
{
    private const int PollsBeforeSleep = 50;
    private const int LongestSleep = 500; // microseconds
    private static readonly long Effective = Stopwatch.Frequency / 500_000; // 2 microseconds; a poll without effect takes less than 1

    private readonly BlockingCollection<MpiRequest> _queue = [];
    private readonly List<MpiRequest> _running = [];
    private readonly HashSet<object> _waiting = [];
    private readonly TimeSpan _timeout;
    private volatile CollectiveException? _failure;

    public MpiThread(TimeSpan timeout)
    {
        _timeout = timeout;
        new Thread(Run) { IsBackground = true, Name = "MPI" }.Start();
    }

    /// <summary>Gets or sets the place of this process, for messages.</summary>
    public string Place { get; set; } = "";

    /// <summary>Gets the failure after which the thread does nothing more.</summary>
    public CollectiveException? Failure => _failure;

    /// <summary>Adds a request.</summary>
    /// <param name="owner">The group, whose requests are completed in order.</param>
    /// <param name="description">What the request does.</param>
    /// <param name="start">Starts it.</param>
    /// <exception cref="CollectiveException">An earlier request failed.</exception>
    public MpiRequest Add(object owner, string description, Action<MpiRequest> start)
    {
        if (_failure is { } failure)
        {
            throw new CollectiveException($"{description} cannot start, because the group failed before: {failure.Message}", failure);
        }

        var request = new MpiRequest(owner, description, start);
        _queue.Add(request);
        return request;
    }

    /// <summary>Ends all processes of the group, whatever state it is in.</summary>
    public void Abort(int exitCode)
    {
        Thread.Sleep(200); // The launcher may lose what was written just before.
        _abort = exitCode;
        _queue.Add(new MpiRequest(this, "Abort", _ => { }));
        Thread.Sleep(_timeout < TimeSpan.FromSeconds(5) ? _timeout : TimeSpan.FromSeconds(5));
        Environment.Exit(exitCode); // The thread is within a call of MPI that does not return.
    }

    /// <summary>Ends the thread after the requests that were added.</summary>
    public void Stop() => _queue.CompleteAdding();

    private int? _abort;

    private void Run()
    {
        var idle = 0;
        while (!_queue.IsCompleted || _running.Count > 0)
        {
            if (_queue.TryTake(out var added, _running.Count == 0 ? Timeout.Infinite : 0))
            {
                idle = 0;
                Start(added);
                continue;
            }

            var before = Stopwatch.GetTimestamp();
            var ended = Poll();
            idle = ended || Stopwatch.GetTimestamp() - before > Effective ? 0 : idle + 1;
            if (idle > PollsBeforeSleep && _running.Count > 0)
            {
                Sleep(Math.Min(LongestSleep, 10 * (idle - PollsBeforeSleep)));
                CheckTime();
            }
        }
    }

    private void Start(MpiRequest request)
    {
        if (_abort is { } exitCode)
        {
            _ = MpiNative.MPI_Abort(MpiNative.CommWorld, exitCode);
        }

        if (_failure is { } failure)
        {
            request.End(failure);
            return;
        }

        _running.Add(request);
        Try(request.Start);
    }

    // Ends the requests that are complete.
    private bool Poll()
    {
        var ended = false;
        _waiting.Clear();
        for (var i = 0; i < _running.Count; i++)
        {
            var (request, complete) = (_running[i], false);
            if (_waiting.Contains(request.Owner))
            {
                continue;
            }

            Try(() => complete = request.Poll());
            if (complete)
            {
                _running.RemoveAt(i--);
                request.End(null);
                ended = true;
            }
            else
            {
                _waiting.Add(request.Owner);
            }
        }

        return ended;
    }

    private void CheckTime()
    {
        if (_running.Find(request => Stopwatch.GetElapsedTime(request.Created) > _timeout) is { } late)
        {
            Fail(
                new CollectiveException(
                    $"{late.Description} did not complete within {_timeout.TotalSeconds:0.###} s on {Place}: another process ended, hangs, "
                        + "or computes for longer than this timeout."
                )
            );
        }
    }

    private void Try(Action action)
    {
        try
        {
            action();
        }
        catch (CollectiveException e)
        {
            Fail(e);
        }
        catch (Exception e)
        {
            Fail(new CollectiveException(e.Message, e));
        }
    }

    private void Fail(CollectiveException failure)
    {
        _failure = failure;
        foreach (var request in _running)
        {
            request.End(failure);
        }

        _running.Clear();
    }

    private static void Sleep(int microseconds)
    {
        if (OperatingSystem.IsWindows())
        {
            Thread.Sleep(1);
        }
        else
        {
            _ = SleepMicroseconds((uint)microseconds);
        }
    }

    // Thread.Sleep sleeps at least a millisecond.
    [LibraryImport("libc", EntryPoint = "usleep")]
    private static partial int SleepMicroseconds(uint microseconds);
}
