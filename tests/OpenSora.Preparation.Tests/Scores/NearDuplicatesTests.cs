using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

public class NearDuplicatesTests
{
    private static ClipHash Random(Random random) =>
        new((ulong)random.NextInt64(), (ulong)random.NextInt64(), (ulong)random.NextInt64(), (ulong)random.NextInt64());

    private static ClipHash Flip(ClipHash hash, int bits, Random random)
    {
        foreach (var bit in Enumerable.Range(0, ClipHash.Bits).OrderBy(_ => random.Next()).Take(bits))
        {
            var mask = 1UL << (bit % 64);
            hash = (bit / 64) switch
            {
                0 => hash with { First = hash.First ^ mask },
                1 => hash with { Second = hash.Second ^ mask },
                2 => hash with { Third = hash.Third ^ mask },
                _ => hash with { Fourth = hash.Fourth ^ mask },
            };
        }

        return hash;
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    [InlineData(16)]
    [InlineData(24)]
    [InlineData(47)]
    public void The_index_finds_what_comparing_each_with_each_finds(int distance)
    {
        var random = new Random(distance);
        var seeds = Enumerable.Range(0, 60).Select(_ => Random(random)).ToArray();
        var clips = Enumerable
            .Range(0, 900)
            .Select(i => (Id: $"clip {i}", Hash: Flip(seeds[i % 60], random.Next(0, distance + 4), random), Rank: (double)random.Next(3)))
            .ToArray();
        var set = new NearDuplicates(distance);
        foreach (var (id, hash, rank) in clips)
        {
            set.Add(id, hash, rank);
        }

        List<(string Id, ClipHash Hash)> kept = [];
        List<NearDuplicate> expected = [];
        foreach (var (id, hash, _) in clips.OrderByDescending(clip => clip.Rank).ThenBy(clip => clip.Id, StringComparer.Ordinal))
        {
            if (kept.FirstOrDefault(each => each.Hash.Distance(hash) <= distance) is { Id: { } same } match)
            {
                expected.Add(new(id, same, match.Hash.Distance(hash)));
            }
            else
            {
                kept.Add((id, hash));
            }
        }

        set.Find().ShouldBe(expected.OrderBy(each => each.Id, StringComparer.Ordinal));
        expected.Count.ShouldBeGreaterThan(100);
        kept.Count.ShouldBeGreaterThan(50);
    }

    [Fact]
    public void The_result_does_not_depend_on_the_order_of_completion()
    {
        var random = new Random(5);
        var seeds = Enumerable.Range(0, 20).Select(_ => Random(random)).ToArray();
        var clips = Enumerable.Range(0, 400).Select(i => (Id: $"{i}", Hash: Flip(seeds[i % 20], random.Next(0, 30), random))).ToArray();

        IReadOnlyList<NearDuplicate> Find(IEnumerable<(string Id, ClipHash Hash)> order)
        {
            var set = new NearDuplicates();
            Parallel.ForEach(order, clip => set.Add(clip.Id, clip.Hash));
            return set.Find();
        }

        var first = Find(clips);
        Find(clips.Reverse()).ShouldBe(first);
        Find(clips.OrderBy(_ => random.Next()).Concat(clips.Take(50))).ShouldBe(first); // clips that are added again count once
    }

    [Fact]
    public void The_clip_with_the_highest_rank_is_kept()
    {
        var set = new NearDuplicates();
        var hash = Random(new Random(1));
        set.Add("a", hash, rank: 480);
        set.Add("b", hash, rank: 720);
        set.Add("c", hash, rank: 720);

        set.Find().ShouldBe([new("a", "b", 0), new("c", "b", 0)]);
    }

    [Fact]
    public void An_identifier_with_two_hashes_is_an_error()
    {
        var set = new NearDuplicates();
        set.Add("a", default);
        set.Add("a", new(1, 0, 0, 0));

        Should.Throw<InvalidOperationException>(() => set.Find()).Message.ShouldContain("'a'");
    }

    [Fact]
    public void A_hash_survives_a_manifest()
    {
        var hash = Random(new Random(3));
        ClipHash.Parse(hash.ToString()).ShouldBe(hash);
        Should.Throw<FormatException>(() => ClipHash.Parse("12"));
    }
}
