using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace OpenSora.Preparation.Scores;

/// <summary>The sharpness of a clip: the variance of the Laplacian of its brightness, at the size of <see cref="ClipFrames"/>.</summary>
internal sealed class SharpnessScore : IClipScore
{
    private const int Frames = 8;

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new(
            "sharpness",
            "The variance of the Laplacian of the brightness (0 to 255) at a common size; the median of 8 frames. Blurred clips have a low one."
        ),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        if (frames.Width < 3 || frames.Height < 3)
        {
            return new([ScoreValue.Missing]);
        }

        var values = frames.Sample(Frames).Select(i => Variance(frames.Luma(i), frames.Width, frames.Height)).Order().ToArray();
        return new([ScoreValue.Rounded((values[(values.Length - 1) / 2] + values[values.Length / 2]) / 2)]);
    }

    /// <summary>Returns the variance of 4 times a pixel minus its four neighbors, over all pixels that have them.</summary>
    internal static double Variance(ReadOnlySpan<byte> luma, int width, int height)
    {
        ref var pixels = ref MemoryMarshal.GetReference(luma);
        long sum = 0;
        long squares = 0;
        for (var y = 1; y < height - 1; y++)
        {
            var x = 1;
            var rowSum = Vector128<int>.Zero;
            var rowSquares = Vector128<int>.Zero;
            for (; x <= width - 1 - Vector128<byte>.Count; x += Vector128<byte>.Count)
            {
                var at = (nuint)((y * width) + x);
                var center = Vector128.LoadUnsafe(ref pixels, at);
                var left = Vector128.LoadUnsafe(ref pixels, at - 1);
                var right = Vector128.LoadUnsafe(ref pixels, at + 1);
                var up = Vector128.LoadUnsafe(ref pixels, at - (nuint)width);
                var down = Vector128.LoadUnsafe(ref pixels, at + (nuint)width);
                Add(
                    (Vector128.WidenLower(center) << 2)
                        - (Vector128.WidenLower(left) + Vector128.WidenLower(right) + Vector128.WidenLower(up) + Vector128.WidenLower(down)),
                    ref rowSum,
                    ref rowSquares
                );
                Add(
                    (Vector128.WidenUpper(center) << 2)
                        - (Vector128.WidenUpper(left) + Vector128.WidenUpper(right) + Vector128.WidenUpper(up) + Vector128.WidenUpper(down)),
                    ref rowSum,
                    ref rowSquares
                );
            }

            sum += Vector128.Sum(rowSum);
            squares += Sum(rowSquares);
            for (; x < width - 1; x++)
            {
                var at = (y * width) + x;
                var value = (4 * luma[at]) - luma[at - 1] - luma[at + 1] - luma[at - width] - luma[at + width];
                sum += value;
                squares += value * value;
            }
        }

        var count = (double)(width - 2) * (height - 2);
        return (squares / count) - (sum / count * (sum / count));
    }

    private static void Add(Vector128<ushort> laplacian, ref Vector128<int> sum, ref Vector128<int> squares)
    {
        var (low, high) = Vector128.Widen(laplacian.AsInt16());
        sum += low + high;
        squares += (low * low) + (high * high);
    }

    private static long Sum(Vector128<int> values)
    {
        var (low, high) = Vector128.Widen(values);
        return Vector128.Sum(low + high);
    }
}
