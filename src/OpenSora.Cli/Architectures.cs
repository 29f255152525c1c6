using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Cli;

/// <summary>An architecture that weights may belong to, with the sizes inferred from their shapes.</summary>
/// <param name="Name">The name of the architecture or of a preset.</param>
/// <param name="Sizes">A description of the sizes.</param>
/// <param name="Make">A function that creates the module.</param>
/// <param name="Options">The options for loading such weights.</param>
internal sealed record Candidate(string Name, string Sizes, Func<nn.Module> Make, LoadOptions Options);

/// <summary>Detects the architectures of this library from the names and shapes of weights.</summary>
internal static class Architectures
{
    private const string Patches = "x_embedder.proj.weight";

    /// <summary>Returns the architectures that the weights may belong to.</summary>
    public static IEnumerable<Candidate> Candidates(WeightsFile file)
    {
        IEnumerable<Candidate>[] all = [Transformers(file), Autoencoders(file), TinyAutoencoders(file), T5(file), Clip(file)];
        return all.SelectMany(candidates => candidates);
    }

    private static IEnumerable<Candidate> Transformers(WeightsFile file)
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

    private static IEnumerable<Candidate> Autoencoders(WeightsFile file)
    {
        const string first = "encoder.down_blocks.0.resnets.0.conv1.weight";
        if (Shapes.Beside(file, first, KeyMaps.StableDiffusionVae()) is not { } shapes)
        {
            yield break;
        }

        var levels = shapes.Count("encoder.down_blocks");
        int[] channels = [.. Enumerable.Range(0, levels).Select(level => shapes[$"encoder.down_blocks.{level}.resnets.0.conv1.weight", 0])];
        var latents = shapes["decoder.conv_in.weight", 1];
        var config = new AutoencoderKLConfig
        {
            InChannels = shapes["encoder.conv_in.weight", 1],
            OutChannels = shapes["decoder.conv_out.weight", 0],
            BlockOutChannels = channels,
            LayersPerBlock = shapes.Count("encoder.down_blocks.0.resnets"),
            LatentChannels = latents,
            NormNumGroups = new[] { 32, 16, 8, 4, 2 }.FirstOrDefault(groups => Array.TrueForAll(channels, width => width % groups == 0), 1),
        };
        var words = $"channels {string.Join(", ", channels)}, {latents} latent channels";
        var options = new LoadOptions { KeyMap = KeyMaps.StableDiffusionVae(levels), AllowReshape = true };
        if (shapes.Has("decoder.time_conv_out.weight"))
        {
            yield return new(
                "Stable Video Diffusion autoencoder with temporal decoder",
                words,
                () => new AutoencoderKLTemporalDecoder(config, initialize: false),
                options
            );
        }
        else
        {
            yield return new(
                channels is [128, 256, 512, 512] && latents == 4 ? "Stable Diffusion autoencoder" : "Stable Diffusion-style autoencoder",
                words,
                () => new AutoencoderKL(config, initialize: false),
                options
            );
        }
    }

    /// <summary>Returns candidates for the diffusers file with both halves, or for one of the two original files, in which names are layer
    /// numbers.</summary>
    private static IEnumerable<Candidate> TinyAutoencoders(WeightsFile file)
    {
        (string First, string Half, LoadOptions Options)[] forms =
        [
            ("encoder.layers.0.weight", "", new LoadOptions()),
            (
                "0.weight",
                ", the encoder",
                new LoadOptions
                {
                    KeyMap = name => $"encoder.layers.{name}",
                    KeepInitial = name => name.StartsWith("decoder.", StringComparison.Ordinal),
                }
            ),
            (
                "1.weight",
                ", the decoder",
                new LoadOptions
                {
                    KeyMap = name => $"decoder.{TinyAutoencoder.DecoderName(name)}",
                    KeepInitial = name => name.StartsWith("encoder.", StringComparison.Ordinal),
                }
            ),
        ];
        foreach (var (first, half, options) in forms.Where(form => file.Tensors.ContainsKey(form.First)).Take(1))
        {
            foreach (var config in TinyAutoencoderConfig.Presets.Select(TinyAutoencoderConfig.Preset).Distinct())
            {
                var names = TinyAutoencoderConfig.Presets.Where(name => TinyAutoencoderConfig.Preset(name).LatentChannels == config.LatentChannels);
                var sized = config with { Channels = (int)Math.Min(file.Tensors[first].Shape.FirstOrDefault(), int.MaxValue) };
                yield return new(
                    $"{string.Join(" or ", names)}{half}",
                    $"{config.LatentChannels} latent channels",
                    () => new TinyAutoencoder(sized, initialize: false),
                    options
                );
            }
        }
    }

    private static IEnumerable<Candidate> T5(WeightsFile file)
    {
        const string block = "encoder.block.0.layer.",
            bias = $"{block}0.SelfAttention.relative_attention_bias.weight";
        if (Shapes.Beside(file, bias) is not { } shapes)
        {
            yield break;
        }

        var gated = shapes.Has($"{block}1.DenseReluDense.wi_0.weight");
        var heads = shapes[bias, 1];
        var config = new T5Config
        {
            VocabSize = Math.Max(shapes["shared.weight", 0], shapes["encoder.embed_tokens.weight", 0]),
            DModel = shapes[$"{block}0.SelfAttention.q.weight", 1],
            NumHeads = heads,
            DKv = shapes[$"{block}0.SelfAttention.q.weight", 0] / Math.Max(1, heads),
            DFf = shapes[$"{block}1.DenseReluDense.wo.weight", 1],
            NumLayers = shapes.Count("encoder.block"),
            RelativeAttentionNumBuckets = shapes[bias, 0],
            FeedForwardProj = gated ? "gated-gelu" : "relu",
        };
        var name = (config with { FeedForwardProj = "gated-gelu" }) == new T5Config() ? "T5 v1.1 XXL encoder" : $"T5 {(gated ? "v1.1 " : "")}encoder";
        yield return new(
            name,
            $"{Width(config.DModel, config.NumLayers)}, {heads} heads of {config.DKv}, {config.VocabSize} tokens",
            () => new T5Encoder(config, initialize: false),
            new LoadOptions { KeyMap = KeyMaps.T5(file.Tensors.Keys) }
        );
    }

    private static IEnumerable<Candidate> Clip(WeightsFile file)
    {
        const string table = "text_model.embeddings.token_embedding.weight";
        if (Shapes.Beside(file, table) is not { } shapes)
        {
            yield break;
        }

        var (hidden, layers) = (shapes[table, 1], shapes.Count("text_model.encoder.layers"));
        var (name, heads) = Preset(
            ClipTextConfig.Presets,
            ClipTextConfig.Preset,
            preset => (preset.HiddenSize, preset.NumHiddenLayers, preset.NumAttentionHeads),
            hidden,
            layers
        );
        var config = new ClipTextConfig
        {
            VocabSize = shapes[table, 0],
            HiddenSize = hidden,
            NumHiddenLayers = layers,
            NumAttentionHeads = heads ?? Divisor(hidden),
            IntermediateSize = shapes["text_model.encoder.layers.0.mlp.fc1.weight", 0],
            MaxPositionEmbeddings = shapes["text_model.embeddings.position_embedding.weight", 0],
            ProjectionDim = shapes.Has("text_projection.weight") ? shapes["text_projection.weight", 0] : null,
            EosTokenId = Math.Max(0, shapes[table, 0] - 1),
        };
        yield return new(
            $"CLIP text encoder{(name is null ? "" : $" of {name}")}",
            $"{Width(hidden, layers)}, {config.MaxPositionEmbeddings} tokens",
            () => new ClipTextModel(config, initialize: false),
            new LoadOptions
            {
                // Omit the vision encoder and the table of consecutive position IDs.
                KeyMap = key =>
                    key.StartsWith("vision_model.", StringComparison.Ordinal)
                    || key is "visual_projection.weight" or "logit_scale" or "text_model.embeddings.position_ids"
                        ? null
                        : key,
            }
        );
    }

    private static (string? Name, int? Heads) Preset<TConfig>(
        IReadOnlyList<string> names,
        Func<string, TConfig> preset,
        Func<TConfig, (int Hidden, int Depth, int Heads)> sizes,
        int hidden,
        int depth
    )
    {
        foreach (var name in names)
        {
            if (sizes(preset(name)) is var (width, blocks, heads) && width == hidden && blocks == depth)
            {
                return (name, heads);
            }
        }

        return (null, null);
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

    /// <summary>Returns a plausible number of heads. Without query-key normalization, the weights do not determine it.</summary>
    private static int Divisor(int hidden) => hidden % 64 == 0 ? hidden / 64 : 1;

    private static string Width(int hidden, int depth) => $"width {hidden}, {depth} blocks";

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
