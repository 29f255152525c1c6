using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace OpenSora.Preparation.Shots;

/// <summary>Conversions and comparisons of planes of 8-bit pixels with SIMD instructions.</summary>
/// <remarks>Conversions need planes from <see cref="Allocate"/>.</remarks>
internal static class Planes
{
    // These loops take most of the time, and are worth optimizing at once instead of after they have run for a while.
    private const MethodImplOptions Hot = MethodImplOptions.AggressiveOptimization;

    // Pixels that are converted together: four vectors of floats, which come from one vector of bytes.
    private static int Step => Vector<byte>.Count;

    /// <summary>Allocates a plane. Its length is rounded up to whole vectors, and there is one more, as conversions of its last line
    /// require.</summary>
    internal static byte[] Allocate(int pixels) => new byte[((pixels + Step - 1) / Step * Step) + Step];

    /// <summary>Converts YUV (BT.601, limited range) to RGB with the 16-bit arithmetic of ffmpeg, which rounds every product down.</summary>
    [MethodImpl(Hot)]
    internal static void ToRgb(
        int pixels,
        ReadOnlySpan<byte> y,
        ReadOnlySpan<byte> u,
        ReadOnlySpan<byte> v,
        Span<byte> red,
        Span<byte> green,
        Span<byte> blue
    )
    {
        // The factors of the standard for values of 219 and 224 levels, times 8192.
        const short Luma = 9539;
        const short RedByV = 13075;
        const short GreenByU = -3209;
        const short GreenByV = -6660;
        const short BlueByU = 16525;
        for (var at = 0; at < pixels; at += Step)
        {
            Vector.Widen(new Vector<byte>(y[at..]), out var y1, out var y2);
            Vector.Widen(new Vector<byte>(u[at..]), out var u1, out var u2);
            Vector.Widen(new Vector<byte>(v[at..]), out var v1, out var v2);
            var (luma1, luma2) = (Product(y1, 16, Luma), Product(y2, 16, Luma));
            Narrow(luma1 + Product(v1, 128, RedByV), luma2 + Product(v2, 128, RedByV), red[at..]);
            Narrow(
                luma1 + Product(u1, 128, GreenByU) + Product(v1, 128, GreenByV),
                luma2 + Product(u2, 128, GreenByU) + Product(v2, 128, GreenByV),
                green[at..]
            );
            Narrow(luma1 + Product(u1, 128, BlueByU), luma2 + Product(u2, 128, BlueByU), blue[at..]);
        }
    }

    /// <summary>Writes every pixel twice.</summary>
    [MethodImpl(Hot)]
    internal static void Double(ReadOnlySpan<byte> pixels, Span<byte> result)
    {
        var twice = new Vector<ushort>(0x0101);
        var at = 0;
        for (; at + Step <= pixels.Length; at += Step)
        {
            Vector.Widen(new Vector<byte>(pixels[at..]), out var low, out var high);
            Vector.AsVectorByte(low * twice).CopyTo(result[(2 * at)..]);
            Vector.AsVectorByte(high * twice).CopyTo(result[((2 * at) + Step)..]);
        }

        for (; at < pixels.Length; at++)
        {
            result.Slice(2 * at, 2).Fill(pixels[at]);
        }
    }

    /// <summary>Mixes two lines of pixels times 128 with weights in 2048ths. Both products are rounded down, as in OpenCV.</summary>
    [MethodImpl(Hot)]
    internal static void Mix(ReadOnlySpan<short> first, short weight, ReadOnlySpan<short> second, short secondWeight, Span<byte> result)
    {
        var two = new Vector<short>(2);
        for (var at = 0; at + Step <= first.Length && at + Step <= result.Length; at += Step)
        {
            var next = at + Vector<short>.Count;
            Narrow(
                (High(new(first[at..]), weight) + High(new(second[at..]), secondWeight) + two) >> 2,
                (High(new(first[next..]), weight) + High(new(second[next..]), secondWeight) + two) >> 2,
                result[at..]
            );
        }
    }

    /// <summary>Computes the luma of RGB (BT.601, full range) with factors that are rounded to 14 bits.</summary>
    internal static void ToLuma(ReadOnlySpan<byte> red, ReadOnlySpan<byte> green, ReadOnlySpan<byte> blue, Span<byte> luma) =>
        Mix(red, green, blue, luma, 4899f / 16384, 9617f / 16384, 1868f / 16384);

    /// <summary>Computes the luma of RGB (BT.601, full range) with factors that are rounded to 15 bits. In a few pixels it differs by one from
    /// <see cref="ToLuma"/>, which OpenCV uses for YUV but not for gray pictures.</summary>
    internal static void ToGray(ReadOnlySpan<byte> red, ReadOnlySpan<byte> green, ReadOnlySpan<byte> blue, Span<byte> gray) =>
        Mix(red, green, blue, gray, 9798f / 32768, 19235f / 32768, 3735f / 32768);

    // All sums are exact, so that only the result is rounded.
    [MethodImpl(Hot)]
    private static void Mix(
        ReadOnlySpan<byte> red,
        ReadOnlySpan<byte> green,
        ReadOnlySpan<byte> blue,
        Span<byte> luma,
        float redPart,
        float greenPart,
        float bluePart
    )
    {
        var (r, g, b) = (new Vector<float>(redPart), new Vector<float>(greenPart), new Vector<float>(bluePart));
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

    /// <summary>Converts RGB to hue in steps of two degrees (0 to 179), saturation and value (0 to 255) with the fixed-point arithmetic of OpenCV:
    /// the reciprocals of value and range are rounded to 12 bits after the point. In floats, all of it is exact.</summary>
    [MethodImpl(Hot)]
    internal static void ToHsv(
        ReadOnlySpan<byte> red,
        ReadOnlySpan<byte> green,
        ReadOnlySpan<byte> blue,
        Span<byte> hue,
        Span<byte> saturation,
        Span<byte> value
    )
    {
        const float Unit = 1f / 4096;
        var (half, one, two, four) = (new Vector<float>(-0.5f), Vector<float>.One, new Vector<float>(2f), new Vector<float>(4f));
        var (sector, full, turn) = (new Vector<float>(4096 * 30f), new Vector<float>(4096 * 255f), new Vector<float>(180f));
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
                var angle = Vector.ConditionalSelect(
                    Vector.Equals(max, r),
                    g - b,
                    Vector.ConditionalSelect(Vector.Equals(max, g), b - r + (two * range), r - g + (four * range))
                );
                angle *= Vector.Round(sector / Vector.Max(range, one)) * Unit;
                // Narrow rounds: angles from -0.5 to 0 become 0.
                x[i] = angle + Vector.ConditionalSelect(Vector.LessThan(angle, half), turn, Vector<float>.Zero);
                y[i] = range * Vector.Round(full / Vector.Max(max, one)) * Unit;
                z[i] = max;
            }

            Narrow(x, hue[at..]);
            Narrow(y, saturation[at..]);
            Narrow(z, value[at..]);
        }
    }

    /// <summary>Computes the mean absolute difference of two planes.</summary>
    [MethodImpl(Hot)]
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
    [MethodImpl(Hot)]
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
    [MethodImpl(Hot)]
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
    [MethodImpl(Hot)]
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<short> Product(Vector<ushort> value, short offset, short factor) =>
        High((Vector.AsVectorInt16(value) - new Vector<short>(offset)) << 3, factor);

    // The upper half of a product, which is rounded down.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<short> High(Vector<short> value, short factor)
    {
        if (Avx2.IsSupported && Vector<short>.Count == Vector256<short>.Count)
        {
            return Avx2.MultiplyHigh(value.AsVector256(), Vector256.Create(factor)).AsVector();
        }

        Vector.Widen(value, out var low, out var high);
        return Vector.Narrow((low * factor) >> 16, (high * factor) >> 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Narrow(Vector<short> low, Vector<short> high, Span<byte> result)
    {
        var (zero, full) = (Vector<short>.Zero, new Vector<short>(255));
        low = Vector.Min(Vector.Max(low, zero), full);
        high = Vector.Min(Vector.Max(high, zero), full);
        Vector.Narrow(Vector.AsVectorUInt16(low), Vector.AsVectorUInt16(high)).CopyTo(result);
    }

    // Rounds and clips.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Narrow(Span<Vector<float>> values, Span<byte> result)
    {
        var low = Vector.Narrow(Round(values[0]), Round(values[1]));
        var high = Vector.Narrow(Round(values[2]), Round(values[3]));
        Vector.Narrow(low, high).CopyTo(result);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<uint> Round(Vector<float> value)
    {
        var clipped = Vector.Min(Vector.Max(value, Vector<float>.Zero), new Vector<float>(255f));
        return Vector.AsVectorUInt32(Vector.ConvertToInt32(clipped + new Vector<float>(0.5f)));
    }
}
