using System.Globalization;
using System.Runtime.CompilerServices;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Shots;

/// <summary>Reduces the frames of a video and converts them to RGB, with the arithmetic of ffmpeg and OpenCV.</summary>
/// <remarks>PySceneDetect converts a frame to RGB, so that each block of 2x2 pixels shares its chroma, and then mixes the 2x2 pixels around each
/// point of a grid. This class computes the same pixels. The decoder delivers whole frames of small videos. Of larger ones it takes the pixel that is
/// nearest to each point, which is the same if the size is divided by an odd number, as from 1280x720 to 256x144.</remarks>
internal sealed class FrameSampler
{
    // Passing larger frames from process to process takes a considerable part of the time that decoding them takes.
    private const int MaxPixels = 640 * 480;
    private readonly bool _sharesChroma;
    private readonly int _sourceWidth;
    private readonly int _sourceHeight;
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

    /// <summary>Initializes a new instance.</summary>
    /// <param name="sourceWidth">The width of the frames that the decoder delivers.</param>
    /// <param name="sourceHeight">The height of the frames that the decoder delivers.</param>
    /// <param name="layout">The layout of their pixels.</param>
    /// <param name="maxSide">The length of the longer side of the result, at most.</param>
    internal FrameSampler(int sourceWidth, int sourceHeight, PixelLayout layout, int maxSide)
    {
        (_sourceWidth, _sourceHeight, _sharesChroma) = (sourceWidth, sourceHeight, layout == PixelLayout.Yuv420);
        var scale = Math.Min(1, (double)maxSide / Math.Max(sourceWidth, sourceHeight));
        (Width, Height) = (Scaled(sourceWidth, scale), Scaled(sourceHeight, scale));
        (_columns, _rows) = (Taps(sourceWidth, Width), Taps(sourceHeight, Height));
        (_y, _u, _v, _red, _green, _blue) = (Line(), Line(), Line(), Line(), Line(), Line());
        (_first, _second) = (new(Width), new(Width));

        byte[] Line() => Planes.Allocate(sourceWidth + 1); // the last pixel has a neighbor with the weight 0
    }

    /// <summary>Gets the width of the result.</summary>
    internal int Width { get; }

    /// <summary>Gets the height of the result.</summary>
    internal int Height { get; }

    /// <summary>Gets what the decoder has to deliver of a video: whole frames if they are small.</summary>
    internal static FrameStreamOptions Input(SourceInfo source, int maxSide)
    {
        var isWhole = (long)source.Width * source.Height <= MaxPixels;
        var scale = isWhole ? 1 : Math.Min(1, (double)maxSide / Math.Max(source.Width, source.Height));
        return new()
        {
            Width = Scaled(source.Width, scale),
            Height = Scaled(source.Height, scale),
            Layout = isWhole ? PixelLayout.Yuv420 : PixelLayout.Yuv444,
        };
    }

    /// <summary>Gets the same size for a video with unknown metadata, as expressions that ffmpeg's scale filter evaluates.</summary>
    internal static string InputSize(int maxSide)
    {
        const string ShownWidth = "max(1,round(iw*sar))"; // in square pixels
        return $"'{Scaled(ShownWidth)}':'{Scaled("ih")}'";

        string Scaled(string side) =>
            string.Create(CultureInfo.InvariantCulture, $"st(0,{side}*min(1,{maxSide}/max({ShownWidth},ih)));")
            + string.Create(CultureInfo.InvariantCulture, $"if(lte({ShownWidth}*ih,{MaxPixels}),{side},")
            + "max(1,if(eq(mod(ld(0),1),0.5),2*round(ld(0)/2),round(ld(0)))))"; // rounds a half to the even number
    }

    /// <summary>Fills a frame with the pixels that the decoder delivered.</summary>
    internal void Apply(ReadOnlySpan<byte> pixels, ShotFrame frame)
    {
        var (red, green, blue) = frame.Color;
        if (_sourceWidth == Width && _sourceHeight == Height)
        {
            for (var row = 0; row < Height; row++)
            {
                var start = row * Width;
                Convert(pixels, row, red.AsSpan(start), green.AsSpan(start), blue.AsSpan(start));
            }

            return;
        }

        (_first.Row, _second.Row) = (-1, -1);
        for (var row = 0; row < Height; row++)
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

            var start = row * Width;
            Planes.Mix(_first.Red, weight, _second.Red, weightBelow, red.AsSpan(start));
            Planes.Mix(_first.Green, weight, _second.Green, weightBelow, green.AsSpan(start));
            Planes.Mix(_first.Blue, weight, _second.Blue, weightBelow, blue.AsSpan(start));
        }
    }

    private static int Scaled(int side, double scale) => Math.Max(1, (int)Math.Round(side * scale));

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
        if (_sharesChroma)
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
