namespace OpenSora.Training.Data;

/// <summary>The order in which samples are seen: each epoch a new permutation, made of the seed and the epoch's number alone.</summary>
/// <remarks>The last permutation is kept; one object may serve several threads.</remarks>
public sealed class SampleOrder
{
    private readonly int _count;
    private readonly Lock _mutex = new();
    private (int Seed, long Epoch, int[] Order)? _last;

    /// <summary>An order of samples.</summary>
    /// <param name="count">Samples in an epoch, at least 1.</param>
    public SampleOrder(int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        this._count = count;
    }

    /// <summary>The samples of a batch. A batch may span two epochs: no sample is left out.</summary>
    /// <param name="number">Batches of this size before this one.</param>
    /// <param name="size">Samples in a batch.</param>
    /// <param name="seed">The order's seed.</param>
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

/// <summary>Random numbers that depend on nothing but the numbers given: the same on every machine and in every run.</summary>
public static class Randomness
{
    /// <summary>A number for a seed and any further numbers, well mixed (SplitMix64's finaliser, Steele et al., 2014).</summary>
    public static ulong Mix(long seed, params ReadOnlySpan<long> numbers)
    {
        var state = Scramble((ulong)seed + 0x9e3779b97f4a7c15);
        foreach (var number in numbers)
        {
            state = Scramble(state + (ulong)number + 0x9e3779b97f4a7c15);
        }

        return state;

        static ulong Scramble(ulong x)
        {
            x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
            x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
            return x ^ (x >> 31);
        }
    }

    /// <summary>A source of random numbers for a seed and any further numbers. Seeded, .NET's algorithm is fixed.</summary>
    public static Random Of(long seed, params ReadOnlySpan<long> numbers) => new((int)(Mix(seed, numbers) & int.MaxValue));
}
