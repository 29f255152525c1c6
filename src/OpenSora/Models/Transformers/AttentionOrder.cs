namespace OpenSora.Models;

/// <summary>How the blocks of a video transformer attend within frames and along time.</summary>
public enum AttentionOrder
{
    /// <summary>Every block attends within each frame, then along time at each place (Open-Sora 1.0: STDiT). Time's attention has parameters of its
    /// own.</summary>
    Serial,

    /// <summary>As <see cref="Serial"/>, but both attentions of a block read its input, and their outputs are added.</summary>
    Parallel,

    /// <summary>The blocks take turns: even ones attend within frames, odd ones along time ("Latte", Ma et al., 2024, variant 1).</summary>
    Interleaved,

    /// <summary>Every token attends to those of all frames (DiT over video): the dearer the more frames there are.</summary>
    Full,
}
