using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>DiT with full attention, as Open-Sora 1.0 has it, and the official image model that it takes weights from.</summary>
internal static class DitGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        var config = file.ConfigAs<DitConfig>();
        using var noGradients = no_grad();
        var model = file.Load(new Dit(config, initialize: false));
        model.eval();

        using var fresh = new Dit(config, initialize: false);
        var tables = fresh.state_dict();
        yield return file.Compare("weights.pos_embed_spatial", tables["pos_embed_spatial"]);
        yield return file.Compare("weights.pos_embed_temporal", tables["pos_embed_temporal"]);

        var patches = new PatchEmbedder(config.InChannels, config.HiddenSize, (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]));
        yield return file.Compare("mid.x_embedder", file.Load(patches, "weights.x_embedder.").call(file["input.x"]));
        var condition = file["mid.t_embedder"] + file["mid.y_embedder"].view(file["mid.t_embedder"].shape);
        for (var i = 1; file.Has($"mid.block{i}"); i++)
            yield return file.Compare($"mid.block{i}", file.Load(new DitBlock(config), $"weights.blocks.{i}.").call(file[$"mid.block{i - 1}"], condition));
        yield return file.Compare("output.x", model.call(file["input.x"], file["input.timestep"], file["input.y"]));
    }

    /// <summary>The official model's weights: the patch projection gets an axis of time, the position table is made anew.</summary>
    public static IEnumerable<Comparison> CheckOfficial(GoldenFile file)
    {
        int Number(string name) => file.Config.GetProperty(name).GetInt32();
        var (size, patch) = (Number("input_size"), Number("patch_size"));
        using var noGradients = no_grad();
        using var model = new Dit(new DitConfig
        {
            InputSize = [1, size, size], PatchSize = [1, patch, patch], InChannels = Number("in_channels"), HiddenSize = Number("hidden_size"), Depth = Number("depth"),
            NumHeads = Number("num_heads"), Condition = $"label_{Number("num_classes")}", NoTemporalPosEmb = true,
        }, initialize: false);
        foreach (var (name, parameter) in model.named_parameters())
            parameter.copy_(file["weights." + name].view(parameter.shape));
        model.eval();
        yield return file.Compare("weights.pos_embed", model.state_dict()["pos_embed_spatial"]);
        var output = model.call(file["input.x"].unsqueeze(2), file["input.t"], file["input.y"]).squeeze(2);
        yield return file.Compare("output.x", output);
        yield return file.Compare("output.opensora_converted_x", output);
    }
}
