using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>What training minimises and what it is made of, one value a sample: <c>[batch]</c>.</summary>
/// <param name="Loss">The loss, differentiable; average it, with the weights of the time steps, and go backward from that.</param>
/// <param name="Mse">The mean squared error of the prediction; null for the KL losses.</param>
/// <param name="VariationalBound">The step's term of the variational bound in bits per dimension (rescaled as the loss is); null where the loss has none.</param>
public sealed record TrainingLosses(Tensor Loss, Tensor? Mse, Tensor? VariationalBound) : IDisposable
{
    /// <summary>Disposes of the tensors.</summary>
    public void Dispose()
    {
        Loss.Dispose();
        Mse?.Dispose();
        VariationalBound?.Dispose();
    }
}

public sealed partial class Iddpm
{
    /// <summary>Adds noise to clean samples, lets the denoiser predict and rates the prediction.</summary>
    /// <param name="denoiser">The model under training; called once, with autograd as the caller has it.</param>
    /// <param name="x0">Clean samples <c>[batch, channels, ...]</c>; types below float32 are widened to it.</param>
    /// <param name="t">Steps of <see cref="Schedule"/>, <c>[batch]</c>, int64; see <see cref="ITimestepSampler"/>.</param>
    /// <param name="noise">Standard normal noise of the shape of <paramref name="x0"/>; null draws it.</param>
    /// <param name="generator">Source of the noise if none is given; null takes the global generator.</param>
    /// <returns>The losses, owned by the caller.</returns>
    /// <exception cref="ArgumentException">A shape does not fit, or a step is out of range.</exception>
    /// <exception cref="InvalidOperationException">The denoiser's output has another shape than this parameterisation needs.</exception>
    public TrainingLosses TrainingLosses(Denoiser denoiser, Tensor x0, Tensor t, Tensor? noise = null, Generator? generator = null)
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
        noise = noise?.to_type(x0.dtype) ?? Random(generator)(0, x0);
        var x = AddNoise(x0, steps, noise);
        var modelTimes = tensor(Array.ConvertAll(steps, i => (float)Schedule.TimestepMap[i]), dtype: ScalarType.Float32, device: x.device);
        var output = denoiser(x, modelTimes);

        if (loss is DiffusionLoss.Kl or DiffusionLoss.RescaledKl)
        {
            var bound = VariationalBound(output, x0, x, steps);
            bound = loss == DiffusionLoss.RescaledKl ? bound * Schedule.Steps : bound;
            return Keep(scope, new TrainingLosses(bound.alias(), null, bound));
        }

        var (predicted, values) = Split(output, x);
        var mse = MeanOfSample((predicted - (prediction == Prediction.Sample ? x0 : noise)).square());
        if (values is null)
        {
            return Keep(scope, new TrainingLosses(mse.alias(), mse, null));
        }

        // The bound trains the variance only: the mean's way back is cut.
        var vb = VariationalBound(cat([predicted.detach(), values], 1), x0, x, steps);
        vb = loss == DiffusionLoss.RescaledMse ? vb * (Schedule.Steps / 1000.0) : vb;
        return Keep(scope, new TrainingLosses(mse + vb, mse, vb));
    }

    /// <summary>One term of the variational bound, in bits per dimension: at step 0 the negative log likelihood of the data (as 8-bit values
    /// in [-1, 1]), else KL(q(x[t-1] | x[t], x0) || p(x[t-1] | x[t])). Ho et al. 2020, equation 5 and section 3.3.</summary>
    internal Tensor VariationalBound(Tensor output, Tensor x0, Tensor x, int[] t)
    {
        var p = Denoise(output, x, t, clip: false);
        var kl = MeanOfSample(NormalKl(PosteriorMean(x0, x, t), At(Schedule.PosteriorLogVarianceClipped, t, x), p.Mean, p.LogVariance));
        if (Array.IndexOf(t, 0) < 0)
        {
            return kl / Math.Log(2);
        }

        var nll = -MeanOfSample(DiscretisedLogLikelihood(x0, p.Mean, 0.5 * p.LogVariance));
        var first = tensor(Array.ConvertAll(t, step => step == 0), device: x.device);
        return where(first, nll, kl) / Math.Log(2);
    }

    /// <summary>The bound's term that no training changes: KL(q(x[T] | x0) || N(0, 1)), in bits per dimension, <c>[batch]</c>.</summary>
    internal Tensor PriorBound(Tensor x0)
    {
        using var scope = NewDisposeScope();
        int[] last = [Schedule.Steps - 1];
        var mean = At(Schedule.SqrtAlphasCumprod, last, x0) * x0;
        var zero = zeros_like(mean);
        return (MeanOfSample(NormalKl(mean, At(Schedule.LogOneMinusAlphasCumprod, last, x0), zero, zero)) / Math.Log(2)).MoveToOuterDisposeScope();
    }

    private static Tensor NormalKl(Tensor mean1, Tensor logVariance1, Tensor mean2, Tensor logVariance2) =>
        0.5 * (logVariance2 - logVariance1 - 1 + (logVariance1 - logVariance2).exp() + (mean1 - mean2).square() * (-logVariance2).exp());

    // The probability of x's bin of width 2/255 under a normal distribution; the outermost bins reach to infinity.
    private static Tensor DiscretisedLogLikelihood(Tensor x, Tensor mean, Tensor logScale)
    {
        const double Half = 1 / 255.0;
        var centered = x - mean;
        var inverse = (-logScale).exp();
        var upper = NormalCdf(inverse * (centered + Half));
        var lower = NormalCdf(inverse * (centered - Half));
        return where(x < -0.999, Log(upper), where(x > 0.999, Log(1 - lower), Log(upper - lower)));

        static Tensor Log(Tensor p) => p.clamp_min(1e-12).log();
    }

    // The tanh approximation, which the published losses use.
    private static Tensor NormalCdf(Tensor x) => 0.5 * (1 + (Math.Sqrt(2 / Math.PI) * (x + 0.044715 * x.pow(3))).tanh());

    private static Tensor MeanOfSample(Tensor x) => x.flatten(1).mean([1]);

    private static TrainingLosses Keep(DisposeScope scope, TrainingLosses losses)
    {
        foreach (var tensor in new[] { losses.Loss, losses.Mse, losses.VariationalBound })
        {
            if (tensor is not null)
            {
                scope.MoveToOuter(tensor);
            }
        }

        return losses;
    }
}
