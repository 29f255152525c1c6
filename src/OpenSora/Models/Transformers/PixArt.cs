namespace OpenSora.Models;

/// <summary>Configuration of a <see cref="PixArt"/>: that of an STDiT without separate attention along time.</summary>
public sealed record PixArtConfig : StdiTConfig
{
    /// <summary>Initializes the published configuration: attention over all tokens, positions stretched to a square, and no temporal
    /// positions.</summary>
    public PixArtConfig() => (AttentionOrder, StretchPositions, NoTemporalPosEmb, InputSize) = (AttentionOrder.Full, true, true, [1, 64, 64]);

    /// <summary>The names that <see cref="Preset"/> accepts: a model for a single size, and a model for many sizes and aspect ratios.</summary>
    public static new IReadOnlyList<string> Presets { get; } = ["PixArt-XL/2", "PixArtMS-XL/2"];

    /// <summary>Gets the configuration of a named model.</summary>
    /// <param name="name">One of <see cref="Presets"/>: <c>PixArt-XL/2</c> for images of 512x512 pixels (256x256 with half the
    /// <see cref="StdiTConfig.SpaceScale"/>), or <c>PixArtMS-XL/2</c> for images of any aspect ratio with as many pixels as 1024x1024.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
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
            _ => throw new ArgumentException($"There is no preset '{name}'. Known presets: {string.Join(", ", Presets)}.", nameof(name)),
        };
}

/// <summary>
/// PixArt-alpha, the image model from which <see cref="StdiT"/> is initialized. Its blocks attend to all tokens, then to the text. The model for many
/// sizes is also conditioned on height, width and aspect ratio (<see cref="StdiTConfig.SizeConditioning"/>).
/// </summary>
/// <remarks>
/// Source: "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis" (Chen et al., 2023), as implemented in
/// Open-Sora 1.0. An image is a video of one frame; with more frames, attention spans all of them. The names of parameters and buffers are those of
/// Open-Sora.
/// </remarks>
/// <param name="config">The configuration of the model.</param>
/// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized and
/// their memory is not touched.</param>
/// <exception cref="ArgumentException">The configuration is invalid.</exception>
public sealed class PixArt(PixArtConfig config, bool initialize = true) : StdiT(nameof(PixArt), config, initialize);
