using System.Globalization;
using System.Net;
using System.Text;
using OpenSora.Media;

namespace OpenSora.Training.Callbacks;

/// <summary>Which part of a text is at its place.</summary>
internal enum Anchor
{
    Start,
    Middle,
    End,
}

/// <summary>What a chart is drawn on; y grows downwards.</summary>
internal interface ICanvas
{
    /// <summary>What lies outside the rectangle is not drawn; null: everything is.</summary>
    (double Left, double Top, double Right, double Bottom)? Clip { set; }

    void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, double opacity = 1);

    void Area(IReadOnlyList<(double X, double Y)> corners, string color, double opacity = 1);

    /// <summary>Text on a baseline, upright or turned so that it reads upwards.</summary>
    void Text(double x, double y, string text, double size, string color, Anchor anchor = Anchor.Start, bool bold = false, bool upwards = false);
}

/// <summary>Draws as SVG text.</summary>
internal sealed class SvgCanvas(int width, int height) : ICanvas
{
    private readonly StringBuilder _body = new();
    private string _clip = "";
    private int _clips;

    public (double Left, double Top, double Right, double Bottom)? Clip
    {
        set
        {
            _clip = "";
            if (value is not var (left, top, right, bottom))
            {
                return;
            }

            _body
                .Append(
                    CultureInfo.InvariantCulture,
                    $"""<clipPath id="c{++_clips}"><rect x="{left:0.##}" y="{top:0.##}" width="{right - left:0.##}" height="{bottom - top:0.##}"/></clipPath>"""
                )
                .Append('\n');
            _clip = $""" clip-path="url(#c{_clips})" """.TrimEnd();
        }
    }

    public void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, double opacity = 1) =>
        _body
            .Append(
                CultureInfo.InvariantCulture,
                $"""<polyline points="{Points(points)}" fill="none" stroke="{color}" stroke-width="{width:0.##}" stroke-linejoin="round" stroke-linecap="round"{Opacity("stroke", opacity)}{_clip}/>"""
            )
            .Append('\n');

    public void Area(IReadOnlyList<(double X, double Y)> corners, string color, double opacity = 1) =>
        _body
            .Append(CultureInfo.InvariantCulture, $"""<polygon points="{Points(corners)}" fill="{color}"{Opacity("fill", opacity)}{_clip}/>""")
            .Append('\n');

    public void Text(
        double x,
        double y,
        string text,
        double size,
        string color,
        Anchor anchor = Anchor.Start,
        bool bold = false,
        bool upwards = false
    )
    {
        var (middle, turn) = (
            anchor switch
            {
                Anchor.Middle => "middle",
                Anchor.End => "end",
                _ => "start",
            },
            upwards ? string.Create(CultureInfo.InvariantCulture, $" transform=\"rotate(-90 {x:0.##} {y:0.##})\"") : ""
        );
        _body
            .Append(
                CultureInfo.InvariantCulture,
                $"""<text x="{x:0.##}" y="{y:0.##}" font-size="{size:0.##}" fill="{color}" text-anchor="{middle}"{(bold ? " font-weight=\"600\"" : "")}{turn}>{WebUtility.HtmlEncode(text)}</text>"""
            )
            .Append('\n');
    }

    public override string ToString() =>
        $"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif">"""
        + "\n"
        + _body
        + "</svg>\n";

    private static string Points(IReadOnlyList<(double X, double Y)> points) =>
        string.Join(' ', points.Select(point => string.Create(CultureInfo.InvariantCulture, $"{point.X:0.#},{point.Y:0.#}")));

    private static string Opacity(string of, double value) =>
        value < 1 ? string.Create(CultureInfo.InvariantCulture, $" {of}-opacity=\"{value:0.##}\"") : "";
}

/// <summary>Draws into pixels, smoothly, with a font of its own.</summary>
internal sealed class PixelCanvas(int width, int height, int scale) : ICanvas
{
    private const int Rows = 4; // that a pixel is divided into to fill areas

    private readonly int _width = width * scale,
        _height = height * scale;
    private readonly byte[] _pixels = new byte[width * scale * height * scale * 3];
    private readonly float[] _cover = new float[width * scale * height * scale];

    public (double Left, double Top, double Right, double Bottom)? Clip { get; set; }

    public VideoFrames ToFrames() => new(_pixels, 1, _height, _width, 1);

    public void Line(IReadOnlyList<(double X, double Y)> points, string color, double width, double opacity = 1) =>
        Stroke([points], color, width, opacity);

    // How much of a pixel is covered follows from its distance to the nearest of all segments; so lines may cross themselves.
    private void Stroke(IEnumerable<IReadOnlyList<(double X, double Y)>> lines, string color, double width, double opacity)
    {
        var half = width * scale / 2;
        var bounds = Bounds.Nothing;
        foreach (var line in lines)
        {
            for (var i = 0; i < Math.Max(1, line.Count - 1); i++)
            {
                var (x1, y1) = (line[i].X * scale, line[i].Y * scale);
                var (x2, y2) = i + 1 < line.Count ? (line[i + 1].X * scale, line[i + 1].Y * scale) : (x1, y1);
                var box = Within(Math.Min(x1, x2) - half - 1, Math.Min(y1, y2) - half - 1, Math.Max(x1, x2) + half + 1, Math.Max(y1, y2) + half + 1);
                bounds = bounds.And(box);
                var (dx, dy) = (x2 - x1, y2 - y1);
                var length = dx * dx + dy * dy;
                for (var y = box.Top; y < box.Bottom; y++)
                {
                    for (var x = box.Left; x < box.Right; x++)
                    {
                        var (px, py) = (x + 0.5 - x1, y + 0.5 - y1);
                        var along = length > 0 ? Math.Clamp((px * dx + py * dy) / length, 0, 1) : 0;
                        var distance = Math.Sqrt(Math.Pow(px - along * dx, 2) + Math.Pow(py - along * dy, 2));
                        ref var covered = ref _cover[y * this._width + x];
                        covered = Math.Max(covered, (float)Math.Clamp(half + 0.5 - distance, 0, Math.Min(1, 2 * half)));
                    }
                }
            }
        }
        Paint(bounds, color, opacity);
    }

    public void Area(IReadOnlyList<(double X, double Y)> corners, string color, double opacity = 1)
    {
        var box = Within(
            corners.Min(p => p.X) * scale,
            corners.Min(p => p.Y) * scale,
            corners.Max(p => p.X) * scale + 1,
            corners.Max(p => p.Y) * scale + 1
        );
        List<double> crossings = [];
        for (var row = box.Top * Rows; row < box.Bottom * Rows; row++)
        {
            var at = (row + 0.5) / Rows;
            crossings.Clear();
            for (var i = 0; i < corners.Count; i++)
            {
                var ((x1, y1), (x2, y2)) = (corners[i], corners[(i + 1) % corners.Count]);
                if (y1 * scale <= at != y2 * scale <= at)
                {
                    crossings.Add((x1 + (at / scale - y1) / (y2 - y1) * (x2 - x1)) * scale);
                }
            }
            crossings.Sort();
            for (var i = 0; i + 1 < crossings.Count; i += 2)
            {
                var (from, to) = (Math.Max(crossings[i], box.Left), Math.Min(crossings[i + 1], box.Right));
                for (var x = (int)from; x < to; x++)
                {
                    _cover[row / Rows * _width + x] += (float)((Math.Min(to, x + 1) - Math.Max(from, x)) / Rows);
                }
            }
        }
        Paint(box, color, opacity);
    }

    public void Text(
        double x,
        double y,
        string text,
        double size,
        string color,
        Anchor anchor = Anchor.Start,
        bool bold = false,
        bool upwards = false
    )
    {
        var start =
            -StrokeFont.Width(text, size)
            * (
                anchor switch
                {
                    Anchor.Middle => 0.5,
                    Anchor.End => 1,
                    _ => 0,
                }
            );
        Stroke(
            StrokeFont
                .Lines(text, size)
                .Select(line => line.ConvertAll(point => upwards ? (x - point.Y, y - start - point.X) : (x + start + point.X, y - point.Y))),
            color,
            size * (bold ? 0.125 : 0.085),
            1
        );
    }

    // Mixes the colour in where it covers, and clears the cover for the next one.
    private void Paint(Bounds box, string color, double opacity)
    {
        var ink = Convert.FromHexString(color.AsSpan(1));
        for (var y = box.Top; y < box.Bottom; y++)
        {
            for (var x = box.Left; x < box.Right; x++)
            {
                var share = Math.Min(1, _cover[y * _width + x]) * opacity;
                _cover[y * _width + x] = 0;
                if (share <= 0)
                {
                    continue;
                }

                for (var c = 0; c < 3; c++)
                {
                    ref var pixel = ref _pixels[(y * _width + x) * 3 + c];
                    pixel = (byte)Math.Round(pixel + (ink[c] - pixel) * share);
                }
            }
        }
    }

    private Bounds Within(double left, double top, double right, double bottom)
    {
        var (l, t, r, b) = Clip is var (cl, ct, cr, cb) ? (cl * scale, ct * scale, cr * scale, cb * scale) : (0, 0, _width, _height);
        return new(
            (int)Math.Clamp(left, l, r),
            (int)Math.Clamp(top, t, b),
            (int)Math.Clamp(Math.Ceiling(right), l, r),
            (int)Math.Clamp(Math.Ceiling(bottom), t, b)
        );
    }

    private readonly record struct Bounds(int Left, int Top, int Right, int Bottom)
    {
        public static readonly Bounds Nothing = new(int.MaxValue, int.MaxValue, 0, 0);

        public Bounds And(Bounds other) =>
            other.Left >= other.Right || other.Top >= other.Bottom
                ? this
                : new(Math.Min(Left, other.Left), Math.Min(Top, other.Top), Math.Max(Right, other.Right), Math.Max(Bottom, other.Bottom));
    }
}
