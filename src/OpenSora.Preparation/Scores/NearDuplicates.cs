using System.Numerics;

namespace OpenSora.Preparation.Scores;

/// <summary>A clip that looks like another one.</summary>
/// <param name="Id">The clip to remove.</param>
/// <param name="KeptId">The clip that it looks like, and that is kept.</param>
/// <param name="Distance">The number of bits in which their hashes differ, of 256.</param>
public sealed record NearDuplicate(string Id, string KeptId, int Distance);

/// <summary>Finds near-duplicates in a set of clips, exactly and without comparing each with each.</summary>
/// <remarks>
/// Clips are taken in the order of their rank, then of their identifier. One that differs from a clip already kept by <see cref="MaxDistance"/> bits
/// at most is a
/// near-duplicate of it; all others are kept. The result does not depend on the order in which clips are added. Each clip takes about 200 bytes and
/// its identifier.
/// Multi-index hashing: Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012).
/// </remarks>
public sealed class NearDuplicates
{
    /// <summary>The largest value of <see cref="MaxDistance"/>.</summary>
    public const int LargestDistance = 47;

    private readonly Lock _lock = new();
    private readonly List<(string Id, ClipHash Hash, double Rank)> _clips = [];

    /// <summary>Initializes an empty set.</summary>
    /// <param name="maxDistance">The number of bits, of 256, in which near-duplicates differ at most, from 0 to 47.</param>
    public NearDuplicates(int maxDistance = 31)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(maxDistance);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maxDistance, LargestDistance);
        MaxDistance = maxDistance;
    }

    /// <summary>Gets the number of bits, of 256, in which near-duplicates differ at most.</summary>
    public int MaxDistance { get; }

    /// <summary>Adds a clip. Threads can add clips at the same time.</summary>
    /// <param name="id">The identifier of the clip, such as its path. A clip that is added again with the same values counts once.</param>
    /// <param name="hash">The hash of the clip.</param>
    /// <param name="rank">Decides which clip is kept: that with the highest rank, such as the resolution; then that whose identifier comes
    /// first.</param>
    public void Add(string id, ClipHash hash, double rank = 0)
    {
        ArgumentNullException.ThrowIfNull(id);
        if (double.IsNaN(rank))
        {
            throw new ArgumentException($"The rank of '{id}' is not a number.", nameof(rank));
        }

        lock (_lock)
        {
            _clips.Add((id, hash, rank));
        }
    }

    /// <summary>Finds the near-duplicates among the clips that were added, ordered by their identifiers.</summary>
    /// <param name="cancellationToken">Cancels the search.</param>
    /// <exception cref="InvalidOperationException">A clip was added twice with different values.</exception>
    public IReadOnlyList<NearDuplicate> Find(CancellationToken cancellationToken = default)
    {
        var clips = InOrder();
        var index = new KeptIndex(clips.Length, MaxDistance);
        List<NearDuplicate> duplicates = [];
        for (var i = 0; i < clips.Length; i++)
        {
            if (i % 1024 == 0)
            {
                cancellationToken.ThrowIfCancellationRequested();
            }

            if (index.FirstWithin(clips[i].Hash) is { } kept)
            {
                duplicates.Add(new(clips[i].Id, clips[kept.Clip].Id, kept.Distance));
            }
            else
            {
                index.Keep(i, clips[i].Hash);
            }
        }

        duplicates.Sort((a, b) => string.CompareOrdinal(a.Id, b.Id));
        return duplicates;
    }

    private (string Id, ClipHash Hash, double Rank)[] InOrder()
    {
        (string Id, ClipHash Hash, double Rank)[] clips;
        lock (_lock)
        {
            clips = [.. _clips];
        }

        Array.Sort(clips, (a, b) => string.CompareOrdinal(a.Id, b.Id));
        var count = 0;
        foreach (var clip in clips)
        {
            if (count == 0 || !string.Equals(clip.Id, clips[count - 1].Id, StringComparison.Ordinal))
            {
                clips[count++] = clip;
            }
            else if (clip != clips[count - 1])
            {
                throw new InvalidOperationException($"The clip '{clip.Id}' was added twice with different hashes or ranks. Use an identifier once.");
            }
        }

        Array.Resize(ref clips, count);
        Array.Sort(clips, (a, b) => a.Rank != b.Rank ? b.Rank.CompareTo(a.Rank) : string.CompareOrdinal(a.Id, b.Id));
        return clips;
    }

    /// <summary>The clips that are kept, found by parts of their hashes.</summary>
    /// <remarks>
    /// Two hashes of m parts that differ in r = m a + b bits at most (b below m) differ in at most a bits in one of the first b + 1 parts, or in at
    /// most a - 1 bits
    /// in one of the others: otherwise they would differ in (b + 1)(a + 1) + (m - b - 1) a = r + 1 bits.
    /// </remarks>
    private sealed class KeptIndex
    {
        private const int ManyClips = 120_000;
        private readonly int _maxDistance;
        private readonly (int Shift, int Bits, int[] Flips)[] _parts;
        private readonly int[][] _newest; // for each part and value: the clip that was kept last, or -1
        private readonly int[][] _older; // for each part and kept clip: the one before it with the same value
        private readonly ClipHash[] _hashes;
        private readonly int[] _clips;
        private int _count;

        internal KeptIndex(int clips, int maxDistance)
        {
            _maxDistance = maxDistance;
            var parts = clips < ManyClips ? 16 : 12;
            var (each, more) = (maxDistance / parts, maxDistance % parts);
            _parts =
            [
                .. Enumerable
                    .Range(0, parts)
                    .Select(part =>
                    {
                        var (start, end) = (part * ClipHash.Bits / parts, (part + 1) * ClipHash.Bits / parts);
                        return (start, end - start, Flips(end - start, part <= more ? each : each - 1));
                    })
                    .Where(part => part.Item3.Length > 0),
            ];
            _newest = [.. _parts.Select(part => Filled(1 << part.Bits))];
            _older = [.. _parts.Select(_ => new int[clips])];
            (_hashes, _clips) = (new ClipHash[clips], new int[clips]);
        }

        internal void Keep(int clip, ClipHash hash)
        {
            for (var part = 0; part < _parts.Length; part++)
            {
                var value = Part(hash, _parts[part].Shift, _parts[part].Bits);
                (_older[part][_count], _newest[part][value]) = (_newest[part][value], _count);
            }

            (_hashes[_count], _clips[_count]) = (hash, clip);
            _count++;
        }

        /// <summary>Returns the clip that was kept first among those within the distance; null if there is none.</summary>
        internal (int Clip, int Distance)? FirstWithin(ClipHash hash)
        {
            var (first, distance) = (int.MaxValue, 0);
            for (var part = 0; part < _parts.Length; part++)
            {
                var (shift, bits, flips) = _parts[part];
                var value = Part(hash, shift, bits);
                var (newest, older) = (_newest[part], _older[part]);
                foreach (var flip in flips)
                {
                    for (var kept = newest[value ^ flip]; kept >= 0; kept = older[kept])
                    {
                        if (kept < first && _hashes[kept].Distance(hash) is var found && found <= _maxDistance)
                        {
                            (first, distance) = (kept, found);
                        }
                    }
                }
            }

            return first == int.MaxValue ? null : (_clips[first], distance);
        }

        private static int Part(ClipHash hash, int shift, int bits)
        {
            var (word, offset) = (shift / 64, shift % 64);
            var value = Word(word) >> offset;
            if (offset + bits > 64)
            {
                value |= Word(word + 1) << (64 - offset);
            }

            return (int)(value & ((1UL << bits) - 1));

            ulong Word(int index) =>
                index switch
                {
                    0 => hash.First,
                    1 => hash.Second,
                    2 => hash.Third,
                    _ => hash.Fourth,
                };
        }

        // All numbers with at most so many bits set.
        private static int[] Flips(int bits, int most) =>
            most < 0 ? [] : [.. Combinations(bits, most).OrderBy(each => BitOperations.PopCount((uint)each)).ThenBy(each => each)];

        private static IEnumerable<int> Combinations(int bits, int most) =>
            bits == 0 || most == 0
                ? [0]
                : [.. Combinations(bits - 1, most), .. Combinations(bits - 1, most - 1).Select(each => each | (1 << (bits - 1)))];

        private static int[] Filled(int length)
        {
            var values = new int[length];
            Array.Fill(values, -1);
            return values;
        }
    }
}
