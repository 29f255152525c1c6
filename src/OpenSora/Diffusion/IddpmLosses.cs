using OpenSora.Runtime;
using TorchSharp;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

public sealed partial class Iddpm
{
    int ITrainingProcess.Steps => Schedule.Steps;

    /// <summary>Draws time steps of <see cref="Schedule"/> from a uniform distribution.</summary>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>.</param>
    /// <param name="generator">The random generator, on the CPU; null uses the global generator.</param>
    /// <returns>The time steps and their weights, owned by the caller.</returns>
    public (Tensor Timesteps, Tensor Weights) DrawTimesteps(Tensor x0, Generator? generator = null)
    {
        ArgumentNullException.ThrowIfNull(x0);
        return new UniformTimesteps().Sample((int)x0.shape[0], Schedule.Steps, generator);
    }

    /// <inheritdoc/>
    /// <remarks>Time steps are int64 steps of <see cref="Schedule"/>; see <see cref="ITimestepSampler"/>.</remarks>
    public TrainingLoss TrainingLosses(
        Denoiser denoiser,
        Tensor x0,
        Tensor t,
        Tensor? noise = null,
        Generator? generator = null,
        Tensor? noisyFrames = null
    )
    {
        ArgumentNullException.ThrowIfNull(denoiser);
        ArgumentNullException.ThrowIfNull(x0);
        ArgumentNullException.ThrowIfNull(t);
        using var scope = NewDisposeScope();
        if (x0.dtype != ScalarType.Float64)
        {
            x0 = x0.to_type(ScalarType.Float32);
        }

        var steps = StepsOf(t, x0);
        noise = noise?.to_type(x0.dtype) ?? Sampling.Gaussian(generator)(x0);
        var x = NoisyFrames.Choose(noisyFrames, AddNoise(x0, steps, noise), x0);
        var modelTimes = tensor(Array.ConvertAll(steps, i => (float)Schedule.TimestepMap[i]), dtype: ScalarType.Float32, device: x.device);
        var output = denoiser(x, modelTimes);

        if (_loss is DiffusionLoss.Kl or DiffusionLoss.RescaledKl)
        {
            var bound = VariationalBound(output, x0, x, steps, noisyFrames);
            bound = _loss == DiffusionLoss.RescaledKl ? bound.Times(Schedule.Steps) : bound;
            return TrainingLoss.Of(bound.alias(), mse: null, bound).MoveToOuterDisposeScope();
        }

        var (predicted, values) = Split(output, x);
        var mse = NoisyFrames.Mean((predicted - (_prediction == Prediction.Sample ? x0 : noise)).Squared(), noisyFrames);
        var weighted = _minSnrGamma is null ? mse.alias() : mse * tensor(Array.ConvertAll(steps, MinSnrWeight), dtype: mse.dtype, device: mse.device);
        if (values is null)
        {
            return TrainingLoss.Of(weighted, mse).MoveToOuterDisposeScope();
        }

        // The bound trains only the variance: no gradient flows back to the mean.
        var vb = VariationalBound(cat([predicted.detach(), values], 1), x0, x, steps, noisyFrames);
        vb = _loss == DiffusionLoss.RescaledMse ? vb.Times(Schedule.Steps / 1000.0) : vb;
        return TrainingLoss.Of(weighted.Plus(vb), mse, vb).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <remarks>The sampler is <see cref="DpmSolver"/>, with 20 steps by default.</remarks>
    public ISampler CreateSampler(int? steps = null) => new DpmSolver(steps ?? 20, Schedule, _prediction);

    // Equation 6 of Hang et al. 2023. The weight applies to the error of the clean sample, which is the error of the noise divided by the
    // signal-to-noise ratio.
    internal double MinSnrWeight(int t)
    {
        var ratio = Schedule.AlphasCumprod[t] / (1 - Schedule.AlphasCumprod[t]);
        return Math.Min(ratio, _minSnrGamma ?? double.PositiveInfinity) / (_prediction == Prediction.Sample ? 1 : ratio);
    }

    /// <summary>Computes one term of the variational bound, in bits per dimension: at step 0, the negative log likelihood of the data (as 8-bit
    /// values scaled to [-1, 1]); at other steps, KL(q(x[t-1] | x[t], x0) || p(x[t-1] | x[t])). Ho et al. 2020, equation 5 and section 3.3.</summary>
    internal Tensor VariationalBound(Tensor output, Tensor x0, Tensor x, int[] t, Tensor? noisyFrames = null)
    {
        var p = Denoise(output, x, t, clip: false);
        var kl = NoisyFrames.Mean(
            NormalKl(PosteriorMean(x0, x, t), Schedule.PosteriorLogVarianceClipped.At(t, x), p.Mean, p.LogVariance),
            noisyFrames
        );
        if (Array.IndexOf(t, 0) < 0)
        {
            return kl.Over(Math.Log(2));
        }

        var nll = -NoisyFrames.Mean(DiscretizedLogLikelihood(x0, p.Mean, p.LogVariance.Times(0.5)), noisyFrames);
        var first = tensor(Array.ConvertAll(t, step => step == 0), device: x.device);
        return where(first, nll, kl).Over(Math.Log(2));
    }

    private static Tensor NormalKl(Tensor mean1, Tensor logVariance1, Tensor mean2, Tensor logVariance2) =>
        (logVariance2 - logVariance1)
            .Minus(1)
            .Plus((logVariance1 - logVariance2).exp())
            .Plus((mean1 - mean2).Squared() * (-logVariance2).exp())
            .Times(0.5);

    // The probability under a normal distribution of the bin of width 2/255 that contains x; the outermost bins extend to infinity. Computed in
    // float64 because the difference of two values of the distribution function near 1, and its gradient, would have only two or three correct digits
    // in float32.
    private static Tensor DiscretizedLogLikelihood(Tensor x, Tensor mean, Tensor logScale)
    {
        const double Half = 1 / 255.0;
        var dtype = x.dtype;
        (x, mean, logScale) = (x.to_type(ScalarType.Float64), mean.to_type(ScalarType.Float64), logScale.to_type(ScalarType.Float64));
        var centered = x - mean;
        var inverse = (-logScale).exp();
        var upper = NormalCdf(inverse * centered.Plus(Half));
        var lower = NormalCdf(inverse * centered.Minus(Half));
        return where(x.LessThan(-0.999), Log(upper), where(x.GreaterThan(0.999), Log(OneMinus(lower)), Log(upper - lower))).to_type(dtype);

        static Tensor Log(Tensor p) => p.ClampMin(1e-12).log();
    }

    // The tanh approximation of the normal distribution function that the published losses use.
    private static Tensor NormalCdf(Tensor x) => x.Plus(x.Power(3).Times(0.044715)).Times(Math.Sqrt(2 / Math.PI)).tanh().Plus(1).Times(0.5);
}
