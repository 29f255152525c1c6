using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Samples an <see cref="Iddpm"/> process with DDIM, which adds less noise than ancestral sampling; with eta 0, the initial noise determines
/// the sample.</summary>
/// <remarks>Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16. A learned variance is ignored. Instances are
/// immutable.</remarks>
public sealed class Ddim : ISampler
{
    private readonly Iddpm _process;

    /// <summary>Creates a sampler for a process.</summary>
    /// <param name="process">The process; the steps of its schedule are the sampling steps.</param>
    /// <param name="eta">The amount of noise that each step adds, from 0 (none) to 1 (as much as ancestral sampling).</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="eta"/> is not between 0 and 1.</exception>
    public Ddim(Iddpm process, double eta = 0)
    {
        ArgumentNullException.ThrowIfNull(process);
        if (eta is not (>= 0 and <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(eta), eta, "Eta must be between 0 (deterministic) and 1 (as random as ancestral sampling).");
        }

        _process = process;
        Eta = eta;
    }

    /// <summary>Creates a DDIM sampler for the process of the Open-Sora family.</summary>
    /// <param name="steps">The number of sampling steps, 1 to 1000.</param>
    /// <param name="eta">The amount of noise that each step adds, from 0 to 1.</param>
    public Ddim(int steps = 50, double eta = 0)
        : this(new Iddpm(steps), eta) { }

    /// <summary>The amount of noise that each step adds, from 0 to 1.</summary>
    public double Eta { get; }

    /// <inheritdoc cref="Iddpm.GuidedChannels"/>
    public int? GuidedChannels => Sampling.IddpmGuidedChannels;

    /// <inheritdoc/>
    public IReadOnlyList<double> Timesteps(long[] shape) => _process.Timesteps(shape);

    /// <inheritdoc/>
    public bool SupportsEditing => true;

    Tensor ISampler.AddNoise(SamplingState state, Tensor x0, Tensor noise) => ((ISampler)_process).AddNoise(state, x0, noise);

    /// <inheritdoc/>
    public Tensor Step(SamplingState state, Tensor x, Tensor output)
    {
        ArgumentNullException.ThrowIfNull(state);
        var schedule = _process.Schedule;
        var t = schedule.Steps - 1 - state.Step;
        var p = _process.Denoise(output, x, t);

        state.Prediction = p.X0;

        // The noise implied by the (possibly clipped) prediction of x0.
        var epsilon = (schedule.SqrtRecipAlphasCumprod.At([t], x) * x - p.X0) / schedule.SqrtRecipM1AlphasCumprod.At([t], x);
        var (now, before) = (schedule.AlphasCumprod[t], schedule.AlphasCumprodPrev[t]);
        var sigma = Eta * Math.Sqrt((1 - before) / (1 - now)) * Math.Sqrt(1 - now / before);
        var mean = p.X0.Times(Math.Sqrt(before)).Plus(epsilon.Times(Math.Sqrt(1 - before - sigma * sigma)));
        return sigma == 0 ? mean : mean.Plus(state.Noise(x).Times(sigma));
    }
}
