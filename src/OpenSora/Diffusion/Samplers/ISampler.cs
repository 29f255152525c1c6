using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A model as diffusion uses it: computes the output for noisy latents at the specified time steps.</summary>
/// <param name="x">Noisy latents <c>[batch, channels, ...]</c>, float32 or float64; must not be modified or disposed.</param>
/// <param name="t">Time steps of the original process, <c>[batch]</c>, float32, on the device of <paramref name="x"/>; fractional for
/// DPM-Solver.</param>
/// <returns><c>[batch, channels or 2 * channels, ...]</c>; if the model has a learned variance, the second half of the channels holds it.</returns>
/// <remarks>Called in a dispose scope that ends with the step, so a denoiser does not have to dispose the tensors it creates.</remarks>
public delegate Tensor Denoiser(Tensor x, Tensor t);

/// <summary>A completed step of a sampler.</summary>
/// <param name="Step">The number of the step, from 1.</param>
/// <param name="Steps">The total number of steps.</param>
public readonly record struct SamplingStep(int Step, int Steps);

/// <summary>Draws a sample from noise by calling a denoiser repeatedly.</summary>
/// <remarks>Samplers are immutable and can be used from several threads at the same time.</remarks>
public interface ISampler
{
    /// <summary>The number of latent channels, from the first, that classifier-free guidance applies to in the published use of this sampler; null
    /// for all channels.</summary>
    /// <seealso cref="Guidance"/>
    int? GuidedChannels { get; }

    /// <summary>Runs the whole sampling process.</summary>
    /// <param name="denoiser">The model, including guidance (see <see cref="Guidance"/>).</param>
    /// <param name="noise">Standard normal noise with the shape of the sample, <c>[batch, channels, ...]</c>, float32 or float64; not
    /// modified.</param>
    /// <param name="generator">The random generator for the noise that stochastic samplers add; null uses the global generator.</param>
    /// <param name="progress">Receives a report after every step.</param>
    /// <param name="cancellationToken">A token to cancel the operation, checked before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The noise has an invalid type or shape.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output does not have the shape that the sampler needs.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled; all intermediate tensors are disposed.</exception>
    Tensor Sample(
        Denoiser denoiser,
        Tensor noise,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    );
}

/// <summary>Computes a model's output for videos with conditioning frames.</summary>
/// <param name="x">Latents <c>[batch, channels, frames, height, width]</c>.</param>
/// <param name="t">Time steps, <c>[batch]</c>.</param>
/// <param name="noisyFrames"><c>[batch, frames]</c>, boolean: true for noisy frames, false for clean frames (time 0).</param>
/// <returns>The output, <c>[batch, channels or 2 * channels, frames, height, width]</c>.</returns>
public delegate Tensor FrameDenoiser(Tensor x, Tensor t, Tensor noisyFrames);

/// <summary>A sampler that supports conditioning frames.</summary>
public interface IFrameSampler : ISampler
{
    /// <summary>Generates the frames of a video that are not conditioning frames, for example to continue a video or to fill a gap.</summary>
    /// <param name="denoiser">The model, including guidance; it receives the mask of noisy frames.</param>
    /// <param name="latents">The latents of the conditioning frames, and standard normal noise for all other frames:
    /// <c>[batch, channels, frames, height, width]</c>, float32 or float64; not modified.</param>
    /// <param name="share">The fraction of the denoising process that is applied to each frame, <c>[batch, frames]</c>, float. 1 generates the frame
    /// from noise and 0 keeps it (at most the process's first step is applied). A value in between adds noise to a conditioning frame up to the
    /// corresponding time and denoises it from there.</param>
    /// <param name="generator">The random generator for the noise that is added to such frames; null uses the global generator.</param>
    /// <param name="progress">Receives a report after every step.</param>
    /// <param name="cancellationToken">A token to cancel the operation, checked before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape is invalid.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output does not have the shape that the sampler needs.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled; all intermediate tensors are disposed.</exception>
    Tensor SampleFrames(
        FrameDenoiser denoiser,
        Tensor latents,
        Tensor share,
        Generator? generator = null,
        IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default
    );
}
