using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Weights;
using static OpenSora.Cli.Architectures;

namespace OpenSora.Cli;

/// <summary>Detects the transformers of this library from the names and shapes of weights.</summary>
internal static class TransformerArchitectures
{
    private const string Patches = "x_embedder.proj.weight";

    /// <summary>Returns the transformers that the weights may belong to.</summary>
    public static IEnumerable<Candidate> Candidates(WeightsFile file)
    {
        if (Shapes.Beside(file, Patches) is not { } shapes)
        {
            return [];
        }

        if (shapes.Count("spatial_blocks") > 0)
        {
            return StdiT3(shapes);
        }

        if (shapes.Has("blocks.0.scale_shift_table_temporal"))
        {
            return StdiT2(shapes);
        }

        return shapes.Has("blocks.0.adaLN_modulation.1.weight") ? DiT(shapes) : StdiT(shapes);
    }

    private static IEnumerable<Candidate> StdiT(Shapes shapes)
    {
        var (hidden, depth, videos) = (shapes[Patches, 0], Math.Max(1, shapes.Count("blocks")), shapes.Has("blocks.0.attn_temp.qkv.weight"));
        var sizes = new StdiTConfig
        {
            InChannels = shapes[Patches, 1],
            PatchSize = PatchSize(shapes),
            HiddenSize = hidden,
            Depth = depth,
            MlpRatio = MlpRatio(shapes, "blocks"),
            CaptionChannels = shapes.Or(4096, "y_embedder.y_proj.fc1.weight", 1),
            ModelMaxLength = shapes.Or(120, "y_embedder.y_embedding", 0),
            PredSigma = PredictsVariance(shapes),
            QkNorm = shapes.Has("blocks.0.attn.q_norm.weight"),
            SizeConditioning = shapes.Has("csize_embedder.mlp.0.weight"),
            InputSize = PatchSize(shapes),
        };
        var (name, heads) = Preset(
            StdiTConfig.Presets,
            StdiTConfig.Preset,
            preset => (preset.HiddenSize, preset.Depth, preset.NumHeads),
            hidden,
            depth
        );
        heads = Heads(shapes, "blocks", hidden) ?? heads ?? Divisor(hidden);
        var words = $"{Width(hidden, depth)}, {Latents(shapes, sizes.InChannels)}, text {sizes.ModelMaxLength} x {sizes.CaptionChannels}";
        var stdit = sizes with { NumHeads = heads.Value };
        if (videos)
        {
            return [new(name ?? "STDiT", words, () => new StdiT(stdit, initialize: false), PublishedWeights.Options())];
        }

        var pixArt = new PixArtConfig
        {
            InChannels = sizes.InChannels,
            PatchSize = sizes.PatchSize,
            HiddenSize = hidden,
            Depth = depth,
            NumHeads = heads.Value,
            MlpRatio = sizes.MlpRatio,
            CaptionChannels = sizes.CaptionChannels,
            ModelMaxLength = sizes.ModelMaxLength,
            PredSigma = sizes.PredSigma,
            QkNorm = sizes.QkNorm,
            SizeConditioning = sizes.SizeConditioning,
            InputSize = sizes.InputSize,
        };
        var image = name?.Replace("STDiT", sizes.SizeConditioning ? "PixArtMS" : "PixArt", StringComparison.Ordinal);
        return
        [
            new(
                PixArtConfig.Presets.Contains(image, StringComparer.Ordinal) ? image! : "PixArt",
                words,
                () => new PixArt(pixArt, initialize: false),
                PublishedWeights.Options()
            ),
            new(
                $"{name ?? "STDiT"}, as image weights",
                words,
                () => new StdiT(stdit with { SizeConditioning = false }, initialize: false),
                PublishedWeights.Options(fromImage: true)
            ),
        ];
    }

    private static IEnumerable<Candidate> DiT(Shapes shapes)
    {
        var (hidden, depth, classes) = (shapes[Patches, 0], Math.Max(1, shapes.Count("blocks")), shapes["y_embedder.embedding_table.weight", 0] - 1);
        var condition = classes > 0 ? $"label_{classes}" : "text";
        var patched = DiTConfig.Presets.Where(preset => DiTConfig.Preset(preset).PatchSize.SequenceEqual(PatchSize(shapes))).ToList();
        var (name, heads) = Preset(patched, DiTConfig.Preset, preset => (preset.HiddenSize, preset.Depth, preset.NumHeads), hidden, depth);
        var dit = new DiTConfig
        {
            InChannels = shapes[Patches, 1],
            PatchSize = PatchSize(shapes),
            HiddenSize = hidden,
            Depth = depth,
            NumHeads = heads ?? Divisor(hidden),
            MlpRatio = MlpRatio(shapes, "blocks"),
            Condition = condition,
            CaptionChannels = classes > 0 ? 512 : shapes.Or(512, "y_embedder.y_proj.fc1.weight", 1),
            LearnSigma = PredictsVariance(shapes),
            InputSize = PatchSize(shapes),
        };
        var latte = new LatteConfig
        {
            InChannels = dit.InChannels,
            PatchSize = dit.PatchSize,
            HiddenSize = hidden,
            Depth = depth,
            NumHeads = dit.NumHeads,
            MlpRatio = dit.MlpRatio,
            Condition = condition,
            CaptionChannels = dit.CaptionChannels,
            LearnSigma = dit.LearnSigma,
            InputSize = dit.InputSize,
        };
        var words =
            $"{Width(hidden, depth)}, {Latents(shapes, dit.InChannels)}, {(classes > 0 ? $"{classes} classes" : $"text {dit.CaptionChannels}")}";
        if (!shapes.Has("temp_embed")) // the temporal position table, which only Latte has
        {
            yield return new(name ?? "DiT", words, () => new DiT(dit, initialize: false), PublishedWeights.Options());
        }

        yield return new(
            name?.Replace("DiT", "Latte", StringComparison.Ordinal) ?? "Latte",
            words,
            () => new Latte(latte, initialize: false),
            PublishedWeights.Options()
        );
    }

    private static IEnumerable<Candidate> StdiT2(Shapes shapes)
    {
        var (hidden, depth) = (shapes[Patches, 0], Math.Max(1, shapes.Count("blocks")));
        var config = new StdiT2Config
        {
            InChannels = shapes[Patches, 1],
            PatchSize = PatchSize(shapes),
            HiddenSize = hidden,
            Depth = depth,
            NumHeads = RopeHeads(shapes, hidden),
            MlpRatio = MlpRatio(shapes, "blocks"),
            CaptionChannels = shapes.Or(4096, "y_embedder.y_proj.fc1.weight", 1),
            ModelMaxLength = shapes.Or(200, "y_embedder.y_embedding", 0),
            PredSigma = PredictsVariance(shapes),
            QkNorm = shapes.Has("blocks.0.attn.q_norm.weight"),
        };
        var (name, _) = Preset(
            StdiT2Config.Presets,
            StdiT2Config.Preset,
            preset => (preset.HiddenSize, preset.Depth, preset.NumHeads),
            hidden,
            depth
        );
        yield return new(
            name ?? "STDiT2",
            $"{Width(hidden, depth)}, {Latents(shapes, config.InChannels)}, text {config.ModelMaxLength} x {config.CaptionChannels}",
            () => new StdiT2(config, initialize: false),
            new LoadOptions()
        );
    }

    private static IEnumerable<Candidate> StdiT3(Shapes shapes)
    {
        var (hidden, depth) = (shapes[Patches, 0], Math.Max(1, shapes.Count("spatial_blocks")));
        var config = new StdiT3Config
        {
            InChannels = shapes[Patches, 1],
            PatchSize = PatchSize(shapes),
            HiddenSize = hidden,
            Depth = depth,
            NumHeads = RopeHeads(shapes, hidden),
            MlpRatio = MlpRatio(shapes, "spatial_blocks"),
            CaptionChannels = shapes.Or(4096, "y_embedder.y_proj.fc1.weight", 1),
            ModelMaxLength = shapes.Or(300, "y_embedder.y_embedding", 0),
            PredSigma = PredictsVariance(shapes),
            QkNorm = shapes.Has("spatial_blocks.0.attn.q_norm.weight"),
        };
        var (name, _) = Preset(
            StdiT3Config.Presets,
            StdiT3Config.Preset,
            preset => (preset.HiddenSize, preset.Depth, preset.NumHeads),
            hidden,
            depth
        );
        yield return new(
            name ?? "STDiT3",
            $"{Width(hidden, depth)}, {Latents(shapes, config.InChannels)}, text {config.ModelMaxLength} x {config.CaptionChannels}",
            () => new StdiT3(config, initialize: false),
            new LoadOptions()
        );
    }

    private static int[] PatchSize(Shapes shapes) =>
        shapes.Dimensions(Patches) == 5 ? [shapes[Patches, 2], shapes[Patches, 3], shapes[Patches, 4]] : [1, shapes[Patches, 2], shapes[Patches, 3]];

    private static double MlpRatio(Shapes shapes, string blocks) =>
        (double)shapes.Or(4, $"{blocks}.0.mlp.fc1.weight", 0) / shapes.Or(1, $"{blocks}.0.mlp.fc1.weight", 1);

    private static bool PredictsVariance(Shapes shapes) =>
        shapes["final_layer.linear.weight", 0] == 2L * shapes[Patches, 1] * PatchSize(shapes).Aggregate(1L, (product, size) => product * size);

    private static int? Heads(Shapes shapes, string blocks, int hidden) =>
        shapes[$"{blocks}.0.attn.q_norm.weight", 0] is > 0 and var width && hidden % width == 0 ? hidden / width : null;

    private static int RopeHeads(Shapes shapes, int hidden) => shapes["rope.freqs", 0] is > 0 and var pairs ? Math.Max(1, hidden / (2 * pairs)) : 1;

    private static string Latents(Shapes shapes, int channels)
    {
        var frames = shapes["pos_embed_temporal", 1] > 0 ? shapes["pos_embed_temporal", 1] : shapes["temp_embed", 1];
        var places = shapes["pos_embed", 1] > 0 ? shapes["pos_embed", 1] : shapes["pos_embed_spatial", 1];
        return $"{channels} latent channels"
            + (
                places > 0
                    ? $", positions of {(frames > 1 ? $"{frames} frames of " : "")}{places} patches of {string.Join('x', PatchSize(shapes))}"
                    : $", patches of {string.Join('x', PatchSize(shapes))}"
            );
    }
}
