namespace OpenSora.Training.Data;

/// <summary>Random numbers that depend only on the specified numbers, and are the same on every machine and in every run.</summary>
internal static class Randomness
{
    /// <summary>Computes a well-mixed number from a seed and any further numbers (the finalizer of SplitMix64; Steele et al., 2014).</summary>
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

    /// <summary>Creates a random number generator from a seed and any further numbers. The algorithm of seeded generators in .NET does not
    /// change.</summary>
    public static Random Of(long seed, params ReadOnlySpan<long> numbers) => new((int)(Mix(seed, numbers) & int.MaxValue));
}
