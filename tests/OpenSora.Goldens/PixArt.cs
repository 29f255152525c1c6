using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>PixArt-alpha as Open-Sora 1.0 has it, for one size and for many, and the official model, from whose weights an STDiT starts.</summary>
internal static class PixArtGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file) =>
        Check(file, file.ConfigAs(defaults: StdiTConfig.PixArt) with { NoTemporalPosEmb = file.Flag("no_temporal_pos_emb") });

    public static IEnumerable<Comparison> CheckSizes(GoldenFile file) =>
        Check(
            file,
            file.ConfigAs(defaults: StdiTConfig.PixArt) with
            {
                SizeConditioning = true,
                NoTemporalPosEmb = file.Flag("no_temporal_pos_emb"),
            }
        );

    private static IEnumerable<Comparison> Check(GoldenFile file, StdiTConfig config)
    {
        using var noGradients = no_grad();
        var model = file.Load(new StdiT(config, initialize: false));
        model.eval();

        using (var fresh = new StdiT(config, initialize: false))
        {
            var tables = fresh.state_dict();
            yield return file.Compare("weights.pos_embed", tables["pos_embed"]);
            yield return file.Compare("weights.pos_embed_temporal", tables["pos_embed_temporal"]);
        }

        var captions = new CaptionEmbedder(config.CaptionChannels, config.HiddenSize, config.ModelMaxLength);
        yield return file.Compare("mid.y_embedder", file.Load(captions, "weights.y_embedder.").call(file["input.y"], null));
        if (config.SizeConditioning)
        {
            SizeEmbedder Sizes(string name) => file.Load(new SizeEmbedder(config.HiddenSize / 3), $"weights.{name}.");
            yield return file.Compare("mid.csize_embedder", Sizes("csize_embedder").call(file["input.data_info.hw"]));
            yield return file.Compare("mid.ar_embedder", Sizes("ar_embedder").call(file["input.data_info.ar"]));
        }

        var (text, bias) = CrossAttention.Keys(file["mid.y_embedder"].squeeze(1), file.Optional("input.mask"), config.NumHeads);
        var modulation = file["mid.t_block"].view(-1, 6, config.HiddenSize);
        for (var i = 1; file.Has($"mid.block{i}"); i++)
        {
            var block = file.Load(new StdiTBlock(config, i), $"weights.blocks.{i}.");
            yield return file.Compare(
                $"mid.block{i}",
                block.call(file[$"mid.block{i - 1}"].unsqueeze(1), modulation, null, text, bias, null).squeeze(1)
            );
        }
        yield return file.Compare(
            "output.x",
            model.forward(
                file["input.x"],
                file["input.timestep"],
                file["input.y"],
                file.Optional("input.mask"),
                null,
                size: file.Optional("input.data_info.hw"),
                aspectRatio: file.Optional("input.data_info.ar")
            )
        );
    }

    /// <summary>The official model's weights: in a PixArt, and in an STDiT, whose attention along time does nothing yet.</summary>
    public static IEnumerable<Comparison> CheckOfficial(GoldenFile file)
    {
        int Number(string name) => file.Config.GetProperty(name).GetInt32();
        var (size, patch) = (Number("input_size"), Number("patch_size"));
        var config = StdiTConfig.PixArt with
        {
            InputSize = [1, size, size],
            PatchSize = [1, patch, patch],
            InChannels = Number("in_channels"),
            HiddenSize = Number("hidden_size"),
            Depth = Number("depth"),
            NumHeads = Number("num_heads"),
            CaptionChannels = Number("caption_channels"),
            ModelMaxLength = Number("model_max_length"),
            SpaceScale = file.Config.TryGetProperty("lewei_scale", out var scale) ? scale.GetDouble() : 1,
            SizeConditioning = file.Has("input.img_hw"),
        };
        using var noGradients = no_grad();
        using var image = new StdiT(config, initialize: false);
        using var video = new StdiTBuilder()
            .Latents(3, size, size, config.InChannels)
            .Patch(1, patch, patch)
            .Transformer(config.HiddenSize, config.Depth, config.NumHeads)
            .Text(config.CaptionChannels, config.ModelMaxLength)
            .Build();
        foreach (var model in new StdiT[] { image, video })
        {
            foreach (var (name, value) in model.state_dict())
            {
                if (file.Optional("weights." + name) is { } weight && name is not "pos_embed")
                {
                    value.copy_(weight.view(value.shape));
                }
            }
            model.eval();
        }
        if (file.Has("weights.pos_embed"))
        {
            // Of many sizes, the official model makes its table for each call.
            yield return file.Compare("weights.pos_embed", image.state_dict()["pos_embed"]);
        }

        if (file.Has("output.opensora.x_embedder.proj.weight"))
        {
            yield return file.Compare("output.opensora.x_embedder.proj.weight", image.state_dict()["x_embedder.proj.weight"]);
        }

        Tensor Call(Tensor x, Tensor t) =>
            image
                .forward(
                    x.unsqueeze(2),
                    t,
                    file["input.y"],
                    file.Optional("input.mask"),
                    null,
                    size: file.Optional("input.img_hw"),
                    aspectRatio: file.Optional("input.aspect_ratio")
                )
                .squeeze(2);
        var output = Call(file["input.x"], file["input.t"]);
        yield return file.Compare("output.x", output);
        if (file.Has("output.opensora_converted_x"))
        {
            yield return file.Compare("output.opensora_converted_x", output);
        }

        if (file.Has("output.forward_with_dpmsolver"))
        {
            yield return file.Compare("output.forward_with_dpmsolver", output.chunk(2, 1)[0]);
        }

        if (file.Has("output.forward_with_cfg"))
        {
            yield return file.Compare(
                "output.forward_with_cfg",
                DiTGoldens.Guided(file, file["input.x"], file["input.t"], file.GuidedChannels(Sampling.IddpmGuidedChannels, config.InChannels), Call)
            );
        }

        if (file.Has("output.stdit_from_pixart_x"))
        {
            yield return file.Compare(
                "output.stdit_from_pixart_x",
                video.forward(file["input.stdit_x"], file["input.t"], file["input.y"], file.Optional("input.mask"))
            );
        }
    }
}
