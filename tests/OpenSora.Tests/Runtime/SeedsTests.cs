using OpenSora.Generation;
using OpenSora.Runtime;
using OpenSora.Tests.Generation;
using static TorchSharp.torch;

namespace OpenSora.Tests.Runtime;

public class SeedsTests
{
    [Fact]
    public void Different_seeds_give_different_numbers()
    {
        long[] seeds = [0, 1, -1, 42, -42, uint.MaxValue, 1L << 32, (1L << 32) + 42, 1L << 33, long.MaxValue, long.MinValue, long.MinValue + 42];

        var drawn = seeds.Select(seed => string.Join(' ', Draw(seed))).ToList();

        drawn.Distinct().Count().ShouldBe(seeds.Length);
        seeds.Select(seed => string.Join(' ', Draw(seed))).ShouldBe(drawn);
    }

    [Theory]
    [InlineData(-1, uint.MaxValue)]
    [InlineData(42, (1L << 32) + 42)]
    [InlineData(0, long.MinValue)]
    public async Task Different_seeds_give_different_videos(long seed, long other)
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var (a, b) = (await VideoOf(seed), await VideoOf(other));
        a.SequenceEqual(b).ShouldBeFalse();
        (await VideoOf(other)).ShouldBe(b);

        async Task<byte[]> VideoOf(long seed) => (await generator.Request("a goat").Seed(seed).GenerateAsync()).Frames.Pixels.ToArray();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(7)]
    [InlineData(uint.MaxValue)]
    public void Seeds_of_32_bits_give_the_numbers_that_libtorch_gives(long seed)
    {
        using var expected = new Generator((ulong)seed);
        using var noise = randn([50], generator: expected);
        Draw(seed).ShouldBe(noise.data<float>().ToArray());
    }

    [Fact]
    public void The_numbers_of_wide_seeds_are_normal_and_independent()
    {
        using var scope = NewDisposeScope();
        using var first = Seeds.CreateGenerator(-1, CPU);
        using var second = Seeds.CreateGenerator(1L << 32, CPU);
        var (a, b) = (randn([200_000], generator: first), randn([200_000], generator: second));
        a.mean().item<float>().ShouldBe(0, 0.01);
        a.std().item<float>().ShouldBe(1, 0.01);
        (a * b).mean().item<float>().ShouldBe(0, 0.01);
        (a[TensorIndex.Slice(1)] * a[TensorIndex.Slice(0, -1)]).mean().item<float>().ShouldBe(0, 0.01);
    }

    // The state after initialization by { 0x123, 0x234, 0x345, 0x456 } starts the sequence that the authors publish (mt19937ar.out).
    [Fact]
    public void The_state_is_that_of_the_published_generator()
    {
        var state = Seeds.StateOf(0x123, 0x234, 0x345, 0x456);
        uint[] outputs = [.. Enumerable.Range(0, 5).Select(i => Temper(Twist(state, i)))];
        outputs.ShouldBe([1067595299, 955945823, 477289528, 4107218783, 4228976476]);

        static uint Twist(uint[] s, int i)
        {
            var y = s[i] & 0x80000000 | s[i + 1] & 0x7FFFFFFF;
            return s[i + 397] ^ y >> 1 ^ ((y & 1) == 0 ? 0 : 0x9908B0DF);
        }

        static uint Temper(uint y)
        {
            y ^= y >> 11;
            y ^= y << 7 & 0x9D2C5680;
            y ^= y << 15 & 0xEFC60000;
            return y ^ y >> 18;
        }
    }

    private static float[] Draw(long seed)
    {
        using var generator = Seeds.CreateGenerator(seed, CPU);
        using var noise = randn([50], generator: generator);
        return noise.data<float>().ToArray();
    }
}
