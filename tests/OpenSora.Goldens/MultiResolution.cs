using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>STDiT2 of Open-Sora 1.1 and STDiT3 of 1.2: one call, and the parts that can be watched on their own.</summary>
internal static class MultiResolutionGoldens
{
    public static IEnumerable<Comparison> CheckStdiT2(GoldenFile file)
    {
        var config = file.ConfigAs<StdiT2Config>();
        using var noGradients = no_grad();
        var model = file.Load(new StdiT2(config, initialize: false));
        model.eval();
        if (file.Has("mid.csize_embedder"))
        {
            var (conditions, third) = (Conditions(file), config.HiddenSize / 3);
            foreach (
                var (name, channels, reported) in new[]
                {
                    ("csize_embedder", third, new double[] { conditions.Height, conditions.Width }),
                    ("ar_embedder", third, [(double)conditions.Height / conditions.Width]),
                    ("fl_embedder", config.HiddenSize, [conditions.Frames]),
                    ("fps_embedder", config.HiddenSize, [conditions.FramesPerSecond]),
                }
            )
            {
                var row = file.Load(new SizeEmbedder(channels), $"weights.{name}.").call(MultiResolution.Row(CPU, reported));
                yield return file.Compare($"mid.{name}", row.expand(file["input.x"].shape[0], -1));
            }
            yield return Places(file, config, config.InputSqSize);
        }
        yield return Call(file, model);
    }

    public static IEnumerable<Comparison> CheckStdiT3(GoldenFile file)
    {
        var config = file.ConfigAs<StdiT3Config>();
        using var noGradients = no_grad();
        var model = file.Load(new StdiT3(config, initialize: false));
        model.eval();
        yield return Places(file, config, config.InputSqSize);
        yield return Call(file, model);
    }

    private static Comparison Places(GoldenFile file, TransformerConfig config, int squareSize)
    {
        var (_, h, w) = MultiResolution.Grid(config, file["input.x"]);
        return file.Compare("mid.pos_embed", MultiResolution.Places(config, squareSize, h, w, Conditions(file), CPU));
    }

    private static Comparison Call(GoldenFile file, IVideoTransformer model) =>
        file.Compare("output.x", model.Denoise(file["input.x"], file["input.timestep"], Conditions(file)));

    /// <summary>What these cases tell a model.</summary>
    internal static DenoiserConditions Conditions(GoldenFile file)
    {
        double Number(string name) => file[name][0].to(ScalarType.Float64).item<double>();
        return new(file["input.y"].squeeze(1), file.Has("input.text_mask") ? null : file.Optional("input.mask"))
        {
            NoisyFrames = file.Optional("input.x_mask"),
            Frames = file.Has("input.num_frames") ? (int)Number("input.num_frames") : (int)file["input.x"].shape[2],
            Height = (int)Number("input.height"),
            Width = (int)Number("input.width"),
            FramesPerSecond = Number("input.fps"),
            FrameRates = file["input.fps"],
        };
    }
}
