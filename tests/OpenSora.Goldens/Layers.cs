using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Weights;
using TorchSharp;
using static OpenSora.Models.Layers.Functional;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>The layers that the architectures share, and the position tables.</summary>
internal static class LayersGoldens
{
    // Waves at t near 1000: where one libtorch's exp rounds a frequency otherwise than another's, an argument is one unit in the last place of 1000
    // away, 6.1e-5.
    private const double WavesLimit = 6.2e-5;

    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var config = file.Config;
        int Number(string name) => config.GetProperty(name).GetInt32();
        var (c, heads, captionWidth, captionTokens) = (Number("hidden"), Number("heads"), Number("caption_channels"), Number("token_num"));
        var patch = config.GetProperty("patch").EnumerateArray().Select(size => size.GetInt64()).ToArray();
        var (x, tokens, t) = (file["input.x"], file["input.tokens"], file["input.t_emb"]);
        var (shift, scale) = (file["input.shift"], file["input.scale"]);

        foreach (var name in file.Names.Where(name => name.StartsWith("output.timestep_embedding_", StringComparison.Ordinal)))
        {
            yield return file.Compare(name, TimestepEmbedder.Waves(file["input.t"], (int)file[name].shape[1]), WavesLimit);
        }

        yield return file.Compare("output.t_embedder", file.Load(new TimestepEmbedder(c), "weights.t_embedder.").call(file["input.t"]));
        yield return file.Compare(
            "output.size_embedder",
            file.Load(new SizeEmbedder(file["weights.size_embedder.mlp.0.weight"].shape[0]), "weights.size_embedder.").call(file["input.size"])
        );

        var captions = file.Load(new CaptionEmbedder(captionWidth, c, captionTokens), "weights.y_embedder.");
        var drop = file["input.force_drop_ids"].eq(1);
        yield return file.Compare("output.y_embedder_eval", captions.call(file["input.caption"], null));
        yield return file.Compare("output.y_embedder_dropped", captions.call(file["input.caption"], drop));

        var labels = file.Load(new LabelEmbedder(file["weights.label_embedder.embedding_table.weight"].shape[0] - 1, c), "weights.label_embedder.");
        yield return file.Compare("output.label_embedder", labels.call(file["input.labels"], null));
        yield return file.Compare("output.label_embedder_dropped", labels.call(file["input.labels"], drop));

        yield return file.Compare(
            "output.patch_embed",
            file.Load(new PatchEmbedder(x.shape[1], c, (patch[0], patch[1], patch[2])), "weights.patch_embed.").call(x)
        );
        yield return file.Compare("output.attn", file.Load(new SelfAttention(c, heads), "weights.attn.").call(tokens));
        yield return file.Compare(
            "output.attn_qknorm_layernorm",
            file.Load(new SelfAttention(c, heads, qkNorm: true), "weights.attn_qknorm.").call(tokens)
        );

        var (text, bias) = Padded(file["input.cond_packed"], file["input.cond_lens"], heads);
        yield return file.Compare("output.cross", file.Load(new CrossAttention(c, heads), "weights.cross.").call(tokens, text, bias));

        var outputs = file["output.t2i_final"].shape[2];
        yield return file.Compare("output.t2i_final", file.Load(new FinalLayer(c, outputs), "weights.final.").call(tokens, t));
        yield return file.Compare("output.dit_final", file.Load(new DiTFinalLayer(c, outputs), "weights.final_dit.").call(tokens, t));
        yield return file.Compare("output.modulate", NormModulate(tokens, shift.unsqueeze(1), scale.unsqueeze(1)));
        yield return file.Compare("output.t2i_modulate", Modulate(tokens, shift.unsqueeze(1), scale.unsqueeze(1)));
        yield return file.Compare("output.mlp", file.Load(new Mlp(c, file["weights.mlp.fc1.weight"].shape[0], c), "weights.mlp.").call(tokens));
    }

    public static IEnumerable<Comparison> CheckPositions(GoldenFile file)
    {
        var (grids, lines) = (file.Config.GetProperty("two_d"), file.Config.GetProperty("one_d"));
        for (var i = 0; i < grids.GetArrayLength(); i++)
        {
            var (grid, size) = (grids[i], grids[i].GetProperty("grid_h_w"));
            int? baseSize =
                grid.GetProperty("base_size").ValueKind == System.Text.Json.JsonValueKind.Null ? null : grid.GetProperty("base_size").GetInt32();
            var table = GridPositions(
                grid.GetProperty("dim").GetInt32(),
                size[0].GetInt32(),
                size[1].GetInt32(),
                grid.GetProperty("scale").GetDouble(),
                baseSize
            );
            yield return file.Compare($"output.pos2d_{i}", table.squeeze(0));
        }
        for (var i = 0; i < lines.GetArrayLength(); i++)
        {
            var table = LinePositions(
                lines[i].GetProperty("dim").GetInt32(),
                lines[i].GetProperty("length").GetInt32(),
                lines[i].GetProperty("scale").GetDouble()
            );
            yield return file.Compare($"output.pos1d_{i}", table.squeeze(0));
        }
    }

    // Texts that lie one behind the other, padded to the longest, and the bias that hides the padding.
    private static (Tensor Text, Tensor Bias) Padded(Tensor packed, Tensor lengths, int heads)
    {
        var sizes = lengths.data<long>().ToArray();
        var (text, mask) = (zeros(sizes.Length, sizes.Max(), packed.shape[2]), zeros(sizes.Length, sizes.Max()));
        var from = 0L;
        for (var i = 0; i < sizes.Length; i++)
        {
            text.select(0, i).narrow(0, 0, sizes[i]).copy_(packed.select(0, 0).narrow(0, from, sizes[i]));
            mask.select(0, i).narrow(0, 0, sizes[i]).fill_(1);
            from += sizes[i];
        }
        return (text, CrossAttention.KeyBias(mask, heads));
    }
}
