using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace OpenSora.Preparation.Scores;

/// <summary>Computes with pixels, many at a time.</summary>
internal static class Pixels
{
    /// <summary>Converts RGB24 to brightness (BT.601).</summary>
    internal static byte[] Luma(byte[] rgb)
    {
        var luma = GC.AllocateUninitializedArray<byte>(rgb.Length / 3);
        var pixel = 0;
        ref var source = ref MemoryMarshal.GetArrayDataReference(rgb);
        ref var target = ref MemoryMarshal.GetArrayDataReference(luma);
        for (; pixel <= luma.Length - 16; pixel += 16)
        {
            // 48 bytes are split into 16 red, 16 green and 16 blue ones; an index above 15 gives 0.
            var a = Vector128.LoadUnsafe(ref source, (nuint)(3 * pixel));
            var b = Vector128.LoadUnsafe(ref source, (nuint)((3 * pixel) + 16));
            var c = Vector128.LoadUnsafe(ref source, (nuint)((3 * pixel) + 32));
            const byte o = 255;
            var red =
                Vector128.Shuffle(a, Vector128.Create(0, 3, 6, 9, 12, 15, o, o, o, o, o, o, o, o, o, o))
                | Vector128.Shuffle(b, Vector128.Create(o, o, o, o, o, o, 2, 5, 8, 11, 14, o, o, o, o, o))
                | Vector128.Shuffle(c, Vector128.Create(o, o, o, o, o, o, o, o, o, o, o, 1, 4, 7, 10, 13));
            var green =
                Vector128.Shuffle(a, Vector128.Create(1, 4, 7, 10, 13, o, o, o, o, o, o, o, o, o, o, o))
                | Vector128.Shuffle(b, Vector128.Create(o, o, o, o, o, 0, 3, 6, 9, 12, 15, o, o, o, o, o))
                | Vector128.Shuffle(c, Vector128.Create(o, o, o, o, o, o, o, o, o, o, o, 2, 5, 8, 11, 14));
            var blue =
                Vector128.Shuffle(a, Vector128.Create(2, 5, 8, 11, 14, o, o, o, o, o, o, o, o, o, o, o))
                | Vector128.Shuffle(b, Vector128.Create(o, o, o, o, o, 1, 4, 7, 10, 13, o, o, o, o, o, o))
                | Vector128.Shuffle(c, Vector128.Create(o, o, o, o, o, o, o, o, o, o, 0, 3, 6, 9, 12, 15));
            var low = Weighted(Vector128.WidenLower(red), Vector128.WidenLower(green), Vector128.WidenLower(blue));
            var high = Weighted(Vector128.WidenUpper(red), Vector128.WidenUpper(green), Vector128.WidenUpper(blue));
            Vector128.Narrow(low, high).StoreUnsafe(ref target, (nuint)pixel);
        }

        for (; pixel < luma.Length; pixel++)
        {
            luma[pixel] = (byte)(((77 * rgb[3 * pixel]) + (150 * rgb[(3 * pixel) + 1]) + (29 * rgb[(3 * pixel) + 2]) + 128) >> 8);
        }

        return luma;

        static Vector128<ushort> Weighted(Vector128<ushort> red, Vector128<ushort> green, Vector128<ushort> blue) =>
            ((red * 77) + (green * 150) + (blue * 29) + Vector128.Create((ushort)128)) >>> 8;
    }

    /// <summary>Averages the pixels of each cell of a grid, channel by channel.</summary>
    /// <param name="pixels">The pixels, row by row.</param>
    /// <param name="width">The width in pixels.</param>
    /// <param name="height">The height in pixels.</param>
    /// <param name="channels">The bytes of each pixel.</param>
    /// <param name="columns">The number of cells in a row.</param>
    /// <param name="rows">The number of rows of cells.</param>
    /// <param name="step">Reads every row (1), every second one (2) ...</param>
    internal static float[] Average(ReadOnlySpan<byte> pixels, int width, int height, int channels, int columns, int rows, int step = 1)
    {
        var cells = new float[rows * columns * channels];
        var sums = new int[columns * channels];
        for (var row = 0; row < rows; row++)
        {
            var (top, bottom) = Range(row, rows, height);
            Array.Clear(sums);
            for (var y = top; y < bottom; y += step)
            {
                var line = pixels.Slice(y * width * channels, width * channels);
                for (var column = 0; column < columns; column++)
                {
                    var (left, right) = Range(column, columns, width);
                    if (channels == 1)
                    {
                        var sum = 0;
                        foreach (var value in line[left..right])
                        {
                            sum += value;
                        }

                        sums[column] += sum;
                    }
                    else
                    {
                        int red = 0,
                            green = 0,
                            blue = 0;
                        for (var x = 3 * left; x < 3 * right; x += 3)
                        {
                            red += line[x];
                            green += line[x + 1];
                            blue += line[x + 2];
                        }

                        sums[3 * column] += red;
                        sums[(3 * column) + 1] += green;
                        sums[(3 * column) + 2] += blue;
                    }
                }
            }

            var lines = (bottom - top + step - 1) / step;
            for (var i = 0; i < sums.Length; i++)
            {
                var (left, right) = Range(i / channels, columns, width);
                cells[(row * sums.Length) + i] = (float)sums[i] / (lines * (right - left));
            }
        }

        return cells;
    }

    /// <summary>Halves the width and the height: each pixel is the average of four.</summary>
    internal static float[] Half<T>(ReadOnlySpan<T> pixels, int width, int height)
        where T : unmanaged, INumber<T>
    {
        var (halfWidth, halfHeight) = (width / 2, height / 2);
        var half = new float[halfWidth * halfHeight];
        for (var y = 0; y < halfHeight; y++)
        {
            var upper = pixels.Slice(2 * y * width, width);
            var lower = pixels.Slice(((2 * y) + 1) * width, width);
            var target = half.AsSpan(y * halfWidth, halfWidth);
            for (var x = 0; x < target.Length; x++)
            {
                target[x] = (Float(upper[2 * x]) + Float(upper[(2 * x) + 1]) + Float(lower[2 * x]) + Float(lower[(2 * x) + 1])) * 0.25f;
            }
        }

        return half;

        static float Float(T value) => float.CreateTruncating(value);
    }

    // The pixels of a cell: at least one, even where there are more cells than pixels.
    private static (int First, int End) Range(int cell, int cells, int pixels)
    {
        var first = Math.Min(cell * pixels / cells, pixels - 1);
        return (first, Math.Max(first + 1, (cell + 1) * pixels / cells));
    }
}
