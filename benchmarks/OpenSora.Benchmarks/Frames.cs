using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Measures the STDiT forward pass at the size at which the original code was timed: depth 12, hidden size 384, 6 heads, latents of F x 32 x
/// 32, batch size 2, 120 text tokens.</summary>
internal static class Frames
{
    public static void Run()
    {
        foreach (var frames in new[] { 8, 16, 32 })
        {
            using var scope = NewDisposeScope();
            using var model = new StdiT(
                new StdiTConfig
                {
                    InputSize = [frames, 32, 32],
                    PatchSize = [1, 2, 2],
                    HiddenSize = 384,
                    Depth = 12,
                    NumHeads = 6,
                    CaptionChannels = 4096,
                    ModelMaxLength = 120,
                }
            );
            model.eval();
            using var mode = no_grad();
            var x = randn(new long[] { 2, 4, frames, 32, 32 });
            var t = full(new long[] { 2 }, 500f);
            var y = randn(2, 1, 120, 4096);
            var time = Timing.Median(3, () => model.forward(x, t, y, null).Dispose());
            Console.WriteLine($"  {frames, 2} frames ({frames * 256} tokens): {time.TotalSeconds:F2} s");
        }
    }
}
