using System.Runtime.CompilerServices;

namespace OpenSora.Preparation.Shots;

/// <summary>Finds edges with the method of J. Canny (A Computational Approach to Edge Detection, 1986), and widens them.</summary>
internal sealed class EdgeMap
{
    private const byte Edge = 255;
    private readonly int _width;
    private readonly int _height;
    private readonly int _kernel;
    private readonly short[] _across;
    private readonly short[] _down;
    private readonly short[] _magnitude;
    private readonly byte[] _edges;
    private readonly byte[] _rows;
    private readonly byte[] _pixels;
    private readonly byte[] _wide; // a line with margins
    private readonly Stack<int> _found = [];

    internal EdgeMap(int width, int height, int? kernel)
    {
        if (kernel is { } given && (given < 3 || given % 2 == 0))
        {
            throw new ArgumentOutOfRangeException(nameof(kernel), kernel, "The size by which edges are widened must be an odd number of at least 3.");
        }

        (_width, _height) = (width, height);
        _kernel = kernel ?? ((4 + (int)Math.Round(Math.Sqrt(width * height) / 192)) | 1);
        var pixels = width * height;
        (_across, _down, _magnitude) = (new short[pixels], new short[pixels], new short[pixels]);
        (_edges, _rows, _pixels, _wide) = (new byte[pixels], new byte[pixels], new byte[pixels], new byte[width + _kernel]);
    }

    /// <summary>Gets the widened edges: 255 for an edge, 0 for other pixels.</summary>
    internal ReadOnlySpan<byte> Pixels => _pixels;

    /// <summary>Finds the edges of a plane. The thresholds depend on its median.</summary>
    internal void Compute(ReadOnlySpan<byte> plane)
    {
        var median = Median(plane);
        Gradients(plane);
        Trace(low: (int)(median * 2 / 3), high: (int)Math.Min(255, median * 4 / 3));
        Widen();
    }

    private static double Median(ReadOnlySpan<byte> plane)
    {
        Span<int> counts = stackalloc int[256];
        counts.Clear();
        foreach (var pixel in plane)
        {
            counts[pixel]++;
        }

        return (Rank(counts, (plane.Length - 1) / 2) + Rank(counts, plane.Length / 2)) / 2.0;

        static int Rank(ReadOnlySpan<int> counts, int rank)
        {
            var level = 0;
            for (var below = counts[0]; below <= rank; below += counts[level])
            {
                level++;
            }

            return level;
        }
    }

    // Sobel's operator; pixels outside repeat those at the border.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Gradients(ReadOnlySpan<byte> plane)
    {
        for (var y = 0; y < _height; y++)
        {
            var above = plane.Slice(Math.Max(0, y - 1) * _width, _width);
            var here = plane.Slice(y * _width, _width);
            var below = plane.Slice(Math.Min(_height - 1, y + 1) * _width, _width);
            for (var x = 0; x < _width; x++)
            {
                var (left, right) = (Math.Max(0, x - 1), Math.Min(_width - 1, x + 1));
                var across = above[right] - above[left] + (2 * (here[right] - here[left])) + below[right] - below[left];
                var down = below[left] - above[left] + (2 * (below[x] - above[x])) + below[right] - above[right];
                var at = (y * _width) + x;
                (_across[at], _down[at], _magnitude[at]) = ((short)across, (short)down, (short)(Math.Abs(across) + Math.Abs(down)));
            }
        }
    }

    // Keeps the ridges of the gradient that are above the high threshold somewhere and above the low one everywhere.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Trace(int low, int high)
    {
        const byte Candidate = 1;
        _edges.AsSpan().Clear();
        for (var y = 0; y < _height; y++)
        {
            for (var x = 0; x < _width; x++)
            {
                var at = (y * _width) + x;
                if (_magnitude[at] <= low || !IsRidge(x, y, at))
                {
                    continue;
                }

                _edges[at] = Candidate;
                if (_magnitude[at] > high)
                {
                    _edges[at] = Edge;
                    _found.Push(at);
                }
            }
        }

        while (_found.TryPop(out var at))
        {
            var (y, x) = Math.DivRem(at, _width);
            for (var v = Math.Max(0, y - 1); v <= Math.Min(_height - 1, y + 1); v++)
            {
                for (var u = Math.Max(0, x - 1); u <= Math.Min(_width - 1, x + 1); u++)
                {
                    var near = (v * _width) + u;
                    if (_edges[near] == Candidate)
                    {
                        _edges[near] = Edge;
                        _found.Push(near);
                    }
                }
            }
        }

        for (var i = 0; i < _edges.Length; i++)
        {
            _edges[i] = _edges[i] == Edge ? Edge : (byte)0;
        }
    }

    // Compares a pixel with its neighbors in the direction of the gradient, rounded to 45 degrees.
    private bool IsRidge(int x, int y, int at)
    {
        const double Tangent = 0.41421356; // of 22.5 degrees
        var (across, down) = (Math.Abs((int)_across[at]), Math.Abs((int)_down[at]));
        if (down < across * Tangent)
        {
            return _magnitude[at] > Magnitude(x - 1, y) && _magnitude[at] >= Magnitude(x + 1, y);
        }

        if (across < down * Tangent)
        {
            return _magnitude[at] > Magnitude(x, y - 1) && _magnitude[at] >= Magnitude(x, y + 1);
        }

        var slant = (_across[at] ^ _down[at]) < 0 ? -1 : 1;
        return _magnitude[at] > Magnitude(x - slant, y - 1) && _magnitude[at] > Magnitude(x + slant, y + 1);
    }

    private int Magnitude(int x, int y) => x < 0 || y < 0 || x >= _width || y >= _height ? 0 : _magnitude[(y * _width) + x];

    private void Widen()
    {
        var half = _kernel / 2;
        for (var y = 0; y < _height; y++)
        {
            _wide.AsSpan().Clear();
            _edges.AsSpan(y * _width, _width).CopyTo(_wide.AsSpan(half));
            var row = _rows.AsSpan(y * _width, _width);
            _wide.AsSpan(0, _width).CopyTo(row);
            for (var i = 1; i < _kernel; i++)
            {
                Planes.Raise(row, _wide.AsSpan(i, _width));
            }
        }

        for (var y = 0; y < _height; y++)
        {
            var row = _pixels.AsSpan(y * _width, _width);
            row.Clear();
            for (var v = Math.Max(0, y - half); v <= Math.Min(_height - 1, y + half); v++)
            {
                Planes.Raise(row, _rows.AsSpan(v * _width, _width));
            }
        }
    }
}
