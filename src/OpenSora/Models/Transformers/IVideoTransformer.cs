using OpenSora.Diffusion;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>A network that denoises the latents of a video step by step, conditioned on a description of the video.</summary>
/// <remarks>Implementations hold only weights and can be called from several threads at the same time.</remarks>
public interface IVideoTransformer : IDisposable
{
    /// <summary>The number of channels of the latents.</summary>
    int LatentChannels { get; }

    /// <summary>The numbers of which latent frames, height and width must be multiples; 1 for a network that pads the latents to whole
    /// patches.</summary>
    IReadOnlyList<int> LatentMultiple { get; }

    /// <summary>True if the output has twice the latent channels, and the second half interpolates the variance (Nichol and Dhariwal,
    /// 2021).</summary>
    bool LearnsVariance => false;

    /// <summary>Determines whether a parameter belongs to a part that attends over time, which training on images leaves out.</summary>
    /// <param name="parameter">The name of the parameter in this module.</param>
    bool IsTemporal(string parameter) => false;

    /// <summary>Gets the part of the model that a parameter is counted under, such as <c>cross attention</c>; see
    /// <see cref="ModelExtensions.CountParameters"/>.</summary>
    /// <param name="parameter">The name of the parameter in this module.</param>
    /// <returns>The name of the part; by default, the name of the module that contains the parameter.</returns>
    string ParameterGroup(string parameter) => parameter.Split('.')[0];

    /// <summary>The size of the latents for which the model is configured, <c>[frames, height, width]</c>; null for a model without a fixed
    /// size.</summary>
    IReadOnlyList<int>? LatentSize => null;

    /// <summary>The number of channels of a text state; 1 for a class-conditional model, which receives class labels as text states.</summary>
    int TextWidth { get; }

    /// <summary>The maximum number of tokens in a text.</summary>
    int TextTokens { get; }

    /// <summary>Whether the model supports <see cref="DenoiserConditions.NoisyFrames"/>. Models with tokens that span several frames do
    /// not.</summary>
    bool SupportsNoisyFrames { get; }

    /// <summary>The fraction of texts that training replaces by the null caption, for classifier-free guidance.</summary>
    double CaptionDropout { get; }

    /// <summary>Gets the learned null caption, which guidance uses as the unconditional prompt.</summary>
    /// <param name="batch">The number of copies.</param>
    /// <returns>The null caption, <c>[batch, TextTokens, TextWidth]</c>, owned by the caller.</returns>
    Tensor NullCaption(long batch = 1);

    /// <summary>Predicts the noise or the velocity and, if the variance is learned, its interpolation weights.</summary>
    /// <param name="x">Noisy latents <c>[batch, LatentChannels, frames, height, width]</c>.</param>
    /// <param name="t">Timesteps of the diffusion process, <c>[batch]</c>; they may be fractional.</param>
    /// <param name="conditions">The description and the size of the video; a network ignores the conditions that it does not use.</param>
    /// <returns>The prediction, <c>[batch, LatentChannels or twice as many, frames, height, width]</c>, float32, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A tensor has the wrong shape; the message says which one.</exception>
    Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions);
}

/// <summary>Conditioning inputs of a denoiser. They apply to all videos of a batch, except for the text and the per-video tensors.</summary>
/// <param name="Text">Text states, <c>[batch, tokens, width]</c>.</param>
/// <param name="TextMask">The text mask, <c>[rows, tokens]</c>, nonzero for real tokens; null if all tokens are real. A mask with fewer rows than the
/// batch is repeated as a whole to fill the batch.</param>
public sealed record DenoiserConditions(Tensor Text, Tensor? TextMask = null)
{
    /// <summary>A boolean mask, <c>[batch, latent frames]</c>, false for conditioning frames, which are not noisy; null if all frames are
    /// noisy.</summary>
    public Tensor? NoisyFrames { get; init; }

    /// <summary>A boolean mask, <c>[batch]</c>, true for texts to replace by the null caption. If null, none is replaced, except in training mode,
    /// where texts are replaced at random with probability <see cref="IVideoTransformer.CaptionDropout"/>.</summary>
    public Tensor? DroppedText { get; init; }

    /// <summary>The number of frames of the decoded video, not of its latents.</summary>
    public int Frames { get; init; } = 1;

    /// <summary>The height of the video in pixels.</summary>
    public int Height { get; init; }

    /// <summary>The width of the video in pixels.</summary>
    public int Width { get; init; }

    /// <summary>The frame rate in frames per second; <see cref="ImageFramesPerSecond"/> for a single image.</summary>
    public double FramesPerSecond { get; init; } = 24;

    /// <summary>The frame rate of each video in frames per second, <c>[rows]</c>, float32, if the videos of a batch differ. A tensor with fewer rows
    /// than the batch is repeated as a whole to fill the batch. If null, <see cref="FramesPerSecond"/> applies to all videos.</summary>
    public Tensor? FrameRates { get; init; }

    /// <summary>A token that cancels the computation. The networks of this library check it before each block.</summary>
    public CancellationToken CancellationToken { get; init; }

    /// <summary>The frame rate that denotes a single image in the training of <see cref="StdiT2"/> and <see cref="StdiT3"/>.</summary>
    public const double ImageFramesPerSecond = 120;
}
