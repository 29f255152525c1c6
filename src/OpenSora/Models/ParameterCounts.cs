using System.Globalization;
using OpenSora.Models.Layers;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The numbers of trainable parameters of a diffusion transformer, by part.</summary>
public sealed record ParameterCounts
{
    /// <summary>The number of parameters of the patch projection.</summary>
    public long PatchEmbedding { get; init; }

    /// <summary>The number of parameters of the time and size embeddings and of the modulation that all blocks share.</summary>
    public long TimeEmbedding { get; init; }

    /// <summary>The number of parameters of the text or class embedding.</summary>
    public long Condition { get; init; }

    /// <summary>The number of parameters of the first attention of the blocks, which attends within frames or as <see cref="AttentionOrder"/>
    /// specifies.</summary>
    public long Attention { get; init; }

    /// <summary>The number of parameters of the second attention of the blocks, along time. For STDiT3, this includes everything in the blocks that
    /// attend along time.</summary>
    public long Temporal { get; init; }

    /// <summary>The number of parameters of the cross attention to the text.</summary>
    public long CrossAttention { get; init; }

    /// <summary>The number of parameters of the MLPs of the blocks.</summary>
    public long Mlp { get; init; }

    /// <summary>The number of parameters that each block adds to modulate its input by time and condition.</summary>
    public long Modulation { get; init; }

    /// <summary>The number of parameters of the last layer.</summary>
    public long FinalLayer { get; init; }

    /// <summary>The total number of parameters.</summary>
    public long Total => PatchEmbedding + TimeEmbedding + Condition + Attention + Temporal + CrossAttention + Mlp + Modulation + FinalLayer;

    /// <summary>Counts the trainable parameters of a model.</summary>
    /// <param name="model">A diffusion transformer of this library.</param>
    /// <exception cref="ArgumentException">The model has parameters that do not belong to any of the parts.</exception>
    public static ParameterCounts Of(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var counts = model
            .named_parameters()
            .Where(entry => entry.parameter.requires_grad)
            .GroupBy(entry => Part(entry.name), StringComparer.Ordinal)
            .ToDictionary(part => part.Key, part => part.Sum(entry => entry.parameter.numel()), StringComparer.Ordinal);
        return new ParameterCounts
        {
            PatchEmbedding = Count(nameof(PatchEmbedding)),
            TimeEmbedding = Count(nameof(TimeEmbedding)),
            Condition = Count(nameof(Condition)),
            Attention = Count(nameof(Attention)),
            Temporal = Count(nameof(Temporal)),
            CrossAttention = Count(nameof(CrossAttention)),
            Mlp = Count(nameof(Mlp)),
            Modulation = Count(nameof(Modulation)),
            FinalLayer = Count(nameof(FinalLayer)),
        };

        long Count(string part) => counts.GetValueOrDefault(part);
    }

    // Blocks are named blocks.N.*, or in STDiT3 spatial_blocks.N.* and temporal_blocks.N.*
    private static string Part(string name) =>
        name.Split('.') switch
        {
            ["x_embedder", ..] => nameof(PatchEmbedding),
            ["y_embedder", ..] => nameof(Condition),
            ["t_embedder" or "t_block" or "t_block_temp" or "csize_embedder" or "ar_embedder" or "fl_embedder" or "fps_embedder", ..] => nameof(
                TimeEmbedding
            ),
            ["final_layer", ..] => nameof(FinalLayer),
            ["temporal_blocks", ..] or [_, _, "attn_temp", ..] => nameof(Temporal),
            [_, _, "attn", ..] => nameof(Attention),
            [_, _, "cross_attn", ..] => nameof(CrossAttention),
            [_, _, "mlp", ..] => nameof(Mlp),
            [_, _, "scale_shift_table" or "scale_shift_table_temporal" or "adaLN_modulation", ..] => nameof(Modulation),
            _ => throw new ArgumentException($"The parameter '{name}' does not belong to any part of a diffusion transformer.", nameof(name)),
        };

    /// <summary>Formats one line per part, with its number of parameters and its percentage of the total.</summary>
    public override string ToString()
    {
        (string Name, long Count)[] parts =
        [
            ("patch embedding", PatchEmbedding),
            ("time embedding", TimeEmbedding),
            ("condition", Condition),
            ("attention", Attention),
            ("temporal attention", Temporal),
            ("cross attention", CrossAttention),
            ("MLP", Mlp),
            ("modulation", Modulation),
            ("final layer", FinalLayer),
            ("total", Total),
        ];
        return string.Join(
            Environment.NewLine,
            parts.Select(part =>
                string.Create(CultureInfo.InvariantCulture, $"{part.Name, -20}{part.Count, 16:N0}{100.0 * part.Count / Math.Max(1, Total), 8:F1} %")
            )
        );
    }
}
