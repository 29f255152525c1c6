using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace OpenSora.Preparation.Scores;

/// <summary>The motion of one block of an image.</summary>
/// <param name="X">The horizontal position of the block's center, in pixels from the center of the image.</param>
/// <param name="Y">The vertical position of the block's center, in pixels from the center of the image.</param>
/// <param name="U">The motion to the right, in pixels.</param>
/// <param name="V">The motion downward, in pixels.</param>
internal readonly record struct BlockFlow(float X, float Y, float U, float V);

/// <summary>An image at several sizes, each half of the one before.</summary>
internal sealed class Pyramid
{
    private const int SmallestSide = 16;

    internal Pyramid(float[] pixels, int width, int height)
    {
        Levels.Add((pixels, width, height));
        while (Math.Min(width, height) / 2 >= SmallestSide)
        {
            pixels = Pixels.Half(pixels, width, height);
            (width, height) = (width / 2, height / 2);
            Levels.Add((pixels, width, height));
        }
    }

    internal List<(float[] Pixels, int Width, int Height)> Levels { get; } = [];
}

/// <summary>Optical flow of blocks by the method of Lucas and Kanade, from coarse to fine.</summary>
/// <remarks>
/// Lucas and Kanade, "An Iterative Image Registration Technique" (1981), in the inverse form of Baker and Matthews (2004): gradients are those of
/// the first
/// image, so that each iteration samples one block of the second. As in Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (2016),
/// blocks start
/// from the flow of the coarser image; here also from their neighbors' flow, whichever fits best.
/// </remarks>
internal static class OpticalFlow
{
    private const int Block = 8;
    private const int Iterations = 8;
    private const float MinTexture = 12 * Block * Block; // the smaller eigenvalue of the gradients' matrix: less is noise
    private const float MaxResidual = 18; // mean absolute difference of a block that was found, of 255

    /// <summary>Returns the motion of all blocks that have enough texture and are found in the second image.</summary>
    internal static List<BlockFlow> Between(Pyramid first, Pyramid second)
    {
        Span<float> gradients = stackalloc float[2 * Block * Block];
        (float U, float V)[] coarse = [];
        var (coarseColumns, coarseRows) = (0, 0);
        List<BlockFlow> result = [];
        for (var level = first.Levels.Count - 1; level >= 0; level--)
        {
            var (pixels, width, height) = first.Levels[level];
            var target = second.Levels[level].Pixels;
            var (columns, rows) = (Math.Max(1, (width - 2) / Block), Math.Max(1, (height - 2) / Block));
            var (marginX, marginY) = ((width - (columns * Block)) / 2, (height - (rows * Block)) / 2);
            var flow = new (float U, float V)[columns * rows];
            for (var row = 0; row < rows; row++)
            {
                for (var column = 0; column < columns; column++)
                {
                    var (left, top) = (marginX + (column * Block), marginY + (row * Block));
                    var (xx, xy, yy) = Gradients(pixels, width, left, top, gradients);
                    var start = (U: 0f, V: 0f);
                    var best = Difference(pixels, target, width, height, left, top, start);
                    if (coarse.Length > 0)
                    {
                        var parentRow = Math.Min(row / 2, coarseRows - 1);
                        var (u, v) = coarse[(parentRow * coarseColumns) + Math.Min(column / 2, coarseColumns - 1)];
                        Try((2 * u, 2 * v), ref start, ref best);
                    }

                    if (column > 0)
                    {
                        Try(flow[(row * columns) + column - 1], ref start, ref best);
                    }

                    if (row > 0)
                    {
                        Try(flow[((row - 1) * columns) + column], ref start, ref best);
                    }

                    var smaller = ((xx + yy) / 2) - MathF.Sqrt((((xx - yy) / 2) * ((xx - yy) / 2)) + (xy * xy));
                    if (smaller < MinTexture)
                    {
                        flow[(row * columns) + column] = start;
                        continue;
                    }

                    var found = Refine(pixels, target, width, height, left, top, gradients, (xx, xy, yy), start, ref best);
                    flow[(row * columns) + column] = found;
                    if (level == 0 && best < MaxResidual * Block * Block)
                    {
                        var half = (Block - 1) / 2f;
                        result.Add(new(left + half - ((width - 1) / 2f), top + half - ((height - 1) / 2f), found.U, found.V));
                    }

                    void Try((float U, float V) candidate, ref (float U, float V) start, ref float best)
                    {
                        if (candidate == start)
                        {
                            return;
                        }

                        var difference = Difference(pixels, target, width, height, left, top, candidate);
                        if (difference < best)
                        {
                            (start, best) = (candidate, difference);
                        }
                    }
                }
            }

            (coarse, coarseColumns, coarseRows) = (flow, columns, rows);
        }

        return result;
    }

    // Central differences of a block, horizontal ones first, and the sums of their products.
    private static (float XX, float XY, float YY) Gradients(float[] pixels, int width, int left, int top, Span<float> gradients)
    {
        ref var source = ref MemoryMarshal.GetArrayDataReference(pixels);
        Vector256<float> xx = default,
            xy = default,
            yy = default;
        for (var y = 0; y < Block; y++)
        {
            var at = (nuint)(((top + y) * width) + left);
            var dx = (Vector256.LoadUnsafe(ref source, at + 1) - Vector256.LoadUnsafe(ref source, at - 1)) * 0.5f;
            var dy = (Vector256.LoadUnsafe(ref source, at + (nuint)width) - Vector256.LoadUnsafe(ref source, at - (nuint)width)) * 0.5f;
            dx.CopyTo(gradients[(y * Block)..]);
            dy.CopyTo(gradients[((Block + y) * Block)..]);
            xx += dx * dx;
            xy += dx * dy;
            yy += dy * dy;
        }

        return (Vector256.Sum(xx), Vector256.Sum(xy), Vector256.Sum(yy));
    }

    // Iterates until the block stops moving; keeps the start where that does not lower the difference.
    private static (float U, float V) Refine(
        float[] pixels,
        float[] target,
        int width,
        int height,
        int left,
        int top,
        ReadOnlySpan<float> gradients,
        (float XX, float XY, float YY) matrix,
        (float U, float V) start,
        ref float best
    )
    {
        var determinant = (matrix.XX * matrix.YY) - (matrix.XY * matrix.XY);
        var (u, v) = start;
        for (var i = 0; i < Iterations && IsInside(width, height, left + u, top + v); i++)
        {
            var sampler = new BlockSampler(target, width, left + u, top + v);
            Vector256<float> byX = default,
                byY = default;
            for (var y = 0; y < Block; y++)
            {
                var difference = sampler.Row(y) - Vector256.Create<float>(pixels.AsSpan(((top + y) * width) + left, Block));
                byX += difference * Vector256.Create(gradients.Slice(y * Block, Block));
                byY += difference * Vector256.Create(gradients.Slice((Block + y) * Block, Block));
            }

            var (bx, by) = (Vector256.Sum(byX), Vector256.Sum(byY));
            var (stepU, stepV) = (((matrix.YY * bx) - (matrix.XY * by)) / determinant, ((matrix.XX * by) - (matrix.XY * bx)) / determinant);
            u -= stepU;
            v -= stepV;
            if ((stepU * stepU) + (stepV * stepV) < 0.0004f)
            {
                break;
            }
        }

        // A block that ran away from its start by more than its size has lost its way.
        var far = MathF.Max(MathF.Abs(u - start.U), MathF.Abs(v - start.V)) > Block;
        var final = far ? float.MaxValue : Difference(pixels, target, width, height, left, top, (u, v));
        if (final > best)
        {
            return start;
        }

        best = final;
        return (u, v);
    }

    // The sum of absolute differences; the largest value if the block leaves the image.
    private static float Difference(float[] pixels, float[] target, int width, int height, int left, int top, (float U, float V) flow)
    {
        if (!IsInside(width, height, left + flow.U, top + flow.V))
        {
            return float.MaxValue;
        }

        var sampler = new BlockSampler(target, width, left + flow.U, top + flow.V);
        Vector256<float> sum = default;
        for (var y = 0; y < Block; y++)
        {
            sum += Vector256.Abs(sampler.Row(y) - Vector256.Create<float>(pixels.AsSpan(((top + y) * width) + left, Block)));
        }

        return Vector256.Sum(sum);
    }

    private static bool IsInside(int width, int height, float left, float top) =>
        left >= 0 && top >= 0 && left < width - Block - 1 && top < height - Block - 1;

    // Reads a block at a position between pixels, by bilinear interpolation.
    private readonly ref struct BlockSampler
    {
        private readonly ref float _start;
        private readonly nuint _width;
        private readonly float _topLeft;
        private readonly float _topRight;
        private readonly float _bottomLeft;
        private readonly float _bottomRight;

        internal BlockSampler(float[] pixels, int width, float left, float top)
        {
            var (x, y) = ((int)left, (int)top);
            var (right, below) = (left - x, top - y);
            _start = ref pixels[(y * width) + x];
            _width = (nuint)width;
            (_topLeft, _topRight) = ((1 - right) * (1 - below), right * (1 - below));
            (_bottomLeft, _bottomRight) = ((1 - right) * below, right * below);
        }

        internal Vector256<float> Row(int y)
        {
            var at = (nuint)y * _width;
            return (Vector256.LoadUnsafe(ref _start, at) * _topLeft)
                + (Vector256.LoadUnsafe(ref _start, at + 1) * _topRight)
                + (Vector256.LoadUnsafe(ref _start, at + _width) * _bottomLeft)
                + (Vector256.LoadUnsafe(ref _start, at + _width + 1) * _bottomRight);
        }
    }
}
