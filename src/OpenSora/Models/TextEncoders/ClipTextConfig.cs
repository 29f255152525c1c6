using System.Text.Json.Serialization;

namespace OpenSora.Models;

/// <summary>The configuration of a <see cref="ClipTextModel"/>. JSON uses the snake_case names of transformers.</summary>
internal sealed record ClipTextConfig
{
    /// <summary>The vocabulary size: the number of rows of the token embedding.</summary>
    public int VocabSize { get; init; } = 49408;

    /// <summary>The width of the token states.</summary>
    public int HiddenSize { get; init; } = 512;

    /// <summary>The hidden width of the feed-forward layers.</summary>
    public int IntermediateSize { get; init; } = 2048;

    /// <summary>The number of transformer layers.</summary>
    public int NumHiddenLayers { get; init; } = 12;

    /// <summary>The number of heads of each attention layer.</summary>
    public int NumAttentionHeads { get; init; } = 8;

    /// <summary>The maximum number of tokens.</summary>
    public int MaxPositionEmbeddings { get; init; } = 77;

    /// <summary>The width of the joint text and image embedding; null if the model has no projection, as in the text encoders of diffusion
    /// models.</summary>
    public int? ProjectionDim { get; init; }

    /// <summary>The activation function: <c>quick_gelu</c> (OpenAI's models) or <c>gelu</c> (OpenCLIP's models).</summary>
    public string HiddenAct { get; init; } = "quick_gelu";

    /// <summary>The epsilon that layer normalization adds to the variance.</summary>
    public double LayerNormEps { get; init; } = 1e-5;

    /// <summary>The id of the end-of-text token, whose state represents the whole text.</summary>
    public int EosTokenId { get; init; } = 49407;

    /// <summary>The output of the model to use as the encoding of a prompt.</summary>
    public ClipOutput Output { get; init; }

    /// <summary>The names accepted by <see cref="Preset"/>.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["ViT-B/32", "ViT-B/16", "ViT-L/14"];

    /// <summary>Gets the configuration of the text encoder of a published CLIP model (Radford et al., 2021, table 20), without the
    /// projection.</summary>
    /// <param name="name">One of <see cref="Presets"/>, which are the names of the vision models.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static ClipTextConfig Preset(string name) =>
        name switch
        {
            "ViT-B/32" or "ViT-B/16" => new(),
            "ViT-L/14" => new()
            {
                HiddenSize = 768,
                IntermediateSize = 3072,
                NumAttentionHeads = 12,
            },
            _ => throw new ArgumentException($"There is no CLIP preset '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
        };

    /// <summary>Maps the name of a parameter in a file to its name in the model. Returns null for parameters of a complete CLIP model that the model
    /// does not have: the vision model, and the projection if the model has none.</summary>
    public string? PublishedName(string name) =>
        name.StartsWith("vision_model.", StringComparison.Ordinal)
        || name.StartsWith("visual_projection.", StringComparison.Ordinal)
        || name is "logit_scale" or "text_model.embeddings.position_ids"
        || (ProjectionDim is null && name is "text_projection.weight")
            ? null
            : name;

    /// <summary>Validates the configuration.</summary>
    /// <exception cref="ArgumentException">A value is invalid; the message names it and states the expected value.</exception>
    public void Validate()
    {
        foreach (
            var (size, name) in new[]
            {
                (VocabSize, nameof(VocabSize)),
                (HiddenSize, nameof(HiddenSize)),
                (IntermediateSize, nameof(IntermediateSize)),
                (NumHiddenLayers, nameof(NumHiddenLayers)),
                (NumAttentionHeads, nameof(NumAttentionHeads)),
                (MaxPositionEmbeddings, nameof(MaxPositionEmbeddings)),
                (ProjectionDim ?? 1, nameof(ProjectionDim)),
            }
        )
        {
            Check(size > 0, name, $"{name} is {size}; it must be positive.");
        }

        Check(NumHiddenLayers <= 1000, nameof(NumHiddenLayers), $"NumHiddenLayers is {NumHiddenLayers}; it must be at most 1000.");
        Check(
            HiddenSize % NumAttentionHeads == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not a multiple of NumAttentionHeads {NumAttentionHeads}."
        );
        Check(HiddenAct is "quick_gelu" or "gelu", nameof(HiddenAct), $"HiddenAct is '{HiddenAct}'; known are 'quick_gelu' and 'gelu'.");
        Check(Output != ClipOutput.Projected || ProjectionDim is not null, nameof(Output), "Output is Projected, but ProjectionDim is not set.");
        Check(LayerNormEps > 0, nameof(LayerNormEps), $"LayerNormEps is {LayerNormEps}; it must be positive.");
        Check(EosTokenId >= 0 && EosTokenId < VocabSize, nameof(EosTokenId), $"EosTokenId is {EosTokenId}; valid ids are 0 to {VocabSize - 1}.");
    }

    private static void Check(bool right, string name, string message)
    {
        if (!right)
        {
            throw new ArgumentException($"The CLIP configuration is invalid: {message}", name);
        }
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(ClipTextConfig))]
internal sealed partial class ClipTextJson : JsonSerializerContext;
