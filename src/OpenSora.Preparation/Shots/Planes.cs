using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace OpenSora.Preparation.Shots;

/// <summary>Conversions and comparisons of planes of 8-bit pixels with SIMD instructions.</summary>
/// <remarks>Conversions need planes from <see cref="Allocate"/>.</remarks>
internal static class Planes
{
    // Pixels that are converted together: four vectors of floats, which come from one vector of bytes.
    private static int Step => Vector<byte>.Count;

    /// <summary>Allocates a plane. Its length is rounded up to whole vectors, as conversions require.</summary>
    internal static byte[] Allocate(int pixels) => new byte[(pixels + Step - 1) / Step * Step];

    /// <summary>Splits RGB24 pixels into planes.</summary>
    internal static void Split(ReadOnlySpan<byte> rgb, Span<byte> red, Span<byte> green, Span<byte> blue)
    {
        var at = 0;
        for (; (at * 3) + 48 <= rgb.Length; at += 16)
        {
            var a = Vector128.Create(rgb[(at * 3)..]);
            var b = Vector128.Create(rgb[((at * 3) + 16)..]);
            var c = Vector128.Create(rgb[((at * 3) + 32)..]);
            // Indexes of 16 and more give 0.
            (
                Vector128.Shuffle(a, Vector128.Create((byte)0, 3, 6, 9, 12, 15, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(b, Vector128.Create((byte)16, 16, 16, 16, 16, 16, 2, 5, 8, 11, 14, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(c, Vector128.Create((byte)16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 1, 4, 7, 10, 13))
            ).CopyTo(red[at..]);
            (
                Vector128.Shuffle(a, Vector128.Create((byte)1, 4, 7, 10, 13, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(b, Vector128.Create((byte)16, 16, 16, 16, 16, 0, 3, 6, 9, 12, 15, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(c, Vector128.Create((byte)16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 2, 5, 8, 11, 14))
            ).CopyTo(green[at..]);
            (
                Vector128.Shuffle(a, Vector128.Create((byte)2, 5, 8, 11, 14, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(b, Vector128.Create((byte)16, 16, 16, 16, 16, 1, 4, 7, 10, 13, 16, 16, 16, 16, 16, 16))
                | Vector128.Shuffle(c, Vector128.Create((byte)16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 0, 3, 6, 9, 12, 15))
            ).CopyTo(blue[at..]);
        }

        for (; at * 3 < rgb.Length; at++)
        {
            (red[at], green[at], blue[at]) = (rgb[at * 3], rgb[(at * 3) + 1], rgb[(at * 3) + 2]);
        }
    }

    /// <summary>Computes the luma of RGB (BT.601, full range).</summary>
    internal static void ToLuma(ReadOnlySpan<byte> red, ReadOnlySpan<byte> green, ReadOnlySpan<byte> blue, Span<byte> luma)
    {
        var (r, g, b) = (new Vector<float>(0.299f), new Vector<float>(0.587f), new Vector<float>(0.114f));
        Span<Vector<float>> x = stackalloc Vector<float>[4];
        Span<Vector<float>> y = stackalloc Vector<float>[4];
        Span<Vector<float>> z = stackalloc Vector<float>[4];
        for (var at = 0; at < red.Length; at += Step)
        {
            Widen(red[at..], x);
            Widen(green[at..], y);
            Widen(blue[at..], z);
            for (var i = 0; i < 4; i++)
            {
                x[i] = (x[i] * r) + (y[i] * g) + (z[i] * b);
            }

            Narrow(x, luma[at..]);
        }
    }

    /// <summary>Converts RGB to hue in steps of two degrees (0 to 179), saturation and value (0 to 255).</summary>
    internal static void ToHsv(
        ReadOnlySpan<byte> red,
        ReadOnlySpan<byte> green,
        ReadOnlySpan<byte> blue,
        Span<byte> hue,
        Span<byte> saturation,
        Span<byte> value
    )
    {
        var (zero, one, full) = (Vector<float>.Zero, Vector<float>.One, new Vector<float>(255f));
        var (sector, third, twoThirds, turn) = (new Vector<float>(30f), new Vector<float>(60f), new Vector<float>(120f), new Vector<float>(180f));
        var last = new Vector<float>(179.5f);
        Span<Vector<float>> x = stackalloc Vector<float>[4];
        Span<Vector<float>> y = stackalloc Vector<float>[4];
        Span<Vector<float>> z = stackalloc Vector<float>[4];
        for (var at = 0; at < red.Length; at += Step)
        {
            Widen(red[at..], x);
            Widen(green[at..], y);
            Widen(blue[at..], z);
            for (var i = 0; i < 4; i++)
            {
                var (r, g, b) = (x[i], y[i], z[i]);
                var max = Vector.Max(r, Vector.Max(g, b));
                var range = max - Vector.Min(r, Vector.Min(g, b));
                var scale = sector / Vector.Max(range, one);
                var angle = Vector.ConditionalSelect(
                    Vector.Equals(max, r),
                    (g - b) * scale,
                    Vector.ConditionalSelect(Vector.Equals(max, g), ((b - r) * scale) + third, ((r - g) * scale) + twoThirds)
                );
                angle += Vector.ConditionalSelect(Vector.LessThan(angle, zero), turn, zero);
                x[i] = Vector.ConditionalSelect(Vector.GreaterThanOrEqual(angle, last), zero, angle);
                y[i] = range * full / Vector.Max(max, one);
                z[i] = max;
            }

            Narrow(x, hue[at..]);
            Narrow(y, saturation[at..]);
            Narrow(z, value[at..]);
        }
    }

    /// <summary>Computes the mean absolute difference of two planes.</summary>
    internal static double Difference(ReadOnlySpan<byte> a, ReadOnlySpan<byte> b)
    {
        var first = MemoryMarshal.Cast<byte, Vector<byte>>(a);
        var second = MemoryMarshal.Cast<byte, Vector<byte>>(b);
        var sum = 0L;
        for (var block = 0; block < first.Length; )
        {
            // 128 pairs of differences fit into 16 bits.
            var part = Vector<ushort>.Zero;
            for (var end = Math.Min(first.Length, block + 128); block < end; block++)
            {
                Vector.Widen(Vector.Max(first[block], second[block]) - Vector.Min(first[block], second[block]), out var low, out var high);
                part += low + high;
            }

            Vector.Widen(part, out var even, out var odd);
            sum += Vector.Sum(even + odd);
        }

        for (var i = first.Length * Vector<byte>.Count; i < a.Length; i++)
        {
            sum += Math.Abs(a[i] - b[i]);
        }

        return (double)sum / a.Length;
    }

    /// <summary>Computes the sum of a plane.</summary>
    internal static long Sum(ReadOnlySpan<byte> plane)
    {
        var vectors = MemoryMarshal.Cast<byte, Vector<byte>>(plane);
        var sum = 0L;
        for (var block = 0; block < vectors.Length; )
        {
            var part = Vector<ushort>.Zero;
            for (var end = Math.Min(vectors.Length, block + 128); block < end; block++)
            {
                Vector.Widen(vectors[block], out var low, out var high);
                part += low + high;
            }

            Vector.Widen(part, out var even, out var odd);
            sum += Vector.Sum(even + odd);
        }

        for (var i = vectors.Length * Vector<byte>.Count; i < plane.Length; i++)
        {
            sum += plane[i];
        }

        return sum;
    }

    /// <summary>Converts pixels to floats.</summary>
    internal static void ToSingle(ReadOnlySpan<byte> pixels, Span<float> result)
    {
        Span<Vector<float>> values = stackalloc Vector<float>[4];
        var at = 0;
        for (; at + Step <= pixels.Length; at += Step)
        {
            Widen(pixels[at..], values);
            MemoryMarshal.Cast<Vector<float>, float>(values).CopyTo(result[at..]);
        }

        for (; at < pixels.Length; at++)
        {
            result[at] = pixels[at];
        }
    }

    /// <summary>Raises every pixel to that of another plane if it is lower.</summary>
    internal static void Raise(Span<byte> pixels, ReadOnlySpan<byte> other)
    {
        var at = 0;
        for (; at + Step <= pixels.Length; at += Step)
        {
            Vector.Max(new Vector<byte>(pixels[at..]), new Vector<byte>(other[at..])).CopyTo(pixels[at..]);
        }

        for (; at < pixels.Length; at++)
        {
            pixels[at] = Math.Max(pixels[at], other[at]);
        }
    }

    private static void Widen(ReadOnlySpan<byte> pixels, Span<Vector<float>> result)
    {
        Vector.Widen(new Vector<byte>(pixels), out var low, out var high);
        Vector.Widen(low, out var first, out var second);
        Vector.Widen(high, out var third, out var fourth);
        result[0] = Vector.ConvertToSingle(Vector.AsVectorInt32(first));
        result[1] = Vector.ConvertToSingle(Vector.AsVectorInt32(second));
        result[2] = Vector.ConvertToSingle(Vector.AsVectorInt32(third));
        result[3] = Vector.ConvertToSingle(Vector.AsVectorInt32(fourth));
    }

    // Rounds and clips.
    private static void Narrow(Span<Vector<float>> values, Span<byte> result)
    {
        var low = Vector.Narrow(Round(values[0]), Round(values[1]));
        var high = Vector.Narrow(Round(values[2]), Round(values[3]));
        Vector.Narrow(low, high).CopyTo(result);
    }

    private static Vector<uint> Round(Vector<float> value)
    {
        var clipped = Vector.Min(Vector.Max(value, Vector<float>.Zero), new Vector<float>(255f));
        return Vector.AsVectorUInt32(Vector.ConvertToInt32(clipped + new Vector<float>(0.5f)));
    }
}
