using System.Globalization;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>
/// Compares the training step (forward, backward, AdamW) of STDiT with that of DiT with full attention, at the same width and depth, on one clip. The
/// two models alternate. The benchmark measures the CPU time of one thread, which other programs on the machine hardly affect, and reports the
/// fastest step of each model.
/// </summary>
internal static class Attention
{
    private const int Width = 384,
        Heads = 6,
        Depth = 2,
        TextTokens = 120;

    public static void Run()
    {
        set_num_threads(1);
        Console.WriteLine($"  width {Width}, {Heads} heads, depth {Depth}, batch 1, {TextTokens} text tokens, 1 thread");
        Console.WriteLine(
            "| type | patches per frame | frames | tokens | STDiT s | DiT s | DiT / STDiT, measured | operations, DiT / STDiT |\n"
                + "|---|---|---|---|---|---|---|---|"
        );
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            foreach (var (side, all) in new[] { (16, new[] { 8, 16, 32, 64, 128 }), (32, [8, 16, 32]) })
            {
                foreach (var frames in all)
                {
                    Compare(type, side, frames);
                }
            }
        }
    }

    private static void Compare(ScalarType type, int side, int frames)
    {
        using var scope = NewDisposeScope();
        var first = new StdiTConfig
        {
            InputSize = [frames, side, side],
            HiddenSize = Width,
            Depth = Depth,
            NumHeads = Heads,
            CaptionChannels = 512,
            ModelMaxLength = TextTokens,
        };
        var second = new DiTConfig
        {
            InputSize = first.InputSize,
            HiddenSize = Width,
            Depth = Depth,
            NumHeads = Heads,
            CaptionChannels = 512,
        };
        using var stdit = new StdiT(first).UseComputeType(type);
        using var dit = new DiT(second).UseComputeType(type);
        using var stditOptimizer = optim.AdamW(stdit.parameters(), 1e-4);
        using var ditOptimizer = optim.AdamW(dit.parameters(), 1e-4);
        var (x, t, target) = (randn([1, 4, frames, side, side]), full([1], 500f), randn([1, 8, frames, side, side]));
        var (states, vector) = (randn([1, 1, TextTokens, 512]), randn([1, 1, 1, 512]));

        var (a, b) = (TimeSpan.MaxValue, TimeSpan.MaxValue);
        for (var run = 0; run < 3; run++)
        {
            var one = Step(stditOptimizer, () => stdit.forward(x, t, states, null, null), target);
            var other = Step(ditOptimizer, () => dit.forward(x, t, vector), target);
            if (run > 0) // the first step creates the optimizer state
            {
                (a, b) = (a < one ? a : one, b < other ? b : other);
            }
        }

        var (places, operations) = (
            side * side / 4,
            FlopEstimate.Of(second, frames, side, side).Total / FlopEstimate.Of(first, frames, side, side).Total
        );
        Console.WriteLine(
            string.Create(
                CultureInfo.InvariantCulture,
                $"| {(type == ScalarType.Float32 ? "float32" : "bfloat16")} | {places} | {frames} | {places * frames} | "
                    + $"{a.TotalSeconds:F2} | {b.TotalSeconds:F2} | {b / a:F2} | {operations:F2} |"
            )
        );
    }

    private static TimeSpan Step(optim.Optimizer optimizer, Func<Tensor> forward, Tensor target)
    {
        using var scope = NewDisposeScope();
        var start = Environment.CpuUsage.TotalTime;
        optimizer.zero_grad();
        (forward() - target).square().mean().backward();
        optimizer.step();
        return Environment.CpuUsage.TotalTime - start;
    }
}
