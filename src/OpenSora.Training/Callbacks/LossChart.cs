using System.Globalization;
using OpenSora.Media;

namespace OpenSora.Training.Callbacks;

/// <summary>Curves of one or several runs against their steps, as SVG or PNG. A run is a faint line with a smoothed one over it; runs of one kind
/// (seeds) are the line of their mean in the band from the lowest to the highest.</summary>
public sealed class LossChart
{
    private const double Left = 72,
        Right = 32,
        Bottom = 56,
        RowHeight = 20,
        TextSize = 13;
    private const int Marked = 30; // points up to which each has a dot
    private const string Ink = "#333333",
        Grey = "#6b6b6b",
        Grid = "#e6e6e6",
        Axis = "#9a9a9a";

    // Distinct for colour-blind eyes too, on screen and paper (P. Tol, "Colour Schemes", 2021, "bright").
    private static readonly string[] Colors = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777"];

    private readonly List<(string Name, IReadOnlyList<(double Step, double Value)>[] Runs)> _series = [];

    /// <summary>A line above the chart.</summary>
    public string Title { get; set; } = "";

    /// <summary>What the horizontal axis says.</summary>
    public string XLabel { get; set; } = "steps";

    /// <summary>What the vertical axis says.</summary>
    public string YLabel { get; set; } = "loss";

    /// <summary>Whether steps are spread by their logarithm; those that are not above 0 are left out.</summary>
    public bool LogX { get; set; }

    /// <summary>Whether values are spread by their logarithm; those that are not above 0 are left out.</summary>
    public bool LogY { get; set; }

    /// <summary>Points of a run that the smoothed line takes the mean of; null: a thirtieth of all, and of few points an eighth; 1: it is not
    /// smoothed.</summary>
    public int? Smoothing { get; set; }

    /// <summary>Width in units of which a PNG has two pixels.</summary>
    public int Width { get; set; } = 900;

    /// <summary>Height in units of which a PNG has two pixels.</summary>
    public int Height { get; set; } = 480;

    /// <summary>Adds a curve.</summary>
    /// <param name="name">Its name in the legend.</param>
    /// <param name="runs">The points of one run in the order of their steps, or of several that have the same steps. Values that are no numbers are
    /// left out.</param>
    /// <exception cref="ArgumentException">There are no points, or the runs have not the same steps.</exception>
    public LossChart Add(string name, params IReadOnlyList<(double Step, double Value)>[] runs)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(runs);
        if (runs.Length == 0 || runs[0].Count == 0)
        {
            throw new ArgumentException($"The curve '{name}' has no points.", nameof(runs));
        }

        if (runs.FirstOrDefault(run => !run.Select(point => point.Step).SequenceEqual(runs[0].Select(point => point.Step))) is { } other)
        {
            throw new ArgumentException(
                $"The runs of the curve '{name}' must have the same steps, but one has {runs[0].Count} points and one {other.Count}, or they lie at other steps.",
                nameof(runs)
            );
        }

        _series.Add((name, runs));
        return this;
    }

    /// <summary>Writes <c>.svg</c> or <c>.png</c>, by the name's ending; an older file is replaced by the complete new one.</summary>
    /// <exception cref="ArgumentException">The ending is another one.</exception>
    /// <exception cref="InvalidOperationException">There is nothing to draw.</exception>
    public async Task SaveAsync(string path, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        switch (Path.GetExtension(path).ToUpperInvariant())
        {
            case ".SVG":
                await AtomicOutput
                    .WriteFileAsync(path, temporary => File.WriteAllTextAsync(temporary, ToSvg(), cancellationToken))
                    .ConfigureAwait(false);
                break;
            case ".PNG":
                await new ImageCodec().WriteAsync(ToPicture(), path, cancellationToken).ConfigureAwait(false);
                break;
            default:
                throw new ArgumentException($"A chart is written as .svg or .png, not as '{Path.GetFileName(path)}'.", nameof(path));
        }
    }

    /// <summary>The chart as an SVG document.</summary>
    /// <exception cref="InvalidOperationException">There is nothing to draw.</exception>
    public string ToSvg()
    {
        var canvas = new SvgCanvas(Width, Height);
        Draw(canvas);
        return canvas.ToString();
    }

    /// <summary>The chart as a picture, with two pixels for each unit of width and height.</summary>
    /// <exception cref="InvalidOperationException">There is nothing to draw.</exception>
    public VideoFrames ToPicture()
    {
        var canvas = new PixelCanvas(Width, Height, scale: 2);
        Draw(canvas);
        return canvas.ToFrames();
    }

    private void Draw(ICanvas canvas)
    {
        var curves = _series.Select(one => Curve.Of(one.Runs, Smoothing, LogX, LogY)).ToArray();
        if (curves.All(curve => curve.Middle.Count == 0))
        {
            throw new InvalidOperationException(
                "The chart has no points that can be drawn; add curves, or turn off the logarithmic axis for values that are not above 0."
            );
        }

        canvas.Area([(0, 0), (Width, 0), (Width, Height), (0, Height)], "#ffffff");

        var top = 20.0;
        if (Title.Length > 0)
        {
            canvas.Text(Left, top + 12, Title, 16, Ink, bold: true);
            top += 30;
        }
        top = Legend(canvas, top) + 8;

        var x = ChartAxis.For(
            curves.SelectMany(curve => curve.Steps),
            LogX,
            pixels: Width - Left - Right,
            spacing: 90,
            padding: curves.All(curve => curve.Middle.Count <= Marked) ? 0.02 : 0
        );
        var y = ChartAxis.For(curves.SelectMany(curve => curve.Shown), LogY, pixels: Height - top - Bottom, spacing: 48, padding: 0.04);
        var plot = (Left, Top: top, Right: Width - Right, Bottom: Height - Bottom);
        double ToX(double step) => plot.Left + x.Place(step) * (plot.Right - plot.Left);
        double ToY(double value) => plot.Bottom - y.Place(value) * (plot.Bottom - plot.Top);

        foreach (var (tick, label) in y.Ticks)
        {
            canvas.Line([(plot.Left, ToY(tick)), (plot.Right, ToY(tick))], Grid, 1);
            canvas.Text(plot.Left - 10, ToY(tick) + TextSize * 0.35, label, TextSize, Grey, Anchor.End);
        }
        canvas.Line([(plot.Left, plot.Bottom), (plot.Right, plot.Bottom)], Axis, 1);
        foreach (var (tick, label) in x.Ticks)
        {
            canvas.Line([(ToX(tick), plot.Bottom), (ToX(tick), plot.Bottom + 5)], Axis, 1);
            canvas.Text(ToX(tick), plot.Bottom + 20, label, TextSize, Grey, Anchor.Middle);
        }
        canvas.Text((plot.Left + plot.Right) / 2, Height - 14, XLabel, TextSize, Ink, Anchor.Middle);
        canvas.Text(20, (plot.Top + plot.Bottom) / 2, YLabel, TextSize, Ink, Anchor.Middle, upwards: true);

        canvas.Clip = plot;
        List<(double X, double Y)> Place(IReadOnlyList<(double Step, double Value)> points, double column) =>
            Thin([.. points.Select(point => (ToX(point.Step), ToY(point.Value)))], column);
        foreach (var (i, curve) in curves.Index())
        {
            if (curve.Band.Count > 0)
            {
                canvas.Area(
                    [
                        .. Place(curve.Band.ConvertAll(at => (at.Step, at.Highest)), 3),
                        .. Place(curve.Band.ConvertAll(at => (at.Step, at.Lowest)), 3).AsEnumerable().Reverse(),
                    ],
                    Color(i),
                    0.18
                );
            }

            if (curve.Raw.Count > 0)
            {
                canvas.Line(Place(curve.Raw, 1), Color(i), 1, 0.3);
            }
        }
        foreach (var (i, curve) in curves.Index().Where(pair => pair.Item.Middle.Count > 0))
        {
            canvas.Line(Place(curve.Middle, 3), Color(i), 2);
        }

        canvas.Clip = null;
        foreach (var (i, curve) in curves.Index().Where(pair => pair.Item.Middle.Count <= Marked))
        {
            foreach (var point in Place(curve.Middle, 1))
            {
                canvas.Line([point, point], Color(i), 6);
            }
        }
    }

    // The curves' names in rows above the plot; returns where these end.
    private double Legend(ICanvas canvas, double top)
    {
        if (_series.Count == 1 && _series[0].Name.Length == 0)
        {
            return top;
        }

        var at = Left;
        foreach (var (i, (name, _)) in _series.Index())
        {
            var width = 28 + StrokeFont.Width(name, TextSize) * 1.1 + 26;
            if (at > Left && at + width - 26 > Width - Right)
            {
                (at, top) = (Left, top + RowHeight);
            }

            canvas.Line([(at, top + 4), (at + 20, top + 4)], Color(i), 3);
            canvas.Text(at + 28, top + 4 + TextSize * 0.35, name, TextSize, Ink);
            at += width;
        }
        return top + RowHeight;
    }

    private static string Color(int index) => Colors[index % Colors.Length];

    // Keeps of each column of so many units its first, lowest, highest and last point: looks the same, however many points there are.
    private static List<(double X, double Y)> Thin(List<(double X, double Y)> points, double column) =>
        [
            .. points
                .Index()
                .GroupBy(point => (int)(point.Item.X / column))
                .SelectMany(all =>
                    new[] { all.First(), all.MinBy(point => point.Item.Y), all.MaxBy(point => point.Item.Y), all.Last() }
                        .DistinctBy(point => point.Index)
                        .OrderBy(point => point.Index)
                )
                .Select(point => point.Item),
        ];

    /// <summary>What is drawn of a series.</summary>
    private sealed record Curve(
        IReadOnlyList<(double Step, double Value)> Raw,
        IReadOnlyList<(double Step, double Value)> Middle,
        List<(double Step, double Lowest, double Highest)> Band
    )
    {
        public IEnumerable<double> Steps => Middle.Select(point => point.Step);

        /// <summary>The values that the axis must reach: all of line and band, and of the raw values all but the outermost.</summary>
        public IEnumerable<double> Shown
        {
            get
            {
                var raw = Raw.Select(point => point.Value).Order().ToArray();
                return
                [
                    .. Middle.Select(point => point.Value),
                    .. Band.SelectMany(at => new[] { at.Lowest, at.Highest }),
                    .. raw.Skip(raw.Length / 200).SkipLast(raw.Length / 200),
                ];
            }
        }

        public static Curve Of(IReadOnlyList<(double Step, double Value)>[] runs, int? smoothing, bool logX, bool logY)
        {
            bool Fits(double step, double value) => double.IsFinite(step) && double.IsFinite(value) && (!logX || step > 0) && (!logY || value > 0);
            var places = Enumerable.Range(0, runs[0].Count).Where(i => runs.All(run => Fits(run[i].Step, run[i].Value))).ToArray();
            var steps = Array.ConvertAll(places, i => runs[0][i].Step);
            var window = smoothing ?? Math.Max(places.Length / 30, Math.Min(30, places.Length / 8));
            var values = Array.ConvertAll(runs, run => Smooth(Array.ConvertAll(places, i => run[i].Value), window));
            return new Curve(
                runs.Length == 1 && window > 1 ? [.. places.Select(i => runs[0][i])] : [],
                [.. steps.Select((step, i) => (step, values.Average(run => run[i])))],
                runs.Length == 1 ? [] : [.. steps.Select((step, i) => (step, values.Min(run => run[i]), values.Max(run => run[i])))]
            );
        }

        // Twice the mean of a window around each point, which becomes narrower, but not too narrow, towards the ends.
        private static double[] Smooth(double[] values, int window)
        {
            for (var pass = 0; pass < 2 && window > 1; pass++)
            {
                var sums = new double[values.Length + 1];
                for (var i = 0; i < values.Length; i++)
                {
                    sums[i + 1] = sums[i] + values[i];
                }

                values =
                [
                    .. values.Select(
                        (_, i) =>
                        {
                            var reach = Math.Clamp(Math.Min(i, values.Length - 1 - i), window / 8, window / 2);
                            var (from, to) = (Math.Max(0, i - reach), Math.Min(values.Length, i + reach + 1));
                            return (sums[to] - sums[from]) / (to - from);
                        }
                    ),
                ];
            }
            return values;
        }
    }
}

/// <summary>An axis with round ticks.</summary>
internal sealed class ChartAxis
{
    private readonly double _low,
        _high;
    private readonly bool _log;

    private ChartAxis(double low, double high, bool log, double[] ticks, double? step)
    {
        (this._low, this._high, this._log) = (low, high, log);
        var largest = ticks.Select(Math.Abs).DefaultIfEmpty().Max();
        Ticks = Array.ConvertAll(ticks, tick => (tick, step is { } even ? Label(tick, even, largest) : Label(tick, tick, tick)));
    }

    public (double Value, string Label)[] Ticks { get; }

    /// <summary>An axis for values.</summary>
    /// <param name="values">What it must reach.</param>
    /// <param name="log">Whether it is logarithmic.</param>
    /// <param name="pixels">How long it is.</param>
    /// <param name="spacing">About how far apart ticks are.</param>
    /// <param name="padding">The share of its length that is added at both ends.</param>
    public static ChartAxis For(IEnumerable<double> values, bool log, double pixels, double spacing, double padding)
    {
        var (low, high) = (double.MaxValue, double.MinValue);
        foreach (var value in values)
        {
            (low, high) = (Math.Min(low, value), Math.Max(high, value));
        }

        var count = Math.Max(2, pixels / spacing);
        if (log)
        {
            if (high <= low)
            {
                (low, high) = (low / 2, high * 2);
            }

            var factor = Math.Pow(high / low, padding);
            (low, high) = (low / factor, high * factor);
            if (high / low > 4)
            {
                return new ChartAxis(low, high, log, LogTicks(low, high, count), step: null);
            }
        }
        else
        {
            if (high <= low)
            {
                (low, high) = (low - Math.Max(1, Math.Abs(low)) / 2, high + Math.Max(1, Math.Abs(high)) / 2);
            }

            var (range, room) = (high - low, (high - low) * padding);
            (low, high) = (low >= 0 && low < range * 0.08 ? 0 : low - room, high + room);
        }
        var step = RoundUp((high - low) / count / 1.2);
        var first = Math.Ceiling(low / step - 1e-9);
        return new ChartAxis(
            low,
            high,
            log,
            [.. Enumerable.Range(0, (int)Math.Floor(high / step + 1e-9 - first) + 1).Select(i => (first + i) * step)],
            step
        );
    }

    /// <summary>Where a value lies, 0 to 1.</summary>
    public double Place(double value) => _log ? Math.Log(value / _low) / Math.Log(_high / _low) : (value - _low) / (_high - _low);

    // Powers of ten, and where there are few, their multiples too.
    private static double[] LogTicks(double low, double high, double count)
    {
        var decades = Enumerable
            .Range((int)Math.Floor(Math.Log10(low)), (int)Math.Ceiling(Math.Log10(high)) - (int)Math.Floor(Math.Log10(low)) + 1)
            .ToArray();
        foreach (double[] multiples in new double[][] { [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1] })
        {
            var ticks = decades
                .SelectMany(decade => multiples.Select(multiple => multiple * Math.Pow(10, decade)))
                .Where(tick => tick >= low && tick <= high)
                .ToArray();
            if (ticks.Length <= Math.Max(3, count))
            {
                return ticks;
            }
        }
        var every = (int)Math.Ceiling(decades.Length / count);
        return [.. decades.Where(decade => decade % every == 0).Select(decade => Math.Pow(10, decade)).Where(tick => tick >= low && tick <= high)];
    }

    private static double RoundUp(double step)
    {
        var power = Math.Pow(10, Math.Floor(Math.Log10(step)));
        return power * new[] { 1, 2, 5, 10 }.First(multiple => step <= multiple * power * (1 + 1e-9));
    }

    // As many places as the step needs; thousands and millions are cut short.
    private static string Label(double value, double step, double largest)
    {
        if (value == 0)
        {
            return "0";
        }

        if (Math.Abs(value) < 1e-4 || largest >= 1e10)
        {
            return value.ToString("0.##e0", CultureInfo.InvariantCulture);
        }

        var (unit, name) =
            largest >= 1e7 ? (1e6, "M")
            : largest >= 1e4 ? (1e3, "k")
            : (1, "");
        var rounded = step / unit;
        var places = 0;
        while (places < 8 && Math.Abs(rounded - Math.Round(rounded)) > 1e-6 * Math.Abs(rounded))
        {
            (rounded, places) = (rounded * 10, places + 1);
        }

        return (value / unit).ToString("F" + places.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) + name;
    }
}
