namespace OpenSora.Models;

/// <summary>Configuration of a <see cref="Latte"/>: that of a DiT with blocks that alternate between attention within frames and along
/// time.</summary>
public sealed record LatteConfig : DiTConfig
{
    /// <summary>Initializes the published configuration.</summary>
    public LatteConfig() => AttentionOrder = AttentionOrder.Interleaved;

    /// <summary>The names that <see cref="Preset"/> accepts (Ma et al., 2024, table 1), with patches of 1x2x2, or of 2x2x2 as Open-Sora also
    /// has.</summary>
    public static new IReadOnlyList<string> Presets { get; } = ["Latte-S/2", "Latte-B/2", "Latte-L/2", "Latte-XL/2", "Latte-XL/2x2"];

    /// <summary>Gets the configuration of a named model, which has the sizes of the DiT with the same letter.</summary>
    /// <param name="name">One of <see cref="Presets"/>; <c>Latte-XL/2</c> is the published model.</param>
    /// <exception cref="ArgumentException">The name is unknown.</exception>
    public static new LatteConfig Preset(string name) => Named(new LatteConfig(), name, Presets);
}

/// <summary>
/// Latte: a <see cref="DiT"/> over video in which even-numbered blocks attend within frames and odd-numbered blocks attend along time. Its cost grows
/// linearly with the number of frames instead of quadratically.
/// </summary>
/// <remarks>
/// Source: "Latte: Latent Diffusion Transformer for Video Generation" (Ma et al., 2024), variant 1, as implemented in Open-Sora 1.0. The positions of
/// frames are added to the tokens once, before the first block that attends along time. The names of parameters and buffers are those of Open-Sora.
/// The official model applies guidance to all four latent channels.
/// </remarks>
/// <param name="config">The configuration of the model.</param>
/// <param name="initialize">Whether to initialize the parameters. Pass false if weights are loaded next: the parameters then stay uninitialized and
/// their memory is not touched.</param>
/// <exception cref="ArgumentException">The configuration is invalid.</exception>
public sealed class Latte(LatteConfig config, bool initialize = true) : DiT(nameof(Latte), config, initialize);
