using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>STDiT of Open-Sora 1.0, and of 1.2 with conditioning frames: one call, and the parts that can be checked separately.</summary>
internal static class StdiTGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        var config = file.ConfigAs<StdiTConfig>();
        using var noGradients = no_grad();
        var model = file.Load(new StdiT(config, initialize: false));
        model.eval();

        using var fresh = new StdiT(config, initialize: false);
        var tables = fresh.state_dict();
        yield return file.Compare("weights.pos_embed", tables["pos_embed"]);
        yield return file.Compare("weights.pos_embed_temporal", tables["pos_embed_temporal"]);

        if (file.Has("mid.t_embedder"))
        {
            var time = new TimestepEmbedder(config.HiddenSize);
            yield return file.Compare("mid.t_embedder", file.Load(time, "weights.t_embedder.").call(file["input.timestep"]));
        }
        if (file.Has("mid.x_embedder"))
        {
            var patches = new PatchEmbedder(config.InChannels, config.HiddenSize, (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]));
            yield return file.Compare("mid.x_embedder", file.Load(patches, "weights.x_embedder.").call(file["input.x"]));
        }
        if (file.Has("mid.y_embedder"))
        {
            var captions = new CaptionEmbedder(config.CaptionChannels, config.HiddenSize, config.ModelMaxLength);
            yield return file.Compare("mid.y_embedder", file.Load(captions, "weights.y_embedder.").call(file["input.y"], null));
        }
        yield return file.Compare(
            "output.x",
            model.forward(file["input.x"], file["input.timestep"], file["input.y"], file.Optional("input.mask"), null, file.Optional("input.x_mask"))
        );
    }
}
