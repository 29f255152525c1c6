using System.Globalization;
using System.Text;
using OpenSora.Media;
using OpenSora.Training.Stages;
using OxyPlot;
using OxyPlot.Axes;
using OxyPlot.Legends;
using OxyPlot.Series;

namespace OpenSora.Training.Callbacks;

/// <summary>Draws curves of one or several runs against their steps as an SVG file.</summary>
/// <remarks>A single run is a faint line with a smoothed line over it. Several runs of one kind, such as seeds, are the line of their mean in the
/// band from the lowest to the highest value.</remarks>
public sealed class LossChart
{
    private const int Marked = 30; // curves with at most this many points get markers

    // Distinct for color-blind readers too, on screen and paper (P. Tol, "Colour Schemes", 2021, "bright").
    private static readonly string[] Colors = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777"];

    private readonly List<(string Name, IReadOnlyList<(double Step, double Value)>[] Runs)> _series = [];

    /// <summary>The title above the chart.</summary>
    public string Title { get; set; } = "";

    /// <summary>The title of the horizontal axis.</summary>
    public string XLabel { get; set; } = "steps";

    /// <summary>The title of the vertical axis.</summary>
    public string YLabel { get; set; } = "loss";

    /// <summary>True for a logarithmic horizontal axis; steps that are not above 0 are left out.</summary>
    public bool LogX { get; set; }

    /// <summary>True for a logarithmic vertical axis; values that are not above 0 are left out.</summary>
    public bool LogY { get; set; }

    /// <summary>The number of points that the smoothed line averages; null for a thirtieth of all points (an eighth of few); 1 for no
    /// smoothing.</summary>
    public int? Smoothing { get; set; }

    /// <summary>The width in SVG units.</summary>
    public int Width { get; set; } = 900;

    /// <summary>The height in SVG units.</summary>
    public int Height { get; set; } = 480;

    /// <summary>Adds a curve.</summary>
    /// <param name="name">The name in the legend.</param>
    /// <param name="runs">The points of one run in the order of their steps, or of several runs with the same steps. Values that are not finite are
    /// left out.</param>
    /// <exception cref="ArgumentException">There are no points, or the runs do not have the same steps.</exception>
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
                $"The runs of the curve '{name}' must have the same steps, but one has {runs[0].Count} points and one {other.Count}, "
                    + "or the steps differ.",
                nameof(runs)
            );
        }

        _series.Add((name, runs));
        return this;
    }

    /// <summary>Reads the losses of a <c>losses.csv</c>, which <see cref="StagedTrainer.AddLossCurves"/> writes, by stage. The steps are those of all
    /// stages together.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The points of each stage, as <see cref="Add"/> takes them.</returns>
    /// <exception cref="InvalidDataException">The file does not contain losses.</exception>
    public static IReadOnlyList<(string Stage, IReadOnlyList<(double Step, double Loss)> Points)> ReadLosses(string path) =>
        [
            .. LossCurves
                .Rows(path)
                .GroupBy(row => row.Stage, StringComparer.Ordinal)
                .Select(stage => (stage.Key, (IReadOnlyList<(double, double)>)[.. stage.Select(row => ((double)row.TotalStep, row.Loss))])),
        ];

    /// <summary>Writes the chart to an SVG file; an older file is replaced by the complete new one.</summary>
    /// <exception cref="ArgumentException">The file name does not end in <c>.svg</c>.</exception>
    /// <exception cref="InvalidOperationException">There is nothing to draw.</exception>
    public Task SaveAsync(string path, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return Path.GetExtension(path).Equals(".svg", StringComparison.OrdinalIgnoreCase)
            ? AtomicOutput.WriteFileAsync(path, temporary => File.WriteAllTextAsync(temporary, ToSvg(), cancellationToken))
            : throw new ArgumentException($"A chart is written as .svg, not as '{Path.GetFileName(path)}'.", nameof(path));
    }

    /// <summary>Draws the chart as an SVG document.</summary>
    /// <exception cref="InvalidOperationException">There is nothing to draw.</exception>
    public string ToSvg()
    {
        using var stream = new MemoryStream();
        new SvgExporter { Width = Width, Height = Height }.Export(Plot(), stream);
        return Encoding.UTF8.GetString(stream.ToArray()).TrimStart('\uFEFF');
    }

    private PlotModel Plot()
    {
        var model = new PlotModel
        {
            Title = Title.Length == 0 ? null : Title,
            Background = OxyColors.White,
            Padding = new OxyThickness(8, 16, 24, 8),
            TitlePadding = 12,
            PlotAreaBorderThickness = new OxyThickness(1, 0, 0, 1),
            Culture = CultureInfo.InvariantCulture,
        };
        model.Axes.Add(Axis(AxisPosition.Bottom, XLabel, LogX));
        model.Axes.Add(Axis(AxisPosition.Left, YLabel, LogY));
        if (_series.Count > 1 || (_series.Count == 1 && _series[0].Name.Length > 0))
        {
            model.Legends.Add(
                new Legend
                {
                    LegendPlacement = LegendPlacement.Outside,
                    LegendPosition = LegendPosition.TopLeft,
                    LegendOrientation = LegendOrientation.Horizontal,
                    // Room for fonts that are wider than the one that texts are measured with.
                    LegendPadding = 32,
                    LegendItemSpacing = 48,
                }
            );
        }

        foreach (var (i, (name, runs)) in _series.Index())
        {
            AddCurve(model, name, runs, OxyColor.Parse(Colors[i % Colors.Length]));
        }

        return model.Series.OfType<LineSeries>().Any(line => line.Points.Count > 0)
            ? model
            : throw new InvalidOperationException(
                "The chart has no points that can be drawn; add curves, or turn off the logarithmic axis for values that are not above 0."
            );
    }

    private void AddCurve(PlotModel model, string name, IReadOnlyList<(double Step, double Value)>[] runs, OxyColor color)
    {
        bool Fits(double step, double value) => double.IsFinite(step) && double.IsFinite(value) && (!LogX || step > 0) && (!LogY || value > 0);
        var places = Enumerable.Range(0, runs[0].Count).Where(i => runs.All(run => Fits(run[i].Step, run[i].Value))).ToArray();
        var steps = Array.ConvertAll(places, i => runs[0][i].Step);
        var window = Smoothing ?? Math.Max(places.Length / 30, Math.Min(30, places.Length / 8));
        var raw = Array.ConvertAll(runs, run => Array.ConvertAll(places, i => run[i].Value));
        var smooth = Array.ConvertAll(raw, values => Smooth(values, window));

        if (runs.Length > 1)
        {
            var band = new AreaSeries
            {
                Fill = OxyColor.FromAColor(46, color),
                StrokeThickness = 0,
                Color2 = OxyColors.Transparent,
            };
            band.Points.AddRange(steps.Select((step, i) => new DataPoint(step, smooth.Min(run => run[i]))));
            band.Points2.AddRange(steps.Select((step, i) => new DataPoint(step, smooth.Max(run => run[i]))));
            model.Series.Add(band);
        }
        else if (window > 1)
        {
            var faint = new LineSeries
            {
                Color = OxyColor.FromAColor(77, color),
                StrokeThickness = 1,
                Decimator = Decimator.Decimate,
            };
            faint.Points.AddRange(steps.Select((step, i) => new DataPoint(step, raw[0][i])));
            model.Series.Add(faint);
        }

        var line = new LineSeries
        {
            Title = name.Length == 0 ? null : name,
            Color = color,
            StrokeThickness = 2,
            Decimator = Decimator.Decimate,
        };
        if (places.Length <= Marked)
        {
            (line.MarkerType, line.MarkerSize, line.MarkerFill) = (MarkerType.Circle, 3, color);
        }

        line.Points.AddRange(steps.Select((step, i) => new DataPoint(step, smooth.Average(run => run[i]))));
        model.Series.Add(line);
    }

    private static Axis Axis(AxisPosition position, string title, bool isLogarithmic)
    {
        Axis axis = isLogarithmic ? new LogarithmicAxis() : new LinearAxis();
        (axis.Position, axis.Title) = (position, title);
        (axis.MajorGridlineStyle, axis.MajorGridlineColor) = (
            position == AxisPosition.Left ? LineStyle.Solid : LineStyle.None,
            OxyColor.Parse("#e6e6e6")
        );
        (axis.MajorTickSize, axis.MinorTickSize, axis.AxisTickToLabelDistance) = (4, 0, 8);
        return axis;
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
