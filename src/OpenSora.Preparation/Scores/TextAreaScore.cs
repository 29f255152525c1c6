namespace OpenSora.Preparation.Scores;

/// <summary>The area that text covers, estimated without a model.</summary>
/// <remarks>
/// Text consists of strokes of one color: pairs of opposite edges a few pixels apart, with the same brightness between them, many in a row. Edges of
/// objects come
/// alone; textures have pairs, but of many brightnesses. A line of text is a run of cells whose strokes agree.
/// </remarks>
internal sealed class TextAreaScore : IClipScore
{
    private const int Frames = 4;
    private const int Cell = 8; // the width of a cell in pixels, and the height of the window that looks for lines
    private const int Band = 4; // the height of a cell, by which the window moves
    private const int MinEdge = 50; // difference of brightness over two pixels
    private const int MaxEdgeRatio = 3; // between the edges of a stroke
    private const int MaxStroke = 7; // the width of a stroke in pixels
    private const int MinStrokes = 3; // in a window
    private const double MaxDeviation = 16; // of the strokes' brightness; or a tenth of their contrast, if that is more
    private const double MaxRelativeDeviation = 0.1;
    private const int MinCells = 5; // in a line of text
    private const int MaxGap = 2; // cells between words

    public IReadOnlyList<ScoreColumn> Columns { get; } =
    [new("text_area", "An estimate of the fraction of the image that text covers, such as titles and subtitles, from 0 to 1; the mean of 4 frames.")];

    public ValueTask<IReadOnlyList<ScoreValue>> ComputeAsync(ClipFrames frames, CancellationToken cancellationToken = default)
    {
        var sampled = frames.Sample(Frames);
        var area = 0.0;
        foreach (var i in sampled)
        {
            cancellationToken.ThrowIfCancellationRequested();
            area += Area(frames.Luma(i), frames.Width, frames.Height);
        }

        return new([ScoreValue.Rounded(area / sampled.Count)]);
    }

    /// <summary>Returns the estimated fraction of an image that text covers.</summary>
    internal static double Area(ReadOnlySpan<byte> luma, int width, int height)
    {
        var isText = Cells(luma, width, height, out _);
        return (double)isText.Count(each => each) / Math.Max(1, isText.Length);
    }

    /// <summary>Returns whether each cell, 8 pixels wide and 4 high, belongs to a line of text.</summary>
    internal static bool[] Cells(ReadOnlySpan<byte> luma, int width, int height, out int columns)
    {
        columns = width / Cell;
        var bands = height / Band;
        var isText = new bool[columns * bands];
        var (above, current) = (new BandStrokes(columns), new BandStrokes(columns));
        for (var band = 0; band < bands; band++)
        {
            (above, current) = (current, above);
            current.Clear();
            for (var y = band * Band; y < (band + 1) * Band; y++)
            {
                FindStrokes(luma.Slice(y * width, width), current);
            }

            if (band > 0)
            {
                var line = isText.AsSpan((band - 1) * columns, 2 * columns);
                MarkLines(above.Bright, current.Bright, line);
                MarkLines(above.Dark, current.Dark, line);
            }
        }

        return isText;
    }

    // Finds pairs of opposite edges. Edges are local extrema of the difference between neighbors.
    private static void FindStrokes(ReadOnlySpan<byte> line, BandStrokes strokes)
    {
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
                Add(strokes.Dark, line, fallAt, x, -fall, edge, isBright: false);
                (rise, riseAt) = (edge, x);
            }
            else if (edge < 0 && edge <= before && edge < after)
            {
                Add(strokes.Bright, line, riseAt, x, rise, -edge, isBright: true);
                (fall, fallAt) = (edge, x);
            }
        }
    }

    private static void Add(Strokes[] cells, ReadOnlySpan<byte> line, int start, int end, int startEdge, int endEdge, bool isBright)
    {
        var cell = (start + end) / 2 / Cell;
        if (end - start > MaxStroke || Math.Max(startEdge, endEdge) > MaxEdgeRatio * Math.Min(startEdge, endEdge) || cell >= cells.Length)
        {
            return;
        }

        var level = (int)line[start];
        foreach (var pixel in line[start..(end + 1)])
        {
            level = isBright ? Math.Max(level, pixel) : Math.Min(level, pixel);
        }

        cells[cell] += new Strokes(1, level, level * level, (startEdge + endEdge) / 2);
    }

    // Marks the runs of cells whose strokes have the same brightness, in a window of two bands.
    private static void MarkLines(ReadOnlySpan<Strokes> above, ReadOnlySpan<Strokes> below, Span<bool> isText)
    {
        var columns = above.Length;
        for (var start = 0; start < columns; start++)
        {
            var line = above[start] + below[start];
            if (!line.IsText)
            {
                continue;
            }

            var (last, count) = (start, 1);
            for (var next = start + 1; next < columns && next - last <= MaxGap + 1; next++)
            {
                var cell = above[next] + below[next];
                if (cell.IsText && (line + cell).IsText)
                {
                    (line, last, count) = (line + cell, next, count + 1);
                }
            }

            if (count >= MinCells)
            {
                isText[start..(last + 1)].Fill(true);
                isText[(columns + start)..(columns + last + 1)].Fill(true);
                start = last;
            }
        }
    }

    /// <summary>The strokes in a band of cells: brighter and darker than what surrounds them.</summary>
    private sealed class BandStrokes(int columns)
    {
        internal Strokes[] Bright { get; } = new Strokes[columns];

        internal Strokes[] Dark { get; } = new Strokes[columns];

        internal void Clear()
        {
            Array.Clear(Bright);
            Array.Clear(Dark);
        }
    }

    /// <summary>Strokes: their number, the sums for the mean and the standard deviation of their brightness, and that of their contrast.</summary>
    private readonly record struct Strokes(int Count, int Sum, int Squares, int Contrast)
    {
        /// <summary>Gets a value that indicates whether there are enough strokes, and all of one brightness.</summary>
        internal bool IsText
        {
            get
            {
                if (Count < MinStrokes)
                {
                    return false;
                }

                var mean = (double)Sum / Count;
                var variance = ((double)Squares / Count) - (mean * mean);
                var allowed = Math.Max(MaxDeviation, MaxRelativeDeviation * Contrast / Count);
                return variance <= allowed * allowed;
            }
        }

        public static Strokes operator +(Strokes a, Strokes b) =>
            new(a.Count + b.Count, a.Sum + b.Sum, a.Squares + b.Squares, a.Contrast + b.Contrast);
    }
}
