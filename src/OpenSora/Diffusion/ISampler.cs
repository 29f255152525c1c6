using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>All that diffusion knows of a model: the output for noisy latents at given time steps.</summary>
/// <param name="x">Noisy latents <c>[batch, channels, ...]</c>.</param>
/// <param name="t">The original process's time steps, <c>[batch]</c>, floating point (fractional for DPM-Solver).</param>
/// <returns><c>[batch, channels or 2 * channels, ...]</c>: the second half holds the learned variance where there is one.</returns>
public delegate Tensor Denoiser(Tensor x, Tensor t);

/// <summary>One finished step of a sampler.</summary>
/// <param name="Step">The step, from 1.</param>
/// <param name="Steps">All steps.</param>
public readonly record struct SamplingStep(int Step, int Steps);

/// <summary>Draws a sample from noise by calling a denoiser repeatedly.</summary>
/// <remarks>Samplers are immutable and may be shared between threads.</remarks>
public interface ISampler
{
    /// <summary>Runs the whole process.</summary>
    /// <param name="denoiser">The model, guidance included (see <see cref="Guidance"/>).</param>
    /// <param name="noise">Standard normal noise of the sample's shape; not changed.</param>
    /// <param name="generator">Source of the noise that stochastic samplers add.</param>
    /// <param name="progress">Told after every step.</param>
    /// <param name="cancellationToken">Looked at before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    Tensor Sample(Denoiser denoiser, Tensor noise, Generator? generator = null, IProgress<SamplingStep>? progress = null,
        CancellationToken cancellationToken = default);
}
