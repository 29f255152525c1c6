using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>A Gaussian distribution with a diagonal covariance.</summary>
/// <param name="Mean">The mean, <c>[n, channels, height, width]</c>.</param>
/// <param name="LogVariance">The natural logarithm of the variance, in [-30, 20], with the shape of the mean.</param>
public sealed record GaussianPosterior(Tensor Mean, Tensor LogVariance) : IDisposable
{
    /// <summary>Creates a posterior from an encoder's output <c>[n, 2 channels, height, width]</c>: the mean, followed by the logarithm of the
    /// variance.</summary>
    internal static GaussianPosterior OfMoments(Tensor moments)
    {
        using var scope = NewDisposeScope();
        var parts = moments.In(ScalarType.Float32).chunk(2, 1);
        return new GaussianPosterior(parts[0], parts[1].clamp(-30, 20)).MoveToOuterDisposeScope();
    }

    /// <summary>Draws a sample: the mean plus noise times the standard deviation.</summary>
    /// <param name="generator">The random generator for the noise; null uses PyTorch's global generator.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Generator? generator = null)
    {
        using var scope = NewDisposeScope();
        return Sample(randn(Mean.shape, dtype: Mean.dtype, device: Mean.device, generator: generator)).MoveToOuterDisposeScope();
    }

    /// <summary>Computes the sample that corresponds to the specified standard normal noise.</summary>
    /// <param name="noise">Standard normal noise with the shape of the mean.</param>
    /// <returns>A sample, owned by the caller.</returns>
    public Tensor Sample(Tensor noise)
    {
        using var scope = NewDisposeScope();
        return (Mean + exp(LogVariance * 0.5) * noise).MoveToOuterDisposeScope();
    }

    /// <summary>Disposes both tensors.</summary>
    public void Dispose()
    {
        Mean.Dispose();
        LogVariance.Dispose();
    }

    internal GaussianPosterior MoveToOuterDisposeScope()
    {
        Mean.MoveToOuterDisposeScope();
        LogVariance.MoveToOuterDisposeScope();
        return this;
    }
}
