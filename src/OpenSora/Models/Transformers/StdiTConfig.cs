using System.Text.Json.Serialization;

namespace OpenSora.Models;

/// <summary>Configuration of an <see cref="StdiT"/>.</summary>
public sealed partial record StdiTConfig : TransformerConfig
{
    /// <summary>The size of the latents, <c>[frames, height, width]</c>, for which the position tables are precomputed. Other sizes also work; their
    /// tables are computed on each call.</summary>
    public IReadOnlyList<int> InputSize { get; init; } = [16, 32, 32];

    /// <summary>The divisor of spatial coordinates. The published weights were trained with 0.5 for 256x256 pixels and 1 for 512x512.</summary>
    public double SpaceScale { get; init; } = 1;

    /// <summary>The divisor of frame numbers. The published weights were trained with 1 for 16 frames and 2/3 for 64.</summary>
    public double TimeScale { get; init; } = 1;

    /// <summary>Whether to omit the temporal positions.</summary>
    public bool NoTemporalPosEmb { get; init; }

    /// <summary>Whether to normalize the input of the second attention of every block, along time, and to add the positions of the frames in every
    /// block. The published model does neither, and its weights require this option to be off. Without it, the tokens grow from block to block, and
    /// the logits and gradients grow with them, so that training of a custom model that must learn motion can diverge (recipes/stickers/TRAINING.md
    /// describes a measured case). The option adds no parameters and has no effect if the blocks have no second attention.</summary>
    public bool TemporalNorm { get; init; }

    /// <summary>Whether the output of the temporal attention starts at zero, so that a new model behaves like its image model (Open-Sora 1.0
    /// report).</summary>
    public bool ZeroInitTemporal { get; init; } = true;

    /// <summary>The order in which blocks attend within frames and along time.</summary>
    public AttentionOrder AttentionOrder { get; init; } = AttentionOrder.Serial;

    /// <summary>Whether to stretch spatial positions to a square with as many tokens as <see cref="InputSize"/> has, as PixArt-alpha does. This has
    /// no effect on latents of that size if they are square.</summary>
    public bool StretchPositions { get; init; }

    /// <summary>Whether the model is conditioned on height, width and their ratio in addition to the timestep, as PixArt-alpha's models for many
    /// sizes are. <see cref="TransformerConfig.HiddenSize"/> must be a multiple of 3.</summary>
    public bool SizeConditioning { get; init; }

    /// <summary>The names that <see cref="Preset"/> accepts: STDiT with the sizes of DiT (Peebles and Xie, 2023, table 1) and patches of 1x2x2, and
    /// the two models of PixArt-alpha.</summary>
    public static IReadOnlyList<string> Presets { get; } = ["STDiT-S/2", "STDiT-B/2", "STDiT-L/2", "STDiT-XL/2", "PixArt-XL/2", "PixArtMS-XL/2"];

    /// <summary>Gets the configuration of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>. <c>STDiT-XL/2</c> is the published model of Open-Sora 1.0. <c>PixArt-XL/2</c> generates
    /// images of 512x512 pixels (256x256 with half the <see cref="SpaceScale"/>), and <c>PixArtMS-XL/2</c> images of any aspect ratio with as many
    /// pixels as 1024x1024.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static StdiTConfig Preset(string name) =>
        name switch
        {
            "PixArt-XL/2" => PixArt,
            "PixArtMS-XL/2" => PixArtForManySizes,
            _ => Named(new StdiTConfig(), name, Presets),
        };

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        CheckInputSize(InputSize);
        CheckOrder(AttentionOrder);
        Check(SpaceScale > 0, nameof(SpaceScale), $"SpaceScale is {SpaceScale}; it must be positive.");
        Check(TimeScale > 0, nameof(TimeScale), $"TimeScale is {TimeScale}; it must be positive.");
        Check(
            !SizeConditioning || HiddenSize % 3 == 0,
            nameof(HiddenSize),
            $"HiddenSize {HiddenSize} is not a multiple of 3, which SizeConditioning requires."
        );
    }
}

/// <summary>Generated code that reads and writes the configuration.</summary>
[JsonSerializable(typeof(StdiTConfig))]
internal sealed partial class StdiTJson : JsonSerializerContext;
