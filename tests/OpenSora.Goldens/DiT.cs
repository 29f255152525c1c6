using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>DiT and Latte as Open-Sora 1.0 has them, and the official models that they take weights from.</summary>
internal static class DiTGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file) =>
        Check(file, new DiT(Config(file), initialize: false), new DiT(Config(file), initialize: false));

    private static DiTConfig Config(GoldenFile file) => file.ConfigAs<DiTConfig>() with { NoTemporalPosEmb = file.Flag("no_temporal_pos_emb") };

    public static IEnumerable<Comparison> CheckLatte(GoldenFile file) =>
        Check(file, new DiT(LatteConfig(file), initialize: false), new DiT(LatteConfig(file), initialize: false));

    private static DiTConfig LatteConfig(GoldenFile file) => file.ConfigAs(defaults: DiTConfig.Latte);

    private static IEnumerable<Comparison> Check(GoldenFile file, DiT model, DiT fresh)
    {
        using var noGradients = no_grad();
        var config = file.Load(model).Config;
        model.eval();

        using (fresh)
        {
            var tables = fresh.state_dict();
            yield return file.Compare("weights.pos_embed_spatial", tables["pos_embed_spatial"]);
            yield return file.Compare("weights.pos_embed_temporal", tables["pos_embed_temporal"]);
        }

        var patches = new PatchEmbedder(config.InChannels, config.HiddenSize, (config.PatchSize[0], config.PatchSize[1], config.PatchSize[2]));
        yield return file.Compare("mid.x_embedder", file.Load(patches, "weights.x_embedder.").call(file["input.x"]));
        var (t, c) = (config.InputSize[0] / config.PatchSize[0], config.HiddenSize);
        var condition = file["mid.t_embedder"] + file["mid.y_embedder"].view(-1, c);
        var b = condition.shape[0];
        for (var i = 1; file.Has($"mid.block{i}"); i++)
        {
            // The original's blocks of Latte take [(B T), S, C] and [(B S), T, C] in turn.
            var latte = config.AttentionOrder == AttentionOrder.Interleaved;
            Tensor Grid(Tensor mid, int block) =>
                latte && block % 2 == 1 ? mid.view(b, -1, t, c).transpose(1, 2).contiguous() : mid.view(b, t, -1, c);
            var x = Grid(file[$"mid.block{i - 1}"], i - 1);
            var frames = latte && i == 1 ? file["weights.pos_embed_temporal"] : null;
            var y = file.Load(new DiTBlock(config, i), $"weights.blocks.{i}.").call(x, condition, frames);
            yield return file.Compare(
                $"mid.block{i}",
                latte && i % 2 == 1 ? y.transpose(1, 2).reshape(file[$"mid.block{i}"].shape) : y.view(file[$"mid.block{i}"].shape)
            );
        }
        yield return file.Compare("output.x", model.forward(file["input.x"], file["input.timestep"], file["input.y"]));
    }

    /// <summary>The official model's weights: the patch projection gets an axis of time, the position table is computed again.</summary>
    public static IEnumerable<Comparison> CheckOfficial(GoldenFile file)
    {
        int Number(string name) => file.Config.GetProperty(name).GetInt32();
        var (size, patch) = (Number("input_size"), Number("patch_size"));
        using var noGradients = no_grad();
        using var model = new DiT(
            new DiTConfig
            {
                InputSize = [1, size, size],
                PatchSize = [1, patch, patch],
                InChannels = Number("in_channels"),
                HiddenSize = Number("hidden_size"),
                Depth = Number("depth"),
                NumHeads = Number("num_heads"),
                Condition = $"label_{Number("num_classes")}",
            },
            initialize: false
        );
        foreach (var (name, parameter) in model.named_parameters())
        {
            parameter.copy_(file["weights." + name].view(parameter.shape));
        }

        model.eval();
        yield return file.Compare("weights.pos_embed", model.state_dict()["pos_embed_spatial"]);
        Tensor Call(Tensor x, Tensor t) => model.forward(x.unsqueeze(2), t, file["input.y"]).squeeze(2);
        var output = Call(file["input.x"], file["input.t"]);
        yield return file.Compare("output.x", output);
        yield return file.Compare("output.opensora_converted_x", output);
        yield return file.Compare(
            "output.forward_with_cfg",
            Guided(file, file["input.x"], file["input.t"], file.GuidedChannels(Sampling.IddpmGuidedChannels, model.Config.InChannels), Call)
        );
    }

    /// <summary>The official Latte's weights. It takes frames before channels.</summary>
    public static IEnumerable<Comparison> CheckOfficialLatte(GoldenFile file)
    {
        int Number(string name) => file.Config.GetProperty(name).GetInt32();
        var (size, patch) = (Number("input_size"), Number("patch_size"));
        using var noGradients = no_grad();
        using var model = new DiT(
            DiTConfig.Latte with
            {
                InputSize = [Number("num_frames"), size, size],
                PatchSize = [1, patch, patch],
                InChannels = Number("in_channels"),
                HiddenSize = Number("hidden_size"),
                Depth = Number("depth"),
                NumHeads = Number("num_heads"),
                Condition = $"label_{Number("num_classes")}",
            },
            initialize: false
        );
        foreach (var (name, parameter) in model.named_parameters())
        {
            parameter.copy_(file["weights." + name].view(parameter.shape));
        }

        model.eval();
        yield return file.Compare("weights.pos_embed", model.state_dict()["pos_embed_spatial"]);
        yield return file.Compare("weights.temp_embed", model.state_dict()["pos_embed_temporal"]);
        var output = model.forward(file["input.x"].transpose(1, 2), file["input.t"], file["input.y"]).transpose(1, 2);
        yield return file.Compare("output.x", output);
        yield return file.Compare("output.opensora_converted_x", output);
        yield return file.Compare(
            "output.forward_with_cfg",
            Guided(file, file["input.x"].transpose(1, 2), file["input.t"], file.GuidedChannels(4, model.Config.InChannels), (x, t) =>
                    model.forward(x, t, file["input.y"])
                )
                .transpose(1, 2)
        );
    }

    /// <summary>The official models' guided call: of the batch, only the first half of the latents counts, and in the output guided channels stand
    /// twice.</summary>
    internal static Tensor Guided(GoldenFile file, Tensor input, Tensor time, int channels, Denoiser denoiser)
    {
        var (half, scale) = (input.shape[0] / 2, file.Config.GetProperty("cfg_scale").GetDouble());
        var latents = input.narrow(0, 0, half);
        var guided = Sampling.ClassifierFreeGuidance(denoiser, scale, channels)(latents, time.narrow(0, 0, half));
        var both = denoiser(cat([latents, latents]), time);
        var rest = both.shape[1] - channels;
        return cat([guided, cat([guided.narrow(1, 0, channels), both.narrow(0, half, half).narrow(1, channels, rest)], 1)]);
    }
}
