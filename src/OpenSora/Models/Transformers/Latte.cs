namespace OpenSora.Models;

/// <summary>Sizes and choices of a <see cref="Latte"/>: those of a DiT, whose blocks take turns.</summary>
public sealed record LatteConfig : DiTConfig
{
    /// <summary>The published choices.</summary>
    public LatteConfig() => AttentionOrder = AttentionOrder.Interleaved;

    /// <summary>Names that <see cref="Preset"/> knows (Ma et al., 2024, table 1) with patches of 1x2x2, or of 2x2x2 as Open-Sora has it
    /// too.</summary>
    public static new IReadOnlyList<string> Presets { get; } = ["Latte-S/2", "Latte-B/2", "Latte-L/2", "Latte-XL/2", "Latte-XL/2x2"];

    /// <summary>The sizes of a named model: those of the DiT of the same letter.</summary>
    /// <param name="name">One of <see cref="Presets"/>; <c>Latte-XL/2</c> is the published one.</param>
    /// <exception cref="ArgumentException">The name is not known.</exception>
    public static new LatteConfig Preset(string name) => Named(new LatteConfig(), name, Presets);
}

/// <summary>
/// Latte: a <see cref="DiT"/> over video whose even blocks attend within frames and whose odd blocks attend along time, so that its cost grows with
/// the
/// number of frames rather than with its square.
/// </summary>
/// <remarks>
/// Source: "Latte: Latent Diffusion Transformer for Video Generation" (Ma et al., 2024), variant 1, as Open-Sora 1.0 has it. The positions of frames
/// join the
/// tokens once, before the first block that attends along time. Names of parameters and buffers are Open-Sora's. The official model guides all four
/// latent
/// channels.
/// </remarks>
/// <param name="config">Sizes and choices.</param>
/// <param name="initialize">False leaves the parameters unset and untouched in memory, for weights that are loaded next.</param>
/// <exception cref="ArgumentException">The configuration is wrong.</exception>
public sealed class Latte(LatteConfig config, bool initialize = true) : DiT(nameof(Latte), config, initialize);
