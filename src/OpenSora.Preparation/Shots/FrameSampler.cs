using System.Runtime.CompilerServices;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Shots;

/// <summary>Reduces the frames of a video and converts them to RGB, with the arithmetic of ffmpeg and OpenCV.</summary>
/// <remarks>PySceneDetect converts a frame to RGB, so that each block of 2x2 pixels shares its chroma, and then mixes the 2x2 pixels around each point of
/// a grid. This class computes the same pixels. The decoder delivers whole frames of small videos. Of larger ones it takes the pixel that is nearest to
/// each point, which is the same if the size is divided by an odd number, as from 1280x720 to 256x144.</remarks>
internal sealed class FrameSampler
{
    // Passing larger frames from process to process takes a considerable part of the time that decoding them takes.
    private const int MaxPixels = 640 * 480;
    private readonly bool _isWhole;
    private readonly int _sourceWidth;
    private readonly int _sourceHeight;
    private readonly int _width;
    private readonly int _height;
    private readonly Tap[] _columns;
    private readonly Tap[] _rows;

    // A line of the source.
    private readonly byte[] _y;
    private readonly byte[] _u;
    private readonly byte[] _v;
    private readonly byte[] _red;
    private readonly byte[] _green;
    private readonly byte[] _blue;

    private MixedLine _first;
    private MixedLine _second;

    internal FrameSampler(int sourceWidth, int sourceHeight, int width, int height)
    {
        _isWhole = (long)sourceWidth * sourceHeight <= Math.Max(MaxPixels, (long)width * height);
        (_width, _height) = (width, height);
        (_sourceWidth, _sourceHeight) = _isWhole ? (sourceWidth, sourceHeight) : (width, height);
        (_columns, _rows) = (Taps(_sourceWidth, width), Taps(_sourceHeight, height));
        (_y, _u, _v, _red, _green, _blue) = (Line(), Line(), Line(), Line(), Line(), Line());
        (_first, _second) = (new(width), new(width));

        byte[] Line() => Planes.Allocate(_sourceWidth + 1); // the last pixel has a neighbor with the weight 0
    }

    /// <summary>Gets what the decoder has to deliver.</summary>
    internal FrameStreamOptions Input =>
        new()
        {
            Width = _sourceWidth,
            Height = _sourceHeight,
            Layout = _isWhole ? PixelLayout.Yuv420 : PixelLayout.Yuv444,
        };

    /// <summary>Fills a frame with the pixels that the decoder delivered.</summary>
    internal void Apply(ReadOnlySpan<byte> pixels, ShotFrame frame)
    {
        var (red, green, blue) = frame.Color;
        if (_sourceWidth == _width && _sourceHeight == _height)
        {
            for (var row = 0; row < _height; row++)
            {
                var start = row * _width;
                Convert(pixels, row, red.AsSpan(start), green.AsSpan(start), blue.AsSpan(start));
            }

            return;
        }

        (_first.Row, _second.Row) = (-1, -1);
        for (var row = 0; row < _height; row++)
        {
            var (above, weight, weightBelow) = _rows[row];
            if (_second.Row == above)
            {
                (_first, _second) = (_second, _first);
            }

            Fill(_first, pixels, above);
            if (weightBelow != 0)
            {
                Fill(_second, pixels, above + 1);
            }

            var start = row * _width;
            Planes.Mix(_first.Red, weight, _second.Red, weightBelow, red.AsSpan(start));
            Planes.Mix(_first.Green, weight, _second.Green, weightBelow, green.AsSpan(start));
            Planes.Mix(_first.Blue, weight, _second.Blue, weightBelow, blue.AsSpan(start));
        }
    }

    // Pixel centers of the result are spread evenly over those of the source. Weights are rounded to 11 bits.
    private static Tap[] Taps(int from, int to)
    {
        const float Unit = 2048;
        var scale = 1 / ((double)to / from);
        return
        [
            .. Enumerable
                .Range(0, to)
                .Select(at =>
                {
                    var center = (float)(((at + 0.5) * scale) - 0.5);
                    var position = (int)MathF.Floor(center);
                    var part = center - position;
                    return position < 0 ? new Tap(0, (short)Unit, 0)
                        : position >= from - 1 ? new Tap(from - 1, (short)Unit, 0)
                        : new Tap(position, (short)MathF.Round((1 - part) * Unit), (short)MathF.Round(part * Unit));
                }),
        ];
    }

    private void Fill(MixedLine line, ReadOnlySpan<byte> pixels, int row)
    {
        if (line.Row == row)
        {
            return;
        }

        line.Row = row;
        Convert(pixels, row, _red, _green, _blue);
        Mix(_red, line.Red);
        Mix(_green, line.Green);
        Mix(_blue, line.Blue);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Mix(byte[] line, short[] result)
    {
        for (var x = 0; x < _columns.Length; x++)
        {
            var (left, weight, weightRight) = _columns[x];
            result[x] = (short)(((line[left] * weight) + (line[left + 1] * weightRight)) >> 4);
        }
    }

    private void Convert(ReadOnlySpan<byte> pixels, int row, Span<byte> red, Span<byte> green, Span<byte> blue)
    {
        var size = _sourceWidth * _sourceHeight;
        pixels.Slice(row * _sourceWidth, _sourceWidth).CopyTo(_y);
        if (_isWhole)
        {
            var (width, height) = ((_sourceWidth + 1) / 2, (_sourceHeight + 1) / 2);
            Planes.Double(pixels.Slice(size + (row / 2 * width), width), _u);
            Planes.Double(pixels.Slice(size + ((height + (row / 2)) * width), width), _v);
        }
        else
        {
            pixels.Slice(size + (row * _sourceWidth), _sourceWidth).CopyTo(_u);
            pixels.Slice((2 * size) + (row * _sourceWidth), _sourceWidth).CopyTo(_v);
        }

        Planes.ToRgb(_sourceWidth, _y, _u, _v, red, green, blue);
    }

    // A pixel, its weight, and the weight of the next one, in 2048ths.
    private readonly record struct Tap(int Position, short First, short Second);

    // The sums of a line of the source at the columns of the result: pixels times 128.
    private sealed class MixedLine(int width)
    {
        internal int Row { get; set; }

        internal short[] Red { get; } = Allocate(width);

        internal short[] Green { get; } = Allocate(width);

        internal short[] Blue { get; } = Allocate(width);

        private static short[] Allocate(int width) => new short[Planes.Allocate(width).Length];
    }
}
