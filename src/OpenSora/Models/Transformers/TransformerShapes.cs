using OpenSora.Weights;

namespace OpenSora.Models;

/// <summary>Infers the sizes of the transformers of this library from the shapes of their weights.</summary>
internal static class TransformerShapes
{
    private const string Patches = "x_embedder.proj.weight";

    /// <summary>Gets the shapes of the weights of a transformer; null if the file contains none.</summary>
    public static TensorShapes? In(WeightsFile file) => TensorShapes.Beside(file, Patches);

    /// <summary>Gets the sizes that all transformers have. Values that the shapes do not determine are those of the defaults.</summary>
    /// <param name="shapes">The shapes of the weights.</param>
    /// <param name="defaults">The default configuration.</param>
    /// <param name="names">The names of the presets.</param>
    /// <param name="preset">Gets the configuration of a preset.</param>
    /// <param name="blocks">The name of the list of blocks.</param>
    public static TConfig Sizes<TConfig>(
        TensorShapes shapes,
        TConfig defaults,
        IReadOnlyList<string> names,
        Func<string, TConfig> preset,
        string blocks = "blocks"
    )
        where TConfig : TransformerConfig
    {
        var (hidden, depth) = (shapes[Patches, 0], Math.Max(1, shapes.Count(blocks)));
        var normed = shapes[$"{blocks}.0.attn.q_norm.weight", 0];
        int[] patch =
            shapes.Dimensions(Patches) == 5
                ? [shapes[Patches, 2], shapes[Patches, 3], shapes[Patches, 4]]
                : [1, shapes[Patches, 2], shapes[Patches, 3]];
        var outputs = shapes["final_layer.linear.weight", 0];
        return (TConfig)(
            (TransformerConfig)defaults with
            {
                InChannels = shapes[Patches, 1],
                PatchSize = patch,
                HiddenSize = hidden,
                Depth = depth,
                // Without normalization of queries and keys or rotary positions, the weights do not determine the number of heads.
                NumHeads =
                    normed > 0 && hidden % normed == 0 ? hidden / normed
                    : shapes["rope.freqs", 0] is > 0 and var pairs ? Math.Max(1, hidden / (2 * pairs))
                    : names.Select(preset).FirstOrDefault(known => (known.HiddenSize, known.Depth) == (hidden, depth))?.NumHeads
                        ?? Candidate.Divisor(hidden),
                MlpRatio = (double)shapes.Or(4, $"{blocks}.0.mlp.fc1.weight", 0) / shapes.Or(1, $"{blocks}.0.mlp.fc1.weight", 1),
                CaptionChannels = shapes.Or(defaults.CaptionChannels, "y_embedder.y_proj.fc1.weight", 1),
                ModelMaxLength = shapes.Or(defaults.ModelMaxLength, "y_embedder.y_embedding", 0),
                PredSigma = outputs == 2L * shapes[Patches, 1] * patch.Aggregate(1L, (product, size) => product * size),
                QkNorm = normed > 0,
            }
        );
    }

    /// <summary>Gets the name of the preset with the sizes of a configuration, or null if there is none.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="names">The names of the presets.</param>
    /// <param name="preset">Gets the configuration of a preset.</param>
    /// <param name="isSame">Compares the options by which presets of the same sizes differ; null if there are none.</param>
    public static string? Preset<TConfig>(
        TConfig config,
        IReadOnlyList<string> names,
        Func<string, TConfig> preset,
        Func<TConfig, bool>? isSame = null
    )
        where TConfig : TransformerConfig =>
        names.FirstOrDefault(name =>
            preset(name) is var known
            && (known.HiddenSize, known.Depth) == (config.HiddenSize, config.Depth)
            && known.PatchSize.SequenceEqual(config.PatchSize)
            && isSame?.Invoke(known) != false
        );

    /// <summary>Describes the sizes.</summary>
    /// <param name="shapes">The shapes of the weights.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="condition">A description of the texts or classes; null for texts of several tokens.</param>
    public static string Words(TensorShapes shapes, TransformerConfig config, string? condition = null)
    {
        var frames = shapes["pos_embed_temporal", 1] > 0 ? shapes["pos_embed_temporal", 1] : shapes["temp_embed", 1];
        var places = shapes["pos_embed", 1] > 0 ? shapes["pos_embed", 1] : shapes["pos_embed_spatial", 1];
        var patches = $"patches of {string.Join('x', config.PatchSize)}";
        return $"{Candidate.Width(config.HiddenSize, config.Depth)}, {config.InChannels} latent channels, "
            + (places > 0 ? $"positions of {(frames > 1 ? $"{frames} frames of " : "")}{places} {patches}" : patches)
            + $", {condition ?? $"text {config.ModelMaxLength} x {config.CaptionChannels}"}";
    }
}
