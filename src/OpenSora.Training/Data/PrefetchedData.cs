using System.Runtime.ExceptionServices;
using System.Threading.Channels;

namespace OpenSora.Training.Data;

/// <summary>Prepares batches on a background thread while training uses the previous ones. The batches are the same as without prefetching.</summary>
public sealed class PrefetchedData : ITrainingData, IDisposable
{
    private readonly ITrainingData _data;
    private readonly int _ahead;
    private readonly Lock _mutex = new();
    private Run? _run;

    /// <summary>Creates data that prefetches batches.</summary>
    /// <param name="data">The source of the batches. Only one thread at a time calls it.</param>
    /// <param name="ahead">The maximum number of batches to prepare in advance.</param>
    public PrefetchedData(ITrainingData data, int ahead = 2)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentOutOfRangeException.ThrowIfLessThan(ahead, 1);
        (_data, _ahead) = (data, ahead);
    }

    /// <inheritdoc/>
    public long Count => _data.Count;

    /// <inheritdoc/>
    public string Fingerprint => _data.Fingerprint;

    /// <inheritdoc/>
    /// <remarks>Batches that are requested in the order of their numbers are prefetched. A request for any other number restarts prefetching from
    /// that number.</remarks>
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

    /// <summary>Stops the thread and disposes the prepared batches. The caller keeps ownership of the data.</summary>
    public void Dispose()
    {
        lock (_mutex)
        {
            _run?.Dispose();
            _run = null;
        }
    }

    /// <summary>Prepares consecutive batches, beginning with a specified number.</summary>
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
                Next = default; // a repeated request tries again
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
#pragma warning disable CA1031 // rethrown to the caller that takes the next batch
            catch (Exception e)
            {
                _ready.Writer.Complete(e);
            }
#pragma warning restore CA1031
        }
    }
}
