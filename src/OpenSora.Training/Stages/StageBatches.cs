using System.Threading.Channels;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;

namespace OpenSora.Training.Stages;

/// <summary>The consecutive batches of a stage, some of which are created in advance if <see cref="TrainingStage.Prefetch"/> is above 0.</summary>
internal sealed class StageBatches : IAsyncDisposable
{
    private readonly TrainingStage _stage;
    private readonly TrainingGroup? _group;
    private readonly CancellationTokenSource _stop = new();
    private readonly Channel<TrainingBatch>? _ready;
    private readonly Task _prefetching = Task.CompletedTask;
    private long _next;

    /// <summary>Begins with the batch of the specified number.</summary>
    /// <param name="stage">The stage.</param>
    /// <param name="first">The number of the first batch.</param>
    /// <param name="group">The processes that share each batch; null for one.</param>
    public StageBatches(TrainingStage stage, long first, TrainingGroup? group = null)
    {
        (_stage, _next, _group) = (stage, first, group);
        if (stage.Prefetch > 0)
        {
            _ready = Channel.CreateBounded<TrainingBatch>(stage.Prefetch);
            _prefetching = Task.Run(() => PrefetchAsync(_ready.Writer), CancellationToken.None);
        }
    }

    /// <summary>Returns the next batch, owned by the caller, or throws the exception of the data.</summary>
    public async ValueTask<TrainingBatch> NextAsync(CancellationToken cancellationToken)
    {
        if (_ready is null)
        {
            return await CreateAsync(cancellationToken).ConfigureAwait(false);
        }

        try
        {
            return await _ready.Reader.ReadAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (ChannelClosedException)
        {
            await _prefetching.ConfigureAwait(false); // throws the exception of the data
            throw;
        }
    }

    /// <summary>Stops creating batches and disposes those that were not used.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await _prefetching.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        while (_ready is not null && _ready.Reader.TryRead(out var batch))
        {
            batch.Dispose();
        }

        _stop.Dispose();
    }

    private async Task PrefetchAsync(ChannelWriter<TrainingBatch> ready)
    {
        try
        {
            while (await ready.WaitToWriteAsync(_stop.Token).ConfigureAwait(false))
            {
                // Succeeds, because nothing else writes to the channel.
                ready.TryWrite(await CreateAsync(_stop.Token).ConfigureAwait(false));
            }
        }
        finally
        {
            ready.Complete();
        }
    }

    private ValueTask<TrainingBatch> CreateAsync(CancellationToken cancellationToken) =>
        _group is null
            ? _stage.Data!.GetBatchAsync(_next++, _stage.BatchSize, _stage.Seed, cancellationToken)
            : _stage.Data!.GetPartAsync(_next++, _stage.BatchSize, _stage.Seed, _group.Part, _group.Parts, cancellationToken);
}
