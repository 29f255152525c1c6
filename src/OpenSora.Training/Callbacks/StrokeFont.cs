using System.Globalization;

namespace OpenSora.Training.Callbacks;

/// <summary>A plain font drawn with a pen: enough for the labels of a chart, the same on every machine.</summary>
/// <remarks>Glyphs are paths on a grid of 20 to the size, the baseline at 0, y upwards: capitals are 14 high, small letters 10. <c>M</c> moves,
/// <c>L</c> draws a line,
/// <c>h</c> a quarter of an ellipse that departs horizontally, <c>v</c> one that departs vertically, <c>q</c> a parabola with its control
/// point.</remarks>
internal static class StrokeFont
{
    private const double Grid = 20,
        Gap = 3.6,
        Space = 5.5,
        Kappa = 0.5523;

    private const string Bowl = "M8.6 5v4.3 10h0 5v4.3 0h8.6 5",
        BowlAtStem = "M0 5v4.3 10h8.6 5v4.3 0h0 5";

    private static readonly Dictionary<char, Glyph> Glyphs = new Dictionary<char, string>
    {
        ['A'] = "M0 0L5.5 14L11 0M2 5L9 5",
        ['B'] = "M0 0L0 14L5.4 14h9 10.8v5.4 7.6L0 7.6M5.4 7.6h10 3.8v5.4 0L0 0",
        ['C'] = "M10.6 10.4v5.8 14h0 7v5.8 0h10.6 3.6",
        ['D'] = "M0 0L0 14L4 14h10.6 7v4 0L0 0",
        ['E'] = "M8.4 14L0 14L0 0L8.4 0M0 7.4L7.2 7.4",
        ['F'] = "M8.4 14L0 14L0 0M0 7.2L7.2 7.2",
        ['G'] = "M10.4 10.8v5.8 14h0 7v5.8 0h10.8 4L10.8 6.6L6.4 6.6",
        ['H'] = "M0 0L0 14M10 0L10 14M0 7.4L10 7.4",
        ['I'] = "M0 0L0 14",
        ['J'] = "M6.4 14L6.4 4v3.2 0h0 3.2",
        ['K'] = "M0 0L0 14M9.4 14L0 5M3.5 8.4L10 0",
        ['L'] = "M0 14L0 0L8 0",
        ['M'] = "M0 0L0 14L6 3L12 14L12 0",
        ['N'] = "M0 0L0 14L10 0L10 14",
        ['O'] = "M5.8 14h11.6 7v5.8 0h0 7v5.8 14",
        ['P'] = "M0 0L0 14L5.4 14h9.4 10.3v5.4 6.6L0 6.6",
        ['Q'] = "M5.8 14h11.6 7v5.8 0h0 7v5.8 14M7.2 3.4L11.2 -1",
        ['R'] = "M0 0L0 14L5.4 14h9.4 10.3v5.4 6.6L0 6.6M5 6.6L9.8 0",
        ['S'] = "M9 10.8v4.8 14h0.4 10.6v4.8 7.4h9.5 3.8v4.7 0h0 3.4",
        ['T'] = "M0 14L10.4 14M5.2 14L5.2 0",
        ['U'] = "M0 14L0 4.8v5 0h10 4.8L10 14",
        ['V'] = "M0 14L5.5 0L11 14",
        ['W'] = "M0 14L3.8 0L7.6 14L11.4 0L15.2 14",
        ['X'] = "M0.2 14L10 0M9.8 14L0 0",
        ['Y'] = "M0 14L5.2 7L10.4 14M5.2 7L5.2 0",
        ['Z'] = "M0.4 14L9.6 14L0 0L10 0",

        ['a'] = Bowl + "M8.6 10L8.6 0",
        ['b'] = BowlAtStem + "M0 14L0 0",
        ['c'] = "M8 7.4v4.4 10h0 5v4.4 0h8 2.6",
        ['d'] = Bowl + "M8.6 14L8.6 0",
        ['e'] = "M0 5.2L8.8 5.2v4.4 10h0 5v4.4 0h8.2 2.4",
        ['f'] = "M5 14h2 11L2 0M0 10L4.6 10",
        ['g'] = Bowl + "M8.6 10L8.6 -0.4v4.4 -4h0.8 -2.2",
        ['h'] = "M0 14L0 0M0 5.6v4.2 10h8 6.2L8 0",
        ['i'] = "M0 10L0 0M0 13.7L0 13.9",
        ['j'] = "M2.4 10L2.4 -1.6v0.2 -4M2.4 13.7L2.4 13.9",
        ['k'] = "M0 14L0 0M7.4 10L0 3.4M2.8 5.9L8 0",
        ['l'] = "M0 14L0 0",
        ['m'] = "M0 10L0 0M0 6v3.6 10h6.8 6.4L6.8 0M6.8 6v10.4 10h13.6 6.4L13.6 0",
        ['n'] = "M0 10L0 0M0 5.6v4.2 10h8 6.2L8 0",
        ['o'] = "M4.5 10h9 5v4.5 0h0 5v4.5 10",
        ['p'] = BowlAtStem + "M0 10L0 -4",
        ['q'] = Bowl + "M8.6 10L8.6 -4",
        ['r'] = "M0 10L0 0M0 5.4v4.6 10",
        ['s'] = "M7 7.8v3.7 10h0.3 7.6v3.7 5.2h7.4 2.6v3.6 0h0 2.3",
        ['t'] = "M2.2 13L2.2 2.8v5 0M0 10L5 10",
        ['u'] = "M0 10L0 3.8v3.8 0h8 4.4M8 10L8 0",
        ['v'] = "M0 10L4.2 0L8.4 10",
        ['w'] = "M0 10L3.1 0L6.2 10L9.3 0L12.4 10",
        ['x'] = "M0.1 10L8 0M7.9 10L0 0",
        ['y'] = "M0 10L4.3 0M8.6 10L4.3 0q2.8 -4 0.4 -4",
        ['z'] = "M0.2 10L7.6 10L0 0L8 0",

        ['0'] = "M4.5 14h9 7v4.5 0h0 7v4.5 14",
        ['1'] = "M1.4 11.4L5 14L5 0",
        ['2'] = "M0.4 10.4v4.6 14h8.8 10.2q8.8 7.9 6.2 5.6L0 0L9 0",
        ['3'] = "M0.6 11v4.4 14h8.4 10.8v4.6 7.6L3 7.6M4.6 7.6h9 3.8v4.4 0h0 3.2",
        ['4'] = "M7 0L7 14L0 4.2L9.4 4.2",
        ['5'] = "M8.2 14L1.4 14L0.8 7.6q2.2 9 4.5 9h9 4.5v4.4 0h0 3",
        ['6'] = "M8.2 11.6q7.2 14 4.8 14h0 6.4v4.5 0h9 4.4v4.5 8.8h0 4.4",
        ['7'] = "M0.2 14L9 14L3 0",
        ['8'] = "M4.5 14h8.4 10.8v4.5 7.6h0.6 10.8v4.5 14M4.5 7.6h9 3.8v4.5 0h0 3.8v4.5 7.6",
        ['9'] = "M0.8 2.4q1.8 0 4.2 0h9 7.6v4.5 14h0 9.6v4.5 5.2h9 9.6",

        ['.'] = "M0 0.1L0 0.3",
        [','] = "M0.8 0.3L0 -2.6",
        [':'] = "M0 0.1L0 0.3M0 8L0 8.2",
        [';'] = "M0.8 0.3L0 -2.6M0.8 8L0.8 8.2",
        ['!'] = "M0 14L0 4M0 0.1L0 0.3",
        ['?'] = "M0 10.8v4 14h8 10.6v4 6L4 4M4 0.1L4 0.3",
        ['-'] = "M0 5.4L4.8 5.4",
        ['\u2013'] = "M0 5.4L8 5.4",
        ['+'] = "M0 6L9 6M4.5 10.5L4.5 1.5",
        ['\u00b1'] = "M0 7.5L9 7.5M4.5 12L4.5 3M0 0L9 0",
        ['='] = "M0 8L9 8M0 4L9 4",
        ['_'] = "M0 -2L9 -2",
        ['('] = "M3.2 16q0 11.5 0 6q0 0.5 3.2 -4",
        [')'] = "M0 16q3.2 11.5 3.2 6q3.2 0.5 0 -4",
        ['['] = "M3.4 16L0 16L0 -4L3.4 -4",
        [']'] = "M0 16L3.4 16L3.4 -4L0 -4",
        ['/'] = "M0 -2L6 16",
        ['\\'] = "M0 16L6 -2",
        ['|'] = "M0 16L0 -4",
        ['%'] = "M3 14h6 11v3 8h0 11v3 14M11 6h14 3v11 0h8 3v11 6M12 14L2 0",
        ['#'] = "M3 0L5 14M8 0L10 14M1 9.4L12 9.4M0 4.6L11 4.6",
        ['*'] = "M3.5 14L3.5 7M0.5 12.3L6.5 8.7M0.5 8.7L6.5 12.3",
        ['\''] = "M0 14L0 10.4",
        ['"'] = "M0 14L0 10.4M3.4 14L3.4 10.4",
        ['<'] = "M8.5 10.4L0 6L8.5 1.6",
        ['>'] = "M0 10.4L8.5 6L0 1.6",
        ['~'] = "M0 5q2 8 4.5 6q7 4 9 7",
        ['^'] = "M0 9L4 14L8 9",
        ['\u00d7'] = "M0.5 9.5L8 2M8 9.5L0.5 2",
        ['&'] = "M11 5.6q9 0 4.4 0h0 3.8q0 6.4 4 8h7.4 11.2v4.6 14h1.8 11q1.8 9.6 11.4 0",
        ['@'] = "M10.4 7h7.4 4v4.4 7h7.4 10v10.4 7L10.4 6q10.6 4 12.4 4h14.8 7v7.4 14h0 5v7.4 -3L11 -2.4",
        ['$'] = "M9 10.8v4.8 14h0.4 10.6v4.8 7.4h9.5 3.8v4.7 0h0 3.4M4.8 16L4.8 -2",
        ['{'] = "M4 16h2 13L2 9.5v0 6h2 2.5L2 -1v4 -4",
        ['}'] = "M0 16h2 13L2 9.5v4 6h2 2.5L2 -1v0 -4",
        ['`'] = "M0 14L2 11.4",
        ['\u00b5'] = "M0 10L0 -4M0 3.8v3.8 0h8 4.4M8 10L8 0",
    }.ToDictionary(pair => pair.Key, pair => new Glyph(pair.Value, char.IsAsciiDigit(pair.Key) ? 9 : null));

    private static readonly Glyph Unknown = new("M0 0L0 14L8 14L8 0L0 0", null);

    /// <summary>How wide a text is.</summary>
    public static double Width(string text, double size) => Math.Max(0, text.Sum(Advance) - Gap) * size / Grid;

    /// <summary>The pen's lines for a text that begins at 0, y upwards.</summary>
    public static IEnumerable<List<(double X, double Y)>> Lines(string text, double size)
    {
        var at = 0.0;
        foreach (var letter in text)
        {
            if (letter != ' ')
            {
                foreach (var line in Of(letter).Lines)
                {
                    yield return line.ConvertAll(point => ((at + point.X) * size / Grid, point.Y * size / Grid));
                }
            }
            at += Advance(letter);
        }
    }

    private static Glyph Of(char letter) => Glyphs.GetValueOrDefault(letter, Unknown);

    private static double Advance(char letter) => letter == ' ' ? Space : Of(letter).Width + Gap;

    private sealed class Glyph
    {
        public Glyph(string path, double? width)
        {
            for (var at = 0; at < path.Length; )
            {
                var command = path[at++];
                var (x, y) = (Number(), Number());
                if (command == 'M')
                {
                    Lines.Add([(x, y)]);
                    continue;
                }
                var line = Lines[^1];
                var (x0, y0) = line[^1];
                if (command == 'L')
                {
                    line.Add((x, y));
                }
                else if (command == 'q')
                {
                    var (endX, endY) = (Number(), Number());
                    Curve(
                        line,
                        (x0, y0),
                        (x0 + (x - x0) * 2 / 3, y0 + (y - y0) * 2 / 3),
                        (endX + (x - endX) * 2 / 3, endY + (y - endY) * 2 / 3),
                        (endX, endY)
                    );
                }
                else if (command == 'h')
                {
                    Curve(line, (x0, y0), (x0 + (x - x0) * Kappa, y0), (x, y - (y - y0) * Kappa), (x, y));
                }
                else
                {
                    Curve(line, (x0, y0), (x0, y0 + (y - y0) * Kappa), (x - (x - x0) * Kappa, y), (x, y));
                }

                double Number()
                {
                    var start = at;
                    while (
                        at < path.Length
                        && (
                            char.IsAsciiDigit(path[at])
                            || path[at] is '.'
                            || (at == start && (path[at] is '-' or ' '))
                            || (at == start + 1 && path[at] is '-')
                        )
                    )
                    {
                        at++;
                    }

                    return double.Parse(path.AsSpan(start, at - start), CultureInfo.InvariantCulture);
                }
            }
            Width = width ?? Lines.Max(line => line.Max(point => point.X));
        }

        public List<List<(double X, double Y)>> Lines { get; } = [];

        public double Width { get; }

        private static void Curve(
            List<(double X, double Y)> line,
            (double X, double Y) a,
            (double X, double Y) b,
            (double X, double Y) c,
            (double X, double Y) d
        )
        {
            const int Pieces = 8;
            for (var i = 1; i <= Pieces; i++)
            {
                var (t, u) = (i / (double)Pieces, 1 - i / (double)Pieces);
                var (p, q, r, s) = (u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t);
                line.Add((p * a.X + q * b.X + r * c.X + s * d.X, p * a.Y + q * b.Y + r * c.Y + s * d.Y));
            }
        }
    }
}
