using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>An existing sample that a run begins with (<see cref="Sampling.SampleFrom"/>).</summary>
/// <param name="Original">The clean sample, <c>[batch, channels, ...]</c>.</param>
/// <param name="Noise">Standard normal noise of the same shape, which is added to it.</param>
/// <param name="Strength">The fraction of the steps to sample, from above 0 to 1.</param>
/// <param name="Mask">True for the part to generate; null for all of it.</param>
internal sealed record SamplingEdit(Tensor Original, Tensor Noise, double Strength, Tensor? Mask)
{
    /// <summary>Computes the number of steps to sample: the fraction of all steps, rounded up.</summary>
    internal static int Steps(double strength, int all) => (int)Math.Ceiling(Math.Round(strength * all, 6));

    /// <summary>Sets the first step of a run, and adds its noise to the sample.</summary>
    internal Tensor Begin(ISampler sampler, SamplingState state)
    {
        var all = state.Timesteps.Count;
        state.Step = all - Steps(Strength, all);
        return sampler.AddNoise(state, Original, Noise);
    }

    /// <summary>Replaces the kept part of the latents after a step by the original with the noise of the next step; after the last step, by the
    /// original.</summary>
    internal Tensor Keep(ISampler sampler, SamplingState state, Tensor next)
    {
        if (Mask is null)
        {
            return next;
        }

        if (state.Step == state.Timesteps.Count - 1)
        {
            return where(Mask, next, Original);
        }

        state.Step++;
        var kept = sampler.AddNoise(state, Original, Noise);
        state.Step--;
        return where(Mask, next, kept);
    }
}
