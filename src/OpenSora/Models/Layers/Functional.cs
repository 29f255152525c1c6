using OpenSora.Runtime;
using TorchSharp;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Functions without parameters from which transformers are built: adaptive layer normalization, and position tables.</summary>
public static class Functional
{
    private const double Eps = 1e-6;

    /// <summary>Computes adaptive layer normalization (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section 3.2): normalizes
    /// the last axis without gain or shift, then modulates it: <c>norm(x) (1 + scale) + shift</c>.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="shift">The shift, <c>[batch, 1, channels]</c>.</param>
    /// <param name="scale">The scale, <c>[batch, 1, channels]</c>.</param>
    public static Tensor NormModulate(Tensor x, Tensor shift, Tensor scale) =>
        Scoped(() => Modulate(nn.functional.layer_norm(x, [x.shape[^1]], eps: Eps), shift, scale));

    /// <summary>Computes <c>x (1 + scale) + shift</c>.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="shift">The shift, <c>[batch, 1, channels]</c>.</param>
    /// <param name="scale">The scale, <c>[batch, 1, channels]</c>.</param>
    public static Tensor Modulate(Tensor x, Tensor shift, Tensor scale) => Scoped(() => shift.PlusProduct(x, scale.Plus(1)));

    /// <summary>Computes the residual step <c>x + gate * branch</c>.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="gate">The gate, <c>[batch, 1, channels]</c>.</param>
    /// <param name="branch">The output of the residual branch, <c>[batch, tokens, channels]</c>.</param>
    public static Tensor AddGated(Tensor x, Tensor gate, Tensor branch) => x.PlusProduct(gate, branch);

    /// <summary>Computes the residual step <c>x + gate * branch</c>, in place if gradients are disabled; <paramref name="x"/> must not be needed
    /// afterwards.</summary>
    internal static Tensor AddGatedTo(Tensor x, Tensor gate, Tensor branch) =>
        is_grad_enabled() ? x.PlusProduct(gate, branch) : x.AddProductInPlace(gate, branch);

    /// <summary>Computes the residual step <c>x + branch</c>, in place if gradients are disabled; <paramref name="x"/> must not be needed
    /// afterwards.</summary>
    internal static Tensor AddTo(Tensor x, Tensor branch) => is_grad_enabled() ? x.Plus(branch) : x.AddInPlace(branch);

    /// <summary>Creates the table of sine and cosine positions along time.</summary>
    /// <remarks>
    /// Angle i of a coordinate p is <c>p / 10000^(i / n)</c> with n angles; all sines come first, then all cosines (Vaswani et al., 2017). Dividing
    /// the coordinates by a scale adapts a model to another length.
    /// </remarks>
    /// <param name="channels">The number of channels, which must be even.</param>
    /// <param name="length">The number of positions.</param>
    /// <param name="scale">The divisor of the coordinates.</param>
    /// <returns>The table, <c>[1, length, channels]</c>, float32.</returns>
    public static Tensor LinePositions(int channels, int length, double scale = 1)
    {
        var table = new float[length * channels];
        for (var i = 0; i < length; i++)
        {
            Fill(table.AsSpan(i * channels, channels), i / scale);
        }

        return tensor(table, [1, length, channels]);
    }

    /// <summary>Creates the table of sine and cosine positions on a grid, row by row.</summary>
    /// <remarks>The first half of the channels encodes the horizontal coordinate and the second half the vertical one, each as
    /// <see cref="LinePositions"/> does. Dividing the coordinates by a scale adapts a model to another resolution (PixArt-alpha, Chen et al.,
    /// 2023).</remarks>
    /// <param name="channels">The number of channels, which must be a multiple of 4.</param>
    /// <param name="height">The number of rows.</param>
    /// <param name="width">The number of columns.</param>
    /// <param name="scale">The divisor of the coordinates.</param>
    /// <param name="baseSize">The number of positions to which both sides are stretched; null leaves coordinates unchanged.</param>
    /// <returns>The table, <c>[1, height * width, channels]</c>, float32.</returns>
    public static Tensor GridPositions(int channels, int height, int width, double scale = 1, int? baseSize = null)
    {
        using var scope = NewDisposeScope();
        var half = channels / 2;
        var columns = Side(width).view(1, width, half).expand(height, width, half);
        var rows = Side(height).view(height, 1, half).expand(height, width, half);
        return cat([columns, rows], -1).view(1, height * width, channels).MoveToOuterDisposeScope();

        Tensor Side(int size)
        {
            var table = new float[size * half];
            for (var i = 0; i < size; i++)
            {
                Fill(table.AsSpan(i * half, half), (float)(i / scale) * (baseSize is { } side ? (float)side / size : 1));
            }

            return tensor(table);
        }
    }

    private static void Fill(Span<float> row, double position)
    {
        var half = row.Length / 2;
        for (var i = 0; i < half; i++)
        {
            var (sin, cos) = Math.SinCos(position / Math.Pow(10000, (double)i / half));
            (row[i], row[half + i]) = ((float)sin, (float)cos);
        }
    }
}
