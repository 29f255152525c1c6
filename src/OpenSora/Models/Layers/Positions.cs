using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Creates sine and cosine position tables with scaled coordinates.</summary>
/// <remarks>
/// Angle i of a coordinate p is <c>p / 10000^(i / n)</c> with n angles; all sines come first, then all cosines (Vaswani et al., 2017). For a grid,
/// the first half of the channels encodes the horizontal coordinate and the second half the vertical one. Dividing the coordinates by a scale adapts
/// a model to another resolution or length (PixArt-alpha, Chen et al., 2023).
/// </remarks>
public static class Positions
{
    /// <summary>Creates the table of positions along time.</summary>
    /// <param name="channels">The number of channels, which must be even.</param>
    /// <param name="length">The number of positions.</param>
    /// <param name="scale">The divisor of the coordinates.</param>
    /// <returns>The table, <c>[1, length, channels]</c>, float32.</returns>
    public static Tensor Line(int channels, int length, double scale = 1)
    {
        var table = new float[length * channels];
        for (var i = 0; i < length; i++)
        {
            Fill(table.AsSpan(i * channels, channels), i / scale);
        }

        return tensor(table, [1, length, channels]);
    }

    /// <summary>Creates the table of positions on a grid, row by row.</summary>
    /// <param name="channels">The number of channels, which must be a multiple of 4.</param>
    /// <param name="height">The number of rows.</param>
    /// <param name="width">The number of columns.</param>
    /// <param name="scale">The divisor of the coordinates.</param>
    /// <param name="baseSize">The number of positions to which both sides are stretched; null leaves coordinates unchanged.</param>
    /// <returns>The table, <c>[1, height * width, channels]</c>, float32.</returns>
    public static Tensor Grid(int channels, int height, int width, double scale = 1, int? baseSize = null)
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

/// <summary>Rotary position embedding: pairs of adjacent channels are rotated by the token's position times a frequency, so that the dot product of a
/// query and a key depends on the distance between them (Su et al., 2021, "RoFormer"). Parameter: <c>freqs [channels / 2]</c>, not trained.</summary>
internal sealed class Rope : nn.Module<Tensor, Tensor>
{
    public readonly Parameter freqs;

    public Rope(int channels)
        : base(nameof(Rope))
    {
        freqs = Parameters.Create(channels / 2);
        freqs.requires_grad = false;
        RegisterComponents();
    }

    /// <summary>Sets the frequencies to <c>10000^(-2i / channels)</c>.</summary>
    public void Initialize()
    {
        var pairs = freqs.shape[0];
        using var values = tensor([.. Enumerable.Range(0, (int)pairs).Select(i => (float)Math.Pow(10000, -(double)i / pairs))]);
        freqs.copy_(values);
    }

    /// <summary>Rotates <c>[..., tokens, channels]</c> and keeps the data type.</summary>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var (tokens, pairs) = (x.shape[^2], x.shape[^1] / 2);
        var angles = arange(0, tokens, ScalarType.Float32, x.device).unsqueeze(1) * freqs.detach().In(ScalarType.Float32); // [tokens, pairs]
        var (cos, sin) = (angles.cos(), angles.sin());
        var both = x.In(ScalarType.Float32).unflatten(x.dim() - 1, pairs, 2).unbind(-1);
        var turned = stack([both[0] * cos - both[1] * sin, both[1] * cos + both[0] * sin], -1);
        return turned.flatten(-2).In(x.dtype).MoveToOuterDisposeScope();
    }
}
