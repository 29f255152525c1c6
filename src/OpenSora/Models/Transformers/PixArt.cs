namespace OpenSora.Models;

/// <summary>Sizes and choices of a <see cref="PixArt"/>: those of an STDiT without an attention of its own along time.</summary>
public sealed record PixArtConfig : StdiTConfig
{
    /// <summary>The published choices: attention over all tokens, positions stretched to a square, none along time.</summary>
    public PixArtConfig() => (AttentionOrder, StretchPositions, NoTemporalPosEmb, InputSize) = (AttentionOrder.Full, true, true, [1, 64, 64]);

    /// <summary>Names that <see cref="Preset"/> knows: the models for one size, and for many sizes and aspect ratios.</summary>
    public static new IReadOnlyList<string> Presets { get; } = ["PixArt-XL/2", "PixArtMS-XL/2"];

    /// <summary>The sizes of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>: <c>PixArt-XL/2</c> for images of 512x512 pixels (of 256x256 with half the
    /// <see cref="StdiTConfig.SpaceScale"/>), <c>PixArtMS-XL/2</c> for as many as 1024x1024 has in any aspect ratio.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static new PixArtConfig Preset(string name) =>
        name switch
        {
            "PixArt-XL/2" => new(),
            "PixArtMS-XL/2" => new()
            {
                InputSize = [1, 128, 128],
                SpaceScale = 2,
                SizeConditioning = true,
            },
            _ => throw new ArgumentException($"There is no preset '{name}'. Known are {string.Join(", ", Presets)}.", nameof(name)),
        };
}

/// <summary>
/// PixArt-alpha: the model of images that <see cref="StdiT"/> begins as. Its blocks attend to all tokens, then to the text; one that is made for many
/// sizes
/// is told height, width and aspect ratio as well (<see cref="StdiTConfig.SizeConditioning"/>).
/// </summary>
/// <remarks>
/// Source: "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis" (Chen et al., 2023), as Open-Sora 1.0
/// has it: an
/// image is a video of one frame, and with more frames attention spans them all. Names of parameters and buffers are Open-Sora's.
/// </remarks>
/// <param name="config">Sizes and choices.</param>
/// <param name="initialize">False leaves the parameters unset and untouched in memory, for weights that are loaded next.</param>
/// <exception cref="ArgumentException">The configuration is wrong.</exception>
public sealed class PixArt(PixArtConfig config, bool initialize = true) : StdiT(nameof(PixArt), config, initialize);
