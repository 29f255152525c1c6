using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A model as diffusion uses it: computes the output for noisy latents at the specified time steps.</summary>
/// <param name="x">Noisy latents <c>[batch, channels, ...]</c>, float32 or float64; must not be modified or disposed.</param>
/// <param name="t">Time steps of the original process, <c>[batch]</c>, float32, on the device of <paramref name="x"/>; fractional for
/// DPM-Solver.</param>
/// <returns><c>[batch, channels or 2 * channels, ...]</c>; if the model has a learned variance, the second half of the channels holds it.</returns>
/// <remarks>Called in a dispose scope that ends with the step, so a denoiser does not have to dispose the tensors it creates.</remarks>
public delegate Tensor Denoiser(Tensor x, Tensor t);

/// <summary>Turns the output of a denoiser into the latents of the next step. <see cref="Sampling.Sample"/> runs the steps.</summary>
/// <remarks>Samplers are immutable and can be used from several threads at the same time; what belongs to one run is in
/// <see cref="SamplingState"/>.</remarks>
public interface ISampler
{
    /// <summary>The number of latent channels, from the first, that classifier-free guidance applies to in the published use of this sampler; null
    /// for all channels.</summary>
    /// <seealso cref="Sampling.ClassifierFreeGuidance(Denoiser, double, int?)"/>
    int? GuidedChannels { get; }

    /// <summary>Computes the time steps that the denoiser receives, one for each sampling step.</summary>
    /// <param name="shape">The shape of the latents, <c>[batch, channels, ...]</c>.</param>
    /// <exception cref="ArgumentException">The sampler needs another shape.</exception>
    IReadOnlyList<double> Timesteps(long[] shape);

    /// <summary>Computes the latents after a step.</summary>
    /// <param name="state">The state of the run. <see cref="SamplingState.Step"/> is the index of the step.</param>
    /// <param name="x">The latents before the step, <c>[batch, channels, ...]</c>; not modified.</param>
    /// <param name="output">The output of the denoiser for these latents.</param>
    /// <returns>The latents after the step, in the current dispose scope.</returns>
    /// <exception cref="InvalidOperationException">The output does not have the shape that the sampler needs.</exception>
    Tensor Step(SamplingState state, Tensor x, Tensor output);

    /// <summary>Indicates whether the sampler supports conditioning frames (<see cref="Sampling.SampleFrames"/>). Such a sampler also implements
    /// <see cref="Frames"/> and <see cref="AddNoise"/>. The default is false.</summary>
    bool SupportsConditioningFrames => false;

    /// <summary>Determines the roles of the frames in a step with conditioning frames.</summary>
    /// <param name="state">The state of the run.</param>
    /// <param name="fraction">The fraction of the denoising process that is applied to each frame, <c>[batch, frames]</c>, float.</param>
    /// <returns>Boolean masks <c>[batch, frames]</c>: the frames that receive noise before the step because it is their first one, the frames that
    /// the denoiser treats as noisy, and the frames that the step changes.</returns>
    /// <exception cref="NotSupportedException">The sampler does not support conditioning frames.</exception>
    (Tensor Begins, Tensor Noisy, Tensor Changes) Frames(SamplingState state, Tensor fraction) => throw Unsupported();

    /// <summary>Indicates whether the sampler implements <see cref="AddNoise"/>, so that it can begin with an existing sample
    /// (<see cref="Sampling.SampleFrom"/>). The default is the value of <see cref="SupportsConditioningFrames"/>.</summary>
    bool SupportsEditing => SupportsConditioningFrames;

    /// <summary>Adds the noise that latents have at the beginning of a step.</summary>
    /// <param name="state">The state of the run.</param>
    /// <param name="x0">Clean latents, <c>[batch, channels, ...]</c>.</param>
    /// <param name="noise">Standard normal noise of the same shape.</param>
    /// <exception cref="NotSupportedException">The sampler does not support it.</exception>
    Tensor AddNoise(SamplingState state, Tensor x0, Tensor noise) =>
        throw new NotSupportedException(
            $"{GetType().Name} cannot begin with an existing sample; use a sampler with {nameof(SupportsEditing)}, such as {nameof(Ddim)}."
        );

    private NotSupportedException Unsupported() =>
        new(
            $"{GetType().Name} does not support conditioning frames; use a sampler with "
                + $"{nameof(SupportsConditioningFrames)}, such as {nameof(Iddpm)}."
        );
}

/// <summary>The state of one run of a sampler.</summary>
public sealed class SamplingState
{
    private readonly Func<Tensor, Tensor> _noise;

    internal SamplingState(IReadOnlyList<double> timesteps, Func<Tensor, Tensor> noise) => (Timesteps, _noise) = (timesteps, noise);

    /// <summary>The time steps of the run; see <see cref="ISampler.Timesteps"/>.</summary>
    public IReadOnlyList<double> Timesteps { get; }

    /// <summary>The index of the current step.</summary>
    public int Step { get; internal set; }

    /// <summary>A tensor that a sampler keeps for its next step, such as the last prediction of a multistep method; null at first. The loop disposes
    /// it when it is replaced and at the end, so it must not be the latents themselves.</summary>
    public Tensor? Memory { get; set; }

    /// <summary>The clean sample that the sampler predicted in the current step, for previews; null if the sampler does not set it. It belongs to the
    /// dispose scope of the step.</summary>
    public Tensor? Prediction { get; set; }

    /// <summary>Draws standard normal noise with the shape, type and device of a tensor.</summary>
    /// <param name="like">The tensor.</param>
    public Tensor Noise(Tensor like) => _noise(like);
}
