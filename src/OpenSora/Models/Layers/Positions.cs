using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Sine and cosine position tables with scaled coordinates.</summary>
/// <remarks>
/// Angle i of a coordinate p is <c>p / 10000^(i / n)</c> with n angles; all sines come first, then all cosines (Vaswani et al., 2017). A pixel grid
/// spends the first half of the channels on the width, the second on the height. Dividing the coordinates by a scale carries a model to another
/// resolution or length (PixArt-alpha, Chen et al., 2023).
/// </remarks>
internal static class Positions
{
    /// <summary>Positions along time.</summary>
    /// <returns><c>[1, length, channels]</c>, float32.</returns>
    public static Tensor Line(int channels, int length, double scale)
    {
        var table = new float[length * channels];
        for (var i = 0; i < length; i++)
            Fill(table.AsSpan(i * channels, channels), i / scale);
        return tensor(table, [1, length, channels]);
    }

    /// <summary>Positions on a grid, row by row.</summary>
    /// <param name="channels">Channels, a multiple of 4.</param>
    /// <param name="height">Rows.</param>
    /// <param name="width">Columns.</param>
    /// <param name="scale">What coordinates are divided by.</param>
    /// <param name="baseSize">Stretches either side to this many places; null leaves coordinates as they are.</param>
    /// <returns><c>[1, height * width, channels]</c>, float32.</returns>
    public static Tensor Grid(int channels, int height, int width, double scale, int? baseSize = null)
    {
        float Coordinate(int i, int size) => (float)(i / scale) * (baseSize is { } side ? (float)side / size : 1);

        var (table, half) = (new float[height * width * channels], channels / 2);
        for (var y = 0; y < height; y++)
            for (var x = 0; x < width; x++)
            {
                var row = table.AsSpan((y * width + x) * channels, channels);
                Fill(row[..half], Coordinate(x, width));
                Fill(row[half..], Coordinate(y, height));
            }
        return tensor(table, [1, height * width, channels]);
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
