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
    /// <summary>Returns the architectures that the weights may belong to.</summary>
    public static IEnumerable<Candidate> Candidates(WeightsFile file)
    {
        IEnumerable<Candidate>[] all = [TransformerArchitectures.Candidates(file), Autoencoders(file), TinyAutoencoders(file), T5(file), Clip(file)];
        return all.SelectMany(candidates => candidates);
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

    /// <summary>Returns the name and the number of heads of the preset with this width and depth, or nulls if there is none.</summary>
    public static (string? Name, int? Heads) Preset<TConfig>(
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

    /// <summary>Returns a plausible number of heads. Without query-key normalization, the weights do not determine it.</summary>
    public static int Divisor(int hidden) => hidden % 64 == 0 ? hidden / 64 : 1;

    /// <summary>Returns a description of a transformer's size.</summary>
    public static string Width(int hidden, int depth) => $"width {hidden}, {depth} blocks";
}
