namespace OpenSora.Preparation.Scores;

/// <summary>The area that text covers, estimated without a model.</summary>
/// <remarks>
/// Text consists of strokes of one color: pairs of opposite edges a few pixels apart, with the same brightness between them, many in a row. Edges of objects come
/// alone; textures have pairs, but of many brightnesses. Lines of text are runs of cells whose strokes agree.
/// </remarks>
internal sealed class TextAreaScore : IClipScore
{
    private const int Frames = 4;
    private const int Cell = 8;

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [
        new("text_area", "An estimate of the fraction of the image that text covers, such as titles and subtitles, from 0 to 1; the mean of 4 frames."),
    ];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        var sampled = frames.Sample(Frames);
        var area = 0.0;
        foreach (var i in sampled)
        {
            cancellationToken.ThrowIfCancellationRequested();
            area += Area(frames.Luma(i), frames.Width, frames.Height);
        }

        return new([area / sampled.Count]);
    }

    /// <summary>Returns the estimated fraction of an image that text covers.</summary>
    internal static double Area(ReadOnlySpan<byte> luma, int width, int height)
    {
        var isText = Cells(luma, width, height, out _);
        return (double)isText.Count(each => each) / Math.Max(1, isText.Length);
    }

    /// <summary>Returns whether each cell of 8x8 pixels belongs to a line of text.</summary>
    internal static bool[] Cells(ReadOnlySpan<byte> luma, int width, int height, out int columns)
    {
        columns = width / Cell;
        var rows = height / Cell;
        var isText = new bool[columns * rows];
        var bright = new Strokes[columns];
        var dark = new Strokes[columns];
        for (var row = 0; row < rows; row++)
        {
            Array.Clear(bright);
            Array.Clear(dark);
            for (var y = row * Cell; y < (row + 1) * Cell; y++)
            {
                FindStrokes(luma.Slice(y * width, width), bright, dark);
            }

            MarkLines(bright, isText.AsSpan(row * columns, columns));
            MarkLines(dark, isText.AsSpan(row * columns, columns));
        }

        return isText;
    }

    private const int MinEdge = 36; // difference of brightness over two pixels
    private const int MaxStroke = 9; // pixels
    private const int MinStrokes = 3; // in a cell
    private const double MaxDeviation = 22; // of the strokes' brightness
    private const int MinCells = 5; // in a line of text
    private const int MaxGap = 1; // cells between words

    private static void FindStrokes(ReadOnlySpan<byte> line, Span<Strokes> bright, Span<Strokes> dark)
    {
        // Edges are local extrema of the difference.
        var (rise, riseAt, fall, fallAt) = (0, -1000, 0, -1000);
        for (var x = 2; x < line.Length - 2; x++)
        {
            var edge = line[x + 1] - line[x - 1];
            if (Math.Abs(edge) < MinEdge)
            {
                continue;
            }

            var (before, after) = (line[x] - line[x - 2], line[x + 2] - line[x]);
            if (edge > 0 && edge >= before && edge > after)
            {
                if (x - fallAt <= MaxStroke && Similar(edge, -fall))
                {
                    Add(dark, fallAt, x, Extreme(line[fallAt..(x + 1)], isBright: false));
                }

                (rise, riseAt) = (edge, x);
            }
            else if (edge < 0 && edge <= before && edge < after)
            {
                if (x - riseAt <= MaxStroke && Similar(-edge, rise))
                {
                    Add(bright, riseAt, x, Extreme(line[riseAt..(x + 1)], isBright: true));
                }

                (fall, fallAt) = (edge, x);
            }
        }

        static bool Similar(int a, int b) => Math.Max(a, b) <= 3 * Math.Min(a, b);

        static void Add(Span<Strokes> cells, int start, int end, int level)
        {
            var cell = (start + end) / 2 / Cell;
            if (cell < cells.Length)
            {
                cells[cell] = cells[cell].With(level);
            }
        }

        static int Extreme(ReadOnlySpan<byte> pixels, bool isBright)
        {
            var extreme = pixels[0];
            foreach (var pixel in pixels)
            {
                extreme = isBright ? Math.Max(extreme, pixel) : Math.Min(extreme, pixel);
            }

            return extreme;
        }
    }

    private static void MarkLines(ReadOnlySpan<Strokes> cells, Span<bool> isText)
    {
        for (var start = 0; start < cells.Length; start++)
        {
            if (!cells[start].IsText)
            {
                continue;
            }

            // Extends the line while strokes have the same brightness as those so far.
            var line = cells[start];
            var (last, count) = (start, 1);
            for (var next = start + 1; next < cells.Length && next - last <= MaxGap + 1; next++)
            {
                var together = line.With(cells[next]);
                if (cells[next].IsText && together.Deviation <= MaxDeviation)
                {
                    (line, last, count) = (together, next, count + 1);
                }
            }

            if (count >= MinCells)
            {
                isText[start..(last + 1)].Fill(true);
                start = last;
            }
        }
    }

    /// <summary>The strokes of a cell: their number, and the sums for the mean and the standard deviation of their brightness.</summary>
    private readonly record struct Strokes(int Count, int Sum, int Squares)
    {
        internal bool IsText => Count >= MinStrokes && Deviation <= MaxDeviation;

        internal double Deviation => Math.Sqrt(Math.Max(0, ((double)Squares / Count) - ((double)Sum / Count * ((double)Sum / Count))));

        internal Strokes With(int level) => new(Count + 1, Sum + level, Squares + (level * level));

        internal Strokes With(Strokes other) => new(Count + other.Count, Sum + other.Sum, Squares + other.Squares);
    }
}
