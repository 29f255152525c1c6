using System.Globalization;
using OpenSora.Models;

namespace OpenSora.Benchmarks;

internal static class Memory
{
    private static readonly StdiTConfig Model = new()
    {
        HiddenSize = 256,
        Depth = 6,
        NumHeads = 4,
        CaptionChannels = 128,
        ModelMaxLength = 20,
    };

    public static void Run()
    {
        Console.WriteLine(
            "| width | depth | heads | batch | clip | type | checkpointing | estimated MB | measured MB | estimate / measured |\n"
                + "|---|---|---|---|---|---|---|---|---|---|"
        );
        // The first run loads the libraries into memory and is not counted.
        new MemoryCase(Model with { Depth = 1 }, 1, 2, 8, BFloat16: true, Checkpointing: true).Measure();
        foreach (
            var (model, batch, frames, side) in new[]
            {
                (Model, 2, 8, 16),
                (Model, 4, 8, 16),
                (Model, 1, 4, 32),
                (Model, 2, 16, 8),
                (Model with { HiddenSize = 384, NumHeads = 6, Depth = 4 }, 2, 8, 16),
                (Model with { HiddenSize = 512, NumHeads = 8, Depth = 8 }, 1, 2, 8),
            }
        )
        {
            foreach (var (half, checkpointing) in new[] { (false, false), (true, false), (false, true), (true, true) })
            {
                var size = new MemoryCase(model, batch, frames, side, half, checkpointing);
                var (estimated, measured) = (size.Estimate(), size.Measure());
                Console.WriteLine(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"| {model.HiddenSize} | {model.Depth} | {model.NumHeads} | {batch} | {frames}x{side}x{side} | "
                            + $"{(half ? "bfloat16" : "float32")} | {(checkpointing ? "on" : "off")} | "
                            + $"{estimated / 1e6:F0} | {measured / 1e6:F0} | {estimated / measured:F2} |"
                    )
                );
            }
        }
    }
}
