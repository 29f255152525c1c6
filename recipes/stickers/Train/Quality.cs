using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>Measures of pictures and videos with values in [-1, 1].</summary>
internal static class Quality
{
    /// <summary>The mean absolute difference of neighboring pixels, across plus down. Blur lowers it; blotches and noise raise it, so it says little
    /// without <see cref="Psnr"/>.</summary>
    /// <param name="pixels"><c>[.., H, W]</c>.</param>
    public static double GradientEnergy(Tensor pixels)
    {
        using var scope = NewDisposeScope();
        return (Differences(pixels, -1).mean() + Differences(pixels, -2).mean()).item<float>();
    }

    /// <summary>The peak signal-to-noise ratio in dB.</summary>
    public static double Psnr(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        return -10 * Math.Log10(((a - b) / 2).square().mean().item<float>() + 1e-10);
    }

    /// <summary>The mean absolute difference of frames that follow each other, on a scale of 255.</summary>
    /// <param name="video"><c>[3, F, H, W]</c>.</param>
    public static double Change(Tensor video)
    {
        using var scope = NewDisposeScope();
        return video.shape[1] < 2 ? 0 : Differences(video, 1).mean().item<float>() * 127.5;
    }

    /// <summary>The Frechet distance of two sets of features, <c>[N, D]</c>, seen as Gaussians.</summary>
    public static double Frechet(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        var (meanA, meanB, covA, covB) = (a.mean([0L]), b.mean([0L]), Covariance(a), Covariance(b));
        // The trace of the root of A B is that of the root of the symmetric root(A) B root(A).
        var rootA = Root(covA);
        var cross = Root(rootA.matmul(covB).matmul(rootA));
        return ((meanA - meanB).square().sum() + (covA + covB - cross * 2).diagonal().sum()).item<double>();

        static Tensor Root(Tensor symmetric)
        {
            var (values, vectors) = linalg.eigh(symmetric);
            return (vectors * values.clamp(0).sqrt()).matmul(vectors.transpose(0, 1));
        }
    }

    public static Tensor Covariance(Tensor x)
    {
        var centered = x - x.mean([0L]);
        return centered.transpose(0, 1).matmul(centered) / (x.shape[0] - 1);
    }

    public static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted.Length == 0 ? double.NaN : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    private static Tensor Differences(Tensor x, int dimension)
    {
        var last = x.shape[dimension < 0 ? x.dim() + dimension : dimension] - 1;
        return (x.narrow(dimension, 1, last) - x.narrow(dimension, 0, last)).abs();
    }
}
