using System.Runtime.ExceptionServices;
using System.Threading.Channels;

namespace OpenSora.Training.Data;

/// <summary>Makes the batches to come on a thread of its own, while training is busy with the one before. The batches are the same as
/// without.</summary>
public sealed class PrefetchedData : ITrainingData, IDisposable
{
    private readonly ITrainingData _data;
    private readonly int _ahead;
    private readonly Lock _mutex = new();
    private Run? _run;

    /// <summary>Prefetches batches.</summary>
    /// <param name="data">Where they come from; it is asked by one thread at a time.</param>
    /// <param name="ahead">How many wait at most.</param>
    public PrefetchedData(ITrainingData data, int ahead = 2)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentOutOfRangeException.ThrowIfLessThan(ahead, 1);
        (this._data, this._ahead) = (data, ahead);
    }

    /// <inheritdoc/>
    public long Count => _data.Count;

    /// <inheritdoc/>
    public string Fingerprint => _data.Fingerprint;

    /// <inheritdoc/>
    /// <remarks>Asked in the order of their numbers, batches are ready; any other number starts anew from there.</remarks>
    public TrainingBatch GetBatch(long number, int size, int seed)
    {
        lock (_mutex)
        {
            if (_run is not { } going || going.Next != (number, size, seed))
            {
                _run?.Dispose();
                _run = going = new Run(_data, _ahead, number, size, seed);
            }
            return going.Take();
        }
    }

    /// <summary>Ends the thread and disposes of the batches that wait. The data stay the caller's.</summary>
    public void Dispose()
    {
        lock (_mutex)
        {
            _run?.Dispose();
            _run = null;
        }
    }

    /// <summary>Batches from a number on.</summary>
    private sealed class Run : IDisposable
    {
        private readonly Channel<TrainingBatch> _ready;
        private readonly CancellationTokenSource _stop = new();
        private readonly Task _work;

        public Run(ITrainingData data, int ahead, long number, int size, int seed)
        {
            Next = (number, size, seed);
            _ready = Channel.CreateBounded<TrainingBatch>(ahead);
            _work = Task.Factory.StartNew(
                () => Make(data, number, size, seed),
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default
            );
        }

        public (long Number, int Size, int Seed) Next { get; private set; }

        public TrainingBatch Take()
        {
            try
            {
                var batch = _ready.Reader.ReadAsync().AsTask().GetAwaiter().GetResult();
                Next = Next with { Number = Next.Number + 1 };
                return batch;
            }
            catch (ChannelClosedException e) when (e.InnerException is { } failure)
            {
                Next = default; // asked again, it is tried again
                ExceptionDispatchInfo.Throw(failure);
                throw;
            }
        }

        public void Dispose()
        {
            _stop.Cancel();
            _work.GetAwaiter().GetResult();
            while (_ready.Reader.TryRead(out var batch))
            {
                batch.Dispose();
            }

            _stop.Dispose();
        }

        private void Make(ITrainingData data, long number, int size, int seed)
        {
            try
            {
                for (; !_stop.IsCancellationRequested; number++)
                {
                    var batch = data.GetBatch(number, size, seed);
                    try
                    {
                        _ready.Writer.WriteAsync(batch, _stop.Token).AsTask().GetAwaiter().GetResult();
                    }
                    catch (OperationCanceledException)
                    {
                        batch.Dispose();
                    }
                }
            }
#pragma warning disable CA1031 // told to whoever takes the next batch
            catch (Exception e)
            {
                _ready.Writer.Complete(e);
            }
#pragma warning restore CA1031
        }
    }
}
