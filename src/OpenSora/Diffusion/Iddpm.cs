using OpenSora.Runtime;
using static OpenSora.Runtime.Scopes;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A denoising diffusion process with, by default, learned variances: its training losses and its ancestral sampling.</summary>
/// <remarks>
/// Ho et al. 2020, "Denoising Diffusion Probabilistic Models"; Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models". Time
/// steps <c>t</c> are those of <see cref="Schedule"/>, from 0 (least noise) to Steps - 1; the denoiser receives the steps of the original process.
/// Instances are immutable and can be used from several threads at the same time.
/// </remarks>
public sealed partial class Iddpm : ISampler, ITrainingProcess
{
    private readonly Prediction _prediction;
    private readonly Variance _variance;
    private readonly DiffusionLoss _loss;
    private readonly bool _clipDenoised;
    private readonly double? _minSnrGamma;

    /// <summary>Creates a process. Use the full schedule for training and a respaced one for sampling. The defaults are those of Open-Sora 1.0, DiT,
    /// PixArt and Latte.</summary>
    /// <param name="schedule">The noise schedule; its steps are the sampling steps.</param>
    /// <param name="prediction">The quantity that the model predicts.</param>
    /// <param name="variance">The source of the variance of a step.</param>
    /// <param name="loss">The loss that training minimizes.</param>
    /// <param name="minSnrGamma">The gamma of min-SNR weighting: the squared error of every step, expressed as an error of the clean sample, is
    /// weighted by min(SNR, gamma), so that steps with little noise do not dominate (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR
    /// Weighting Strategy", which uses 5). The variational bound is not affected. Null disables the weighting.</param>
    /// <param name="clipDenoised">true to clamp the predicted clean sample to [-1, 1] while sampling. Use this for pixels only; latents have a wider
    /// range.</param>
    /// <exception cref="ArgumentException">An argument is invalid.</exception>
    public Iddpm(
        IddpmSchedule schedule,
        Prediction prediction = Prediction.Noise,
        Variance variance = Variance.LearnedRange,
        DiffusionLoss loss = DiffusionLoss.Mse,
        double? minSnrGamma = null,
        bool clipDenoised = false
    )
    {
        ArgumentNullException.ThrowIfNull(schedule);
        if (minSnrGamma is { } gamma && (!(double.IsFinite(gamma) && gamma > 0) || loss is DiffusionLoss.Kl or DiffusionLoss.RescaledKl))
        {
            throw new ArgumentException(
                $"The gamma of min-SNR weighting is {gamma} with the loss {loss}; it must be greater than 0 and applies to squared errors only: use "
                    + $"the loss {DiffusionLoss.Mse} or {DiffusionLoss.RescaledMse}, or set it to null.",
                nameof(minSnrGamma)
            );
        }

        Schedule = schedule;
        _prediction = Defined(prediction, nameof(prediction));
        _variance = Defined(variance, nameof(variance));
        _loss = Defined(loss, nameof(loss));
        (_clipDenoised, _minSnrGamma) = (clipDenoised, minSnrGamma);
    }

    /// <summary>Creates the sampling process of the Open-Sora family: a linear schedule with 1000 steps, respaced, and a learned variance.</summary>
    /// <param name="steps">The number of sampling steps, 1 to 1000. Open-Sora 1.0 uses 100.</param>
    public Iddpm(int steps = 100)
        : this(IddpmSchedule.Linear().Respace(steps)) { }

    private static T Defined<T>(T value, string name)
        where T : struct, Enum =>
        Enum.IsDefined(value)
            ? value
            : throw new ArgumentOutOfRangeException(name, value, $"The value must be one of {string.Join(", ", Enum.GetNames<T>())}.");

    /// <summary>The noise schedule.</summary>
    public IddpmSchedule Schedule { get; }

    /// <summary>Returns a short description of the parameterization, which is stored in checkpoints.</summary>
    public override string ToString() =>
        FormattableString.Invariant(
            $"{nameof(Iddpm)} of {Schedule.Steps} steps to {Schedule.SqrtAlphasCumprod[^1]:G3}, {_prediction}, {_variance}, {_loss}"
        ) + (_minSnrGamma is { } gamma ? FormattableString.Invariant($", min-SNR {gamma:R}") : "");

    /// <summary>Gets 3: the official DiT, PixArt and Open-Sora 1.0 apply guidance to the first three latent channels only.</summary>
    public int? GuidedChannels => Sampling.IddpmGuidedChannels;

    /// <inheritdoc/>
    public bool SupportsConditioningFrames => true;

    /// <inheritdoc/>
    public IReadOnlyList<double> Timesteps(long[] shape) => [.. Schedule.TimestepMap.Reverse().Select(t => (double)t)];

    /// <inheritdoc/>
    public Tensor Step(SamplingState state, Tensor x, Tensor output)
    {
        ArgumentNullException.ThrowIfNull(state);
        var t = TimeOf(state);
        var p = Denoise(output, x, t);
        state.Prediction = p.X0;

        // x[t-1] ~ p(x[t-1] | x[t]); the last step uses the mean.
        return t == 0 ? p.Mean : p.Mean.Plus(p.LogVariance.Times(0.5).exp() * state.Noise(x));
    }

    /// <inheritdoc/>
    /// <remarks>As in Open-Sora 1.1, the fraction of each frame is converted to a number of sampling steps, rounded down, and the denoiser treats a
    /// frame as clean in its first step.</remarks>
    public (Tensor Begins, Tensor Noisy, Tensor Changes) Frames(SamplingState state, Tensor fraction)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(fraction);
        var t = TimeOf(state);
        var from = fraction.Times(Schedule.Steps).to_type(ScalarType.Int64); // the step from which each frame is denoised
        return (from.EqualTo(t), from.GreaterThan(t), from.AtLeast(t));
    }

    Tensor ISampler.AddNoise(SamplingState state, Tensor x0, Tensor noise) => AddNoise(x0, [TimeOf(state)], noise);

    private int TimeOf(SamplingState state) => Schedule.Steps - 1 - state.Step;

    /// <summary>Adds noise to clean samples: draws from q(x[t] | x0), equation 4 of Ho et al.</summary>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>.</param>
    /// <param name="t">Steps of <see cref="Schedule"/>, <c>[batch]</c>, int64.</param>
    /// <param name="noise">Standard normal noise with the shape of <paramref name="x0"/>.</param>
    /// <returns>The noisy samples, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape is invalid, or a step is out of range.</exception>
    public Tensor AddNoise(Tensor x0, Tensor t, Tensor noise)
    {
        ArgumentNullException.ThrowIfNull(x0);
        ArgumentNullException.ThrowIfNull(t);
        ArgumentNullException.ThrowIfNull(noise);
        return Scoped(() => AddNoise(x0, StepsOf(t, x0), noise));
    }

    private Tensor AddNoise(Tensor x0, int[] t, Tensor noise)
    {
        if (!noise.shape.AsSpan().SequenceEqual(x0.shape))
        {
            throw new ArgumentException(
                $"The noise has shape {Shapes.Text(noise)}, but the samples have shape {Shapes.Text(x0)}; the shapes must be equal.",
                nameof(noise)
            );
        }

        return (Schedule.SqrtAlphasCumprod.At(t, x0) * x0).Plus(Schedule.SqrtOneMinusAlphasCumprod.At(t, x0) * noise);
    }

    /// <summary>The distribution of the previous step that a denoiser's output describes.</summary>
    /// <param name="X0">The predicted clean sample.</param>
    /// <param name="Mean">The mean of p(x[t-1] | x[t]).</param>
    /// <param name="LogVariance">The natural logarithm of its variance, broadcastable to the mean.</param>
    internal readonly record struct Denoised(Tensor X0, Tensor Mean, Tensor LogVariance);

    /// <summary>Interprets a denoiser's output for latents of one step while sampling.</summary>
    internal Denoised Denoise(Tensor output, Tensor x, int t) => Denoise(output, x, [t], _clipDenoised);

    /// <summary>Interprets a denoiser's output for noisy samples at step t; t holds one step for each sample, or one for all samples.</summary>
    internal Denoised Denoise(Tensor output, Tensor x, int[] t, bool clip)
    {
        var (predicted, values) = Split(output, x);
        var x0 =
            _prediction == Prediction.Sample
                ? predicted
                : Schedule.SqrtRecipAlphasCumprod.At(t, x) * x - Schedule.SqrtRecipM1AlphasCumprod.At(t, x) * predicted;
        if (clip)
        {
            x0 = x0.Clamp(-1, 1);
        }

        return new Denoised(x0, PosteriorMean(x0, x, t), LogVariance(values, x, t));
    }

    internal Tensor PosteriorMean(Tensor x0, Tensor x, int[] t) =>
        (Schedule.PosteriorMeanCoef1.At(t, x) * x0).Plus(Schedule.PosteriorMeanCoef2.At(t, x) * x);

    private Tensor LogVariance(Tensor? values, Tensor x, int[] t)
    {
        if (values is null)
        {
            return (_variance == Variance.FixedSmall ? Schedule.PosteriorLogVarianceClipped : Schedule.FixedLargeLogVariance).At(t, x);
        }

        // Values in [-1, 1] interpolate from the posterior's variance to beta.
        var small = Schedule.PosteriorLogVarianceClipped.At(t, x);
        var large = Schedule.LogBetas.At(t, x);
        var share = values.Plus(1).Over(2);
        return (share * large).Plus(OneMinus(share) * small);
    }

    // The prediction and, if the variance is learned, the second half of the channels.
    private (Tensor Predicted, Tensor? Variance) Split(Tensor output, Tensor x)
    {
        var learned = _variance == Variance.LearnedRange;
        Sampling.CheckOutput(
            output,
            x,
            learned ? 2 : 1,
            learned
                ? "learned variances need twice the latent channels; choose a fixed Variance for a model without them"
                : "a fixed variance needs as many channels as the latents; choose Variance.LearnedRange for a model that predicts variances"
        );
        if (output.dtype != x.dtype)
        {
            output = output.to_type(x.dtype);
        }

        var channels = x.shape[1];
        return learned ? (output.narrow(1, 0, channels), output.narrow(1, channels, channels)) : (output, null);
    }

    internal int[] StepsOf(Tensor t, Tensor x)
    {
        if (t.dim() != 1 || t.dtype != ScalarType.Int64 || t.shape[0] != x.shape[0])
        {
            throw new ArgumentException(
                $"Time steps must be int64 of shape [{x.shape[0]}], one for each sample; got {t.dtype} of shape {Shapes.Text(t)}.",
                nameof(t)
            );
        }

        var steps = t.cpu().data<long>().ToArray();
        foreach (var step in steps)
        {
            if (step < 0 || step >= Schedule.Steps)
            {
                throw new ArgumentOutOfRangeException(nameof(t), step, $"Time steps of this process range from 0 to {Schedule.Steps - 1}.");
            }
        }

        return Array.ConvertAll(steps, step => (int)step);
    }
}
