namespace OpenSora.Training.Data;

/// <summary>The order of samples: a different permutation in each epoch, which depends only on the seed and the number of the epoch.</summary>
/// <remarks>The last permutation is cached. Several threads can use an instance at the same time.</remarks>
internal sealed class SampleOrder
{
    private readonly int _count;
    private readonly Lock _mutex = new();
    private (int Seed, long Epoch, int[] Order)? _last;

    /// <summary>Creates an order of samples.</summary>
    /// <param name="count">The number of samples in an epoch, at least 1.</param>
    public SampleOrder(int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        _count = count;
    }

    /// <summary>Gets the number of samples in an epoch.</summary>
    public int Count => _count;

    /// <summary>Gets the indices of the samples in a batch. A batch can span two epochs, so that no sample is left out.</summary>
    /// <param name="number">The zero-based number of the batch, if all batches have this size.</param>
    /// <param name="size">The number of samples in a batch.</param>
    /// <param name="seed">The seed of the order.</param>
    public int[] Batch(long number, int size, int seed)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(number);
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1);
        var samples = new int[size];
        for (var i = 0; i < size; i++)
        {
            var (epoch, place) = Math.DivRem(number * size + i, _count);
            samples[i] = Epoch(seed, epoch)[place];
        }
        return samples;
    }

    private int[] Epoch(int seed, long epoch)
    {
        lock (_mutex)
        {
            if (_last is { } kept && kept.Seed == seed && kept.Epoch == epoch)
            {
                return kept.Order;
            }

            var order = Enumerable.Range(0, _count).ToArray();
            Randomness.Of(seed, epoch).Shuffle(order);
            _last = (seed, epoch, order);
            return order;
        }
    }
}
