using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Runs samplers, and applies guidance.</summary>
public static partial class Sampling
{
    /// <summary>Draws a sample from noise by calling a denoiser repeatedly.</summary>
    /// <param name="sampler">The sampler.</param>
    /// <param name="denoiser">The model, including guidance (see
    /// <see cref="ClassifierFreeGuidance(Denoiser, double, int?)"/>).</param>
    /// <param name="noise">Standard normal noise with the shape of the sample, <c>[batch, channels, ...]</c>, float32 or float64; not
    /// modified.</param>
    /// <param name="generator">The random generator for the noise that stochastic samplers add; null uses the global generator.</param>
    /// <param name="progress">Receives the number of completed steps after every step.</param>
    /// <param name="cancellationToken">A token to cancel the operation, checked before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The noise has an invalid type or shape.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output does not have the shape that the sampler needs, or a custom sampler returned
    /// latents of another shape.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled; all intermediate tensors are disposed.</exception>
    public static Tensor Sample(
        this ISampler sampler,
        Denoiser denoiser,
        Tensor noise,
        Generator? generator = null,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(sampler);
        ArgumentNullException.ThrowIfNull(denoiser);
        return SampleWith(sampler, denoiser, noise, Gaussian(generator), progress, cancellationToken);
    }

    /// <summary>Draws a sample with the noise of a function, such as recorded noise.</summary>
    internal static Tensor SampleWith(
        ISampler sampler,
        Denoiser denoiser,
        Tensor noise,
        Func<Tensor, Tensor> stepNoise,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        Check(noise);
        return Run(sampler, (x, t, _) => denoiser(x, t), noise, null, stepNoise, sampler.Timesteps(noise.shape), progress, cancellationToken);
    }

    /// <summary>Generates the frames of a video that are not conditioning frames, for example to continue a video or to fill a gap.</summary>
    /// <param name="sampler">A sampler that supports conditioning frames (<see cref="ISampler.SupportsConditioningFrames"/>).</param>
    /// <param name="denoiser">The model, including guidance: a function of latents <c>[batch, channels, frames, height, width]</c>, time steps
    /// <c>[batch]</c> and a boolean mask <c>[batch, frames]</c>: true for noisy frames, false for clean frames (time 0).</param>
    /// <param name="latents">The latents of the conditioning frames, and standard normal noise for all other frames:
    /// <c>[batch, channels, frames, height, width]</c>, float32 or float64; not modified.</param>
    /// <param name="fraction">The fraction of the denoising process that is applied to each frame, <c>[batch, frames]</c>, float. 1 generates the
    /// frame from noise and 0 keeps it (at most the process's first step is applied). A value in between adds noise to a conditioning frame up to the
    /// corresponding time and denoises it from there.</param>
    /// <param name="generator">The random generator for the noise that is added to such frames; null uses the global generator.</param>
    /// <param name="progress">Receives the number of completed steps after every step.</param>
    /// <param name="cancellationToken">A token to cancel the operation, checked before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape is invalid.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output does not have the shape that the sampler needs, or a custom sampler returned
    /// latents of another shape.</exception>
    /// <exception cref="NotSupportedException">The sampler does not support conditioning frames.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled; all intermediate tensors are disposed.</exception>
    public static Tensor SampleFrames(
        this ISampler sampler,
        Func<Tensor, Tensor, Tensor, Tensor> denoiser,
        Tensor latents,
        Tensor fraction,
        Generator? generator = null,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(sampler);
        ArgumentNullException.ThrowIfNull(denoiser);
        ArgumentNullException.ThrowIfNull(fraction);
        Check(latents);
        var timesteps = sampler.Timesteps(latents.shape);
        return Run(sampler, (x, t, noisy) => denoiser(x, t, noisy!), latents, fraction, Gaussian(generator), timesteps, progress, cancellationToken);
    }

    /// <summary>The loop of all samplers. Each step has a dispose scope of its own for its intermediate tensors.</summary>
    internal static Tensor Run(
        ISampler sampler,
        Func<Tensor, Tensor, Tensor?, Tensor> denoiser,
        Tensor latents,
        Tensor? fraction,
        Func<Tensor, Tensor> noise,
        IReadOnlyList<double> timesteps,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var state = new SamplingState(timesteps, noise);
        var x = latents;
        for (state.Step = 0; state.Step < timesteps.Count; state.Step++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var (before, memory) = (x, state.Memory);
            using (NewDisposeScope())
            {
                // 1. Conditioning frames whose denoising begins with this step receive noise.
                Tensor? noisy = null;
                Tensor? changes = null;
                if (fraction is not null)
                {
                    (var begins, noisy, changes) = sampler.Frames(state, fraction);
                    x = NoisyFrames.Choose(begins, sampler.AddNoise(state, x, state.Noise(x)), x);
                }

                // 2. The model predicts.
                var t = full(x.shape[0], (float)timesteps[state.Step], dtype: ScalarType.Float32, device: x.device);
                var output = denoiser(x, t, noisy);

                // 3. The sampler takes the step.
                var next = sampler.Step(state, x, output);
                if (!next.shape.AsSpan().SequenceEqual(x.shape))
                {
                    throw new InvalidOperationException(
                        $"{sampler.GetType().Name}.{nameof(sampler.Step)} returned latents of shape {Shapes.Text(next)} for latents of shape "
                            + $"{Shapes.Text(x)}; the same shape is expected."
                    );
                }

                x = NoisyFrames.Choose(changes, next, x).MoveToOuterDisposeScope();
                state.Memory?.MoveToOuterDisposeScope();
            }

            if (!ReferenceEquals(before, latents) && !ReferenceEquals(before, x))
            {
                before.Dispose();
            }

            if (!ReferenceEquals(memory, state.Memory))
            {
                memory?.Dispose();
            }

            progress?.Report(state.Step + 1);
        }

        return ReferenceEquals(x, latents) ? x.alias().MoveToOuterDisposeScope() : x.MoveToOuterDisposeScope();
    }

    /// <summary>A source of standard normal noise with the shape, type and device of its argument.</summary>
    internal static Func<Tensor, Tensor> Gaussian(Generator? generator) =>
        like =>
            generator is null || generator.device.type == like.device.type
                ? randn(like.shape, dtype: like.dtype, device: like.device, generator: generator)
                : randn(like.shape, dtype: like.dtype, device: generator.device, generator: generator).to(like.device);

    /// <summary>Requires a denoiser's output with the shape of the latents, or a multiple of their channels.</summary>
    internal static void CheckOutput(Tensor output, Tensor x, int factor, string reason)
    {
        var expected = x.shape;
        expected[1] *= factor;
        if (!output.shape.AsSpan().SequenceEqual(expected))
        {
            throw new InvalidOperationException(
                $"The denoiser returned {Shapes.Text(output)} for latents of shape {Shapes.Text(x)}; expected {Shapes.Text(expected)}: {reason}."
            );
        }
    }

    private static void Check(Tensor noise)
    {
        ArgumentNullException.ThrowIfNull(noise);
        if (noise.dtype is not (ScalarType.Float32 or ScalarType.Float64) || noise.dim() < 2)
        {
            throw new ArgumentException(
                $"Noise must be float32 or float64 of shape [batch, channels, ...], got {noise.dtype} of shape {Shapes.Text(noise)}. "
                    + "Sampling uses this type regardless of the model's type.",
                nameof(noise)
            );
        }
    }
}
