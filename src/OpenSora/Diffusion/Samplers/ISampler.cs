using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>All that diffusion knows of a model: the output for noisy latents at given time steps.</summary>
/// <param name="x">Noisy latents <c>[batch, channels, ...]</c>, float32 or float64; not to be changed or disposed of.</param>
/// <param name="t">The original process's time steps, <c>[batch]</c>, float32 on the device of <paramref name="x"/> (fractional for
/// DPM-Solver).</param>
/// <returns><c>[batch, channels or 2 * channels, ...]</c>: the second half holds the learned variance where there is one.</returns>
/// <remarks>Called within a dispose scope that ends with the step, so a denoiser need not dispose of what it makes.</remarks>
public delegate Tensor Denoiser(Tensor x, Tensor t);

/// <summary>One finished step of a sampler.</summary>
/// <param name="Step">The step, from 1.</param>
/// <param name="Steps">All steps.</param>
public readonly record struct SamplingStep(int Step, int Steps);

/// <summary>Draws a sample from noise by calling a denoiser repeatedly.</summary>
/// <remarks>Samplers are immutable and may be shared between threads.</remarks>
public interface ISampler
{
    /// <summary>The latent channels that classifier-free guidance acts on, as published with this sampler; null for all of them.</summary>
    /// <seealso cref="Guidance"/>
    int? GuidedChannels { get; }

    /// <summary>Runs the whole process.</summary>
    /// <param name="denoiser">The model, guidance included (see <see cref="Guidance"/>).</param>
    /// <param name="noise">Standard normal noise of the sample's shape, <c>[batch, channels, ...]</c>, float32 or float64; not changed.</param>
    /// <param name="generator">Source of the noise that stochastic samplers add; null takes the global generator.</param>
    /// <param name="progress">Told after every step.</param>
    /// <param name="cancellationToken">Looked at before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The noise is of a wrong type or shape.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output has another shape than the sampler needs.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; no tensor is left behind.</exception>
    Tensor Sample(
        Denoiser denoiser,
        Tensor noise,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    );
}

/// <summary>A denoiser of videos of which some frames are given.</summary>
/// <param name="x">Latents <c>[batch, channels, frames, height, width]</c>.</param>
/// <param name="t">Time steps, <c>[batch]</c>.</param>
/// <param name="noisyFrames"><c>[batch, frames]</c>, boolean: false where a frame is clean, at time 0.</param>
/// <returns><c>[batch, channels or 2 * channels, frames, height, width]</c></returns>
public delegate Tensor FrameDenoiser(Tensor x, Tensor t, Tensor noisyFrames);

/// <summary>A sampler that can also complete videos of which some frames are given.</summary>
public interface IFrameSampler : ISampler
{
    /// <summary>Makes the frames of a video that are not given: continues it, or fills in between.</summary>
    /// <param name="denoiser">The model, guidance included; told which frames are noisy.</param>
    /// <param name="latents">Given frames, and standard normal noise elsewhere: <c>[batch, channels, frames, height, width]</c>, float32 or float64;
    /// not changed.</param>
    /// <param name="share">How much of each frame is made anew, <c>[batch, frames]</c>, float: 1 all of it, 0 nothing (or what the process's
    /// first step makes of it), and between these a given frame is taken back to that time and made again from there.</param>
    /// <param name="generator">Source of the noise that such frames get; null takes the global generator.</param>
    /// <param name="progress">Told after every step.</param>
    /// <param name="cancellationToken">Looked at before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output has another shape than the latents.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; no tensor is left behind.</exception>
    Tensor SampleFrames(
        FrameDenoiser denoiser,
        Tensor latents,
        Tensor share,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    );
}
