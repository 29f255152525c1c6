using OpenSora.Runtime;

namespace OpenSora.Generation;

/// <summary>The memory that a request needs, in bytes, estimated from the configurations of the networks. Only tensors and frames are counted, not
/// the program and its libraries.</summary>
/// <remarks>Custom networks count with their weights only. On the CPU, all values refer to the memory of the machine; on a GPU, all values except
/// <see cref="Frames"/> refer to the memory of the GPU.</remarks>
public sealed record MemoryEstimate
{
    internal MemoryEstimate() { }

    /// <summary>Gets the memory of the weights that are loaded during the whole request. All requests of a generator share them.</summary>
    public long Weights { get; internal init; }

    /// <summary>Gets the memory for encoding the prompt, including the weights of the text encoder if it is unloaded afterwards
    /// (<see cref="OpenSoraOptions.TextEncoderResidency"/>). The same applies to the other stages.</summary>
    public long TextEncoding { get; internal init; }

    /// <summary>Gets the memory for denoising: the activations of the transformer and the latents. With guidance, the transformer processes two
    /// videos at a time.</summary>
    public long Denoising { get; internal init; }

    /// <summary>Gets the memory for decoding the latents in pieces of the size that <see cref="OpenSoraOptions.DecodeMemory"/> or the available
    /// memory currently allows.</summary>
    public long Decoding { get; internal init; }

    /// <summary>Gets the memory of the generated frames.</summary>
    public long Frames { get; internal init; }

    /// <summary>Gets the maximum memory in use at any time. The stages follow one another, so it is less than the sum.</summary>
    public long Peak => Weights + Math.Max(Math.Max(TextEncoding, Denoising), Decoding + Frames);

    /// <summary>Formats the estimate for a log.</summary>
    public override string ToString() =>
        $"{Sizes.Text(Peak)} (weights {Sizes.Text(Weights)}, text encoding {Sizes.Text(TextEncoding)}, denoising {Sizes.Text(Denoising)}, "
        + $"decoding {Sizes.Text(Decoding)}, frames {Sizes.Text(Frames)})";
}
