using OpenSora.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>A network that denoises the latents of a video step by step, told what the video shows.</summary>
/// <remarks>Implementations hold weights only and are safe to call from several threads at once.</remarks>
public interface IVideoTransformer : IDisposable
{
    /// <summary>Channels of the latents.</summary>
    int LatentChannels { get; }

    /// <summary>What latent frames, height and width must be multiples of; 1 for a network that pads them to its patches itself.</summary>
    IReadOnlyList<int> LatentMultiple { get; }

    /// <summary>The size of the latents that the model is configured for, <c>[frames, height, width]</c>; null for a model that has no size of its
    /// own.</summary>
    IReadOnlyList<int>? LatentSize => null;

    /// <summary>Channels of a text state. 1 for a model of classes, whose states are class numbers.</summary>
    int TextWidth { get; }

    /// <summary>The most tokens of a text.</summary>
    int TextTokens { get; }

    /// <summary>Whether <see cref="DenoiserConditions.NoisyFrames"/> are understood; not where a token covers several frames.</summary>
    bool SupportsNoisyFrames { get; }

    /// <summary>The share of texts that training replaces by the null caption, for classifier-free guidance.</summary>
    double CaptionDropout { get; }

    /// <summary>The learned null caption, what guidance takes for an unconditional prompt.</summary>
    /// <param name="batch">How many copies.</param>
    /// <returns><c>[batch, TextTokens, TextWidth]</c>, owned by the caller.</returns>
    Tensor NullCaption(long batch = 1);

    /// <summary>Predicts the noise or the velocity, and the variance's interpolation weights where they are learned.</summary>
    /// <param name="x">Noisy latents <c>[batch, LatentChannels, frames, height, width]</c>.</param>
    /// <param name="t">The process's time steps, <c>[batch]</c>, integers or fractions.</param>
    /// <param name="conditions">What the video shows and how large it is; what a network does not use is left unused.</param>
    /// <returns><c>[batch, LatentChannels or twice as many, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit; the message says which.</exception>
    Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions);
}

/// <summary>What a transformer is told of the videos it denoises: of all in a batch the same, apart from text and frames.</summary>
/// <param name="Text">Text states <c>[batch, tokens, width]</c>.</param>
/// <param name="TextMask">Which tokens are text: <c>[rows, tokens]</c>, not 0 = real token; null = all. Fewer rows than the batch are repeated over
/// it as a whole.</param>
public sealed record DenoiserConditions(Tensor Text, Tensor? TextMask = null)
{
    /// <summary><c>[batch, frames of the latents]</c>, boolean: false where a frame is given, and clean; null = all are noisy.</summary>
    public Tensor? NoisyFrames { get; init; }

    /// <summary><c>[batch]</c>, boolean: true where the text is replaced by the null caption; null: nowhere, but in training mode at random, as often
    /// as
    /// <see cref="IVideoTransformer.CaptionDropout"/> says.</summary>
    public Tensor? DroppedText { get; init; }

    /// <summary>Frames of the video, in pixels rather than latents.</summary>
    public int Frames { get; init; } = 1;

    /// <summary>Height in pixels.</summary>
    public int Height { get; init; }

    /// <summary>Width in pixels.</summary>
    public int Width { get; init; }

    /// <summary>Frames a second; <see cref="ImageFramesPerSecond"/> for a single one.</summary>
    public double FramesPerSecond { get; init; } = 24;

    /// <summary><c>[rows]</c>, float32: frames a second of each video, where they differ; fewer rows than the batch are repeated over it as a whole.
    /// Null: <see cref="FramesPerSecond"/> of all.</summary>
    public Tensor? FrameRates { get; init; }

    /// <summary>The frame rate by which <see cref="StdiT2"/> and <see cref="StdiT3"/> know single images, as in their training.</summary>
    public const double ImageFramesPerSecond = 120;
}
