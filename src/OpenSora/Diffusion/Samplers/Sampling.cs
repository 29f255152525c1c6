using OpenSora.Runtime;
using static OpenSora.Runtime.TensorArithmetic;
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

    /// <summary>Draws a sample that begins with an existing one: noise is added to it up to a step, and the remaining steps are sampled. With a mask,
    /// only a part of it changes.</summary>
    /// <remarks>Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations". With a mask, the kept part is
    /// replaced after each step by the original with the noise of that step, as in Avrahami et al. 2022, "Blended Diffusion", and at the end by the
    /// original.</remarks>
    /// <param name="sampler">A sampler that can begin with an existing sample (<see cref="ISampler.SupportsEditing"/>).</param>
    /// <param name="denoiser">The model, including guidance.</param>
    /// <param name="original">The clean existing sample, <c>[batch, channels, ...]</c>, float32 or float64; not modified.</param>
    /// <param name="strength">The fraction of the steps to sample, from above 0 to 1, rounded up to whole steps. A higher value changes more; with 1,
    /// almost nothing of the original remains where there is no mask.</param>
    /// <param name="mask">A boolean mask that can be broadcast to the sample: true for the part to generate, false for the part to keep; null to
    /// generate everything.</param>
    /// <param name="generator">The random generator of the noise; null uses the global generator.</param>
    /// <param name="progress">Receives the number of completed steps after every step, including the steps that are left out.</param>
    /// <param name="cancellationToken">A token to cancel the operation, checked before every step.</param>
    /// <returns>The sample, owned by the caller.</returns>
    /// <exception cref="ArgumentException">The sample has an invalid type or shape, or the strength is out of range.</exception>
    /// <exception cref="NotSupportedException">The sampler cannot begin with an existing sample.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled; all intermediate tensors are disposed.</exception>
    public static Tensor SampleFrom(
        this ISampler sampler,
        Denoiser denoiser,
        Tensor original,
        double strength,
        Tensor? mask = null,
        Generator? generator = null,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(sampler);
        ArgumentNullException.ThrowIfNull(denoiser);
        Check(original);
        if (strength is not (> 0 and <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(strength), strength, "The strength must be above 0 and at most 1.");
        }

        using var scope = NewDisposeScope();
        var source = Gaussian(generator);
        var edit = new SamplingEdit(original, source(original), strength, mask);
        return Run(sampler, (x, t, _) => denoiser(x, t), original, null, source, sampler.Timesteps(original.shape), progress, cancellationToken, edit)
            .MoveToOuterDisposeScope();
    }

    /// <summary>The loop of all samplers. Each step has a dispose scope of its own for its intermediate tensors.</summary>
    /// <param name="sampler">The sampler.</param>
    /// <param name="denoiser">The model: a function of latents, time steps and, with <paramref name="fraction"/>, the noisy frames.</param>
    /// <param name="latents">The initial latents; with <paramref name="edit"/>, only their shape counts.</param>
    /// <param name="fraction">The fraction of the process for each frame; null without conditioning frames.</param>
    /// <param name="noise">The source of the noise that is added.</param>
    /// <param name="timesteps">The time steps of the run.</param>
    /// <param name="progress">Receives the number of completed steps.</param>
    /// <param name="cancellationToken">Checked before every step.</param>
    /// <param name="edit">The existing sample to begin with, or null.</param>
    /// <param name="predicted">Receives the number of completed steps and the clean sample that the step predicts, within the scope of the
    /// step.</param>
    internal static Tensor Run(
        ISampler sampler,
        Func<Tensor, Tensor, Tensor?, Tensor> denoiser,
        Tensor latents,
        Tensor? fraction,
        Func<Tensor, Tensor> noise,
        IReadOnlyList<double> timesteps,
        IProgress<int>? progress = null,
        CancellationToken cancellationToken = default,
        SamplingEdit? edit = null,
        Action<int, Tensor>? predicted = null
    )
    {
        using var noGradients = no_grad();
        using var scope = NewDisposeScope();
        var state = new SamplingState(timesteps, noise);
        var x = edit?.Begin(sampler, state) ?? latents;
        for (; state.Step < timesteps.Count; state.Step++)
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
                var t = Full([x.shape[0]], (float)timesteps[state.Step], ScalarType.Float32, x.device);
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

                predicted?.Invoke(state.Step + 1, state.Prediction ?? next);
                next = edit?.Keep(sampler, state, next) ?? next;
                x = NoisyFrames.Choose(changes, next, x).MoveToOuterDisposeScope();
                state.Memory?.MoveToOuterDisposeScope();
                state.Prediction = null;
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
