namespace OpenSora.Models;

// Latte ("Latte: Latent Diffusion Transformer for Video Generation", Ma et al., 2024), variant 1, as implemented in Open-Sora 1.0. Its blocks are
// those of DiT; even-numbered blocks attend within frames and odd-numbered blocks along time, so its cost grows linearly with the number of frames
// instead of quadratically. The positions of frames are added to the tokens once, before the first block that attends along time. The names of
// parameters and buffers are those of Open-Sora. The official model applies guidance to all four latent channels.
public sealed partial record DiTConfig
{
    /// <summary>The configuration of Latte-XL/2 (Ma et al., 2024): a DiT with blocks that alternate between attention within frames and along
    /// time.</summary>
    public static DiTConfig Latte { get; } = new() { AttentionOrder = AttentionOrder.Interleaved };
}

public sealed partial class DiT
{
    /// <summary>The descriptor of Latte, a <see cref="DiT"/> with interleaved attention.</summary>
    internal static Architecture<IVideoTransformer> Latte { get; } =
        Architecture<IVideoTransformer>.Of(
            "latte",
            config => new DiT(config, initialize: false),
            DiTConfig.Latte,
            json: DiTJson.Default.DiTConfig
        ) with
        {
            Loading = (_, _) => PublishedWeights.Options(),
            Recognizer = file => IsIn(file) is { } shapes ? [CandidateOf(shapes, DiTConfig.Latte, "Latte")] : [],
        };
}
