using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Shots;

/// <summary>Scales planes so that every pixel of the result is the mean of the area it covers.</summary>
internal sealed class AreaScale
{
    private readonly int _width;
    private readonly (int Start, float[] Weights)[] _columns;
    private readonly (int Start, float[] Weights)[] _rows;
    private readonly float[] _line;
    private readonly float[] _sum;

    internal AreaScale(int width, int height, int toWidth, int toHeight)
    {
        _width = width;
        (_columns, _rows) = (Weights(width, toWidth), Weights(height, toHeight));
        (_line, _sum) = (new float[width], new float[width]);
    }

    /// <summary>Scales a plane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal void Apply(ReadOnlySpan<byte> plane, Span<float> result)
    {
        for (var y = 0; y < _rows.Length; y++)
        {
            var (top, weights) = _rows[y];
            _sum.AsSpan().Clear();
            for (var i = 0; i < weights.Length; i++)
            {
                Planes.ToSingle(plane.Slice((top + i) * _width, _width), _line);
                TensorPrimitives.MultiplyAdd(_line, weights[i], _sum, _sum);
            }

            for (var x = 0; x < _columns.Length; x++)
            {
                var (left, columns) = _columns[x];
                var sum = 0f;
                for (var i = 0; i < columns.Length; i++)
                {
                    sum += _sum[left + i] * columns[i];
                }

                result[(y * _columns.Length) + x] = sum;
            }
        }
    }

    /// <summary>Scales a plane to whole numbers, with the order of sums of OpenCV, which decides how a mean in the middle of two numbers is
    /// rounded.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal void ApplyRounded(ReadOnlySpan<byte> plane, Span<float> result)
    {
        result.Clear();
        for (var y = 0; y < _rows.Length; y++)
        {
            var (top, weights) = _rows[y];
            var line = result.Slice(y * _columns.Length, _columns.Length);
            for (var i = 0; i < weights.Length; i++)
            {
                var row = plane.Slice((top + i) * _width, _width);
                for (var x = 0; x < _columns.Length; x++)
                {
                    var (left, columns) = _columns[x];
                    var sum = 0f;
                    for (var j = 0; j < columns.Length; j++)
                    {
                        sum += row[left + j] * columns[j];
                    }

                    line[x] += sum * weights[i];
                }
            }

            TensorPrimitives.Round(line, line);
        }
    }

    // The part of every source pixel in each pixel of the result.
    private static (int Start, float[] Weights)[] Weights(int from, int to)
    {
        var ratio = (double)from / to;
        return
        [
            .. Enumerable
                .Range(0, to)
                .Select(at =>
                {
                    var (start, end) = (at * ratio, (at + 1) * ratio);
                    var (first, last) = ((int)(start + 1e-9), Math.Min(from, Math.Max((int)Math.Ceiling(end - 1e-9), (int)(start + 1e-9) + 1)));
                    var weights = Enumerable
                        .Range(first, last - first)
                        .Select(pixel => (float)((Math.Min(end, pixel + 1) - Math.Max(start, pixel)) / ratio))
                        .ToArray();
                    return (first, weights);
                }),
        ];
    }
}
