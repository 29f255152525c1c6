namespace OpenSora.Models;

/// <summary>The order in which the blocks of a video transformer attend within frames and along time.</summary>
public enum AttentionOrder
{
    /// <summary>Every block attends within each frame, then along time at each spatial position (Open-Sora 1.0: STDiT). The attention along time has
    /// its own parameters.</summary>
    Serial,

    /// <summary>Every block attends within each frame and along time, as with <see cref="Serial"/>, but both attentions read the input of the block,
    /// and their outputs are added.</summary>
    Parallel,

    /// <summary>The blocks alternate: even-numbered blocks attend within frames, odd-numbered blocks along time ("Latte", Ma et al., 2024, variant
    /// 1).</summary>
    Interleaved,

    /// <summary>Every token attends to the tokens of all frames (DiT over video). The cost of attention grows with the square of the number of
    /// frames.</summary>
    Full,
}
