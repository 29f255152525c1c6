using System.Globalization;
using System.Net;
using System.Text;

namespace OpenSora.Preparation.Manifests;

/// <summary>Draws charts as HTML and SVG that need no script.</summary>
internal static class PageCharts
{
    private const int Width = 360;
    private const int Height = 170;
    private const int Left = 40; // the space for labels
    private const int Bottom = 26;
    private const int Top = 8;
    private const int MostDiscrete = 12;
    private const int Bins = 24;

    internal static string Escape(string text) => WebUtility.HtmlEncode(text);

    /// <summary>Formats a number for people: few digits, with separators of thousands.</summary>
    internal static string Format(double value)
    {
        var size = Math.Abs(value);
        return size switch
        {
            >= 1e15 or (> 0 and < 1e-3) => value.ToString("0.##e+0", CultureInfo.InvariantCulture),
            >= 100 => value.ToString("#,0", CultureInfo.InvariantCulture),
            >= 10 => value.ToString("0.##", CultureInfo.InvariantCulture),
            _ => value.ToString("0.####", CultureInfo.InvariantCulture),
        };
    }

    /// <summary>Draws the distribution of numbers: their values if there are few, or else a histogram.</summary>
    internal static string Histogram(string title, string unit, Distribution numbers, string? note = null)
    {
        if (numbers.Count == 0)
        {
            return "";
        }

        var bins = numbers.Bins;
        var isDiscrete = bins.Count <= MostDiscrete;
        var (bars, beyond) = isDiscrete
            ? (bins.Select(bin => new Bar(Format(bin.Value), Format(bin.Value), bin.Count)).ToArray(), 0L)
            : Binned(numbers, bins);
        List<string> facts =
        [
            isDiscrete && bins.Count == 1 ? "the same for all" : $"median {Format(numbers.Quantile(0.5))}",
            $"mean {Format(numbers.Mean)}",
            $"{Format(numbers.Minimum)} to {Format(numbers.Maximum)}",
        ];
        if (beyond > 0)
        {
            facts.Add($"{Format(beyond)} outside the chart");
        }

        if (note is not null)
        {
            facts.Add(note);
        }

        var caption = $"{Escape(title)}{(unit.Length == 0 ? "" : $" <small>{Escape(unit)}</small>")}";
        var plot = Plot(bars, isDiscrete, numbers.Count, $"{title}: {string.Join(", ", facts)}");
        return $"<figure><figcaption>{caption}</figcaption>{plot}<p>{Escape(string.Join(" · ", facts))}</p></figure>\n";
    }

    /// <summary>Draws horizontal bars with labels.</summary>
    internal static string Bars(IEnumerable<(string Label, long Count)> items, string kind = "")
    {
        var all = items.ToArray();
        var most = Math.Max(1, all.Select(item => item.Count).DefaultIfEmpty().Max());
        var html = new StringBuilder($"<ul class=\"bars {kind}\">");
        foreach (var (label, count) in all)
        {
            html.Append(
                CultureInfo.InvariantCulture,
                $"<li><span dir=\"auto\">{Escape(label)}</span><i><b style=\"width:{100d * count / most:0.##}%\"></b></i><em>{Format(count)}</em></li>"
            );
        }

        return html.Append("</ul>").ToString();
    }

    private static (Bar[] Bars, long Beyond) Binned(Distribution numbers, IReadOnlyList<(double Value, long Count)> bins)
    {
        // A few very large or small numbers must not squeeze all others into one bar.
        var (low, high) = (numbers.Minimum, numbers.Maximum);
        var (first, last) = (numbers.Quantile(0.005), numbers.Quantile(0.995));
        if (last > first && high - low > 3 * (last - first))
        {
            (low, high) = (Math.Max(low, first - (last - first) / 4), Math.Min(high, last + (last - first) / 4));
        }

        var step = NiceStep((high - low) / Bins);
        if (step < 1 && bins.All(bin => bin.Value == Math.Floor(bin.Value)))
        {
            step = 1;
        }

        var start = Math.Floor(low / step);
        var counts = new long[(int)(Math.Floor(high / step) - start) + 1];
        var beyond = 0L;
        foreach (var (value, count) in bins)
        {
            // Tolerates that 0.3 / 0.1 is slightly less than 3.
            var index = Math.Floor(value / step + 1e-9) - start;
            if (index >= 0 && index < counts.Length)
            {
                counts[(int)index] += count;
            }
            else
            {
                beyond += count;
            }
        }

        return ([.. counts.Select((count, i) => new Bar(Edge(i), $"{Edge(i)} to {Edge(i + 1)}", count))], beyond);

        string Edge(int i) => Format((double)((decimal)(start + i) * (decimal)step));
    }

    private static string Plot(Bar[] bars, bool isDiscrete, long total, string description)
    {
        var most = bars.Max(bar => bar.Count);
        var gridStep = Math.Max(1, NiceStep(most / 3d));
        var ceiling = Math.Ceiling(most / gridStep) * gridStep;
        var (plotWidth, plotHeight) = (Width - Left - 8, Height - Bottom - Top);
        var slot = (double)plotWidth / bars.Length;
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture, $"<svg viewBox=\"0 0 {Width} {Height}\" role=\"img\" aria-label=\"{Escape(description)}\">");
        for (var value = 0d; value <= ceiling; value += gridStep)
        {
            var y = Top + plotHeight * (1 - value / ceiling);
            svg.Append(CultureInfo.InvariantCulture, $"<line class=\"grid\" x1=\"{Left}\" x2=\"{Width - 8}\" y1=\"{y:0.#}\" y2=\"{y:0.#}\"/>");
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left - 6}\" y=\"{y + 4:0.#}\" text-anchor=\"end\">{Short(value)}</text>");
        }

        for (var i = 0; i < bars.Length; i++)
        {
            var width = isDiscrete ? Math.Min(slot * 0.7, 36) : Math.Max(slot - 1.5, 1);
            var height = bars[i].Count == 0 ? 0 : Math.Max(1, plotHeight * bars[i].Count / ceiling);
            var x = Left + slot * i + (slot - width) / 2;
            svg.Append(
                CultureInfo.InvariantCulture,
                $"<rect x=\"{x:0.##}\" y=\"{Top + plotHeight - height:0.##}\" width=\"{width:0.##}\" height=\"{height:0.##}\" rx=\"1.5\">"
            );
            svg.Append(
                CultureInfo.InvariantCulture,
                $"<title>{Escape(bars[i].Description)}: {Format(bars[i].Count)} ({100d * bars[i].Count / total:0.#} %)</title></rect>"
            );
        }

        // As many labels as fit: between the bars of a histogram, below those of single values.
        var longest = bars.Max(bar => bar.Label.Length);
        var every = Math.Max(1, (int)Math.Ceiling((longest + 2) * 6.5 / slot));
        for (var i = 0; i < bars.Length; i += every)
        {
            var x = Left + slot * (isDiscrete ? i + 0.5 : i);
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{x:0.#}\" y=\"{Height - 8}\" text-anchor=\"middle\">{Escape(bars[i].Label)}</text>");
        }

        return svg.Append("</svg>").ToString();
    }

    // The next of 1, 2, 5, 10, 20 ...
    private static double NiceStep(double atLeast)
    {
        if (atLeast <= 0)
        {
            return 1;
        }

        var power = Math.Pow(10, Math.Floor(Math.Log10(atLeast)));
        return new[] { 1, 2, 5, 10 }.Select(factor => factor * power).First(step => step >= atLeast * 0.999999);
    }

    private static string Short(double count) =>
        count switch
        {
            >= 1e6 => $"{Format(count / 1e6)}M",
            >= 1e4 => $"{Format(count / 1e3)}k",
            _ => Format(count),
        };

    private readonly record struct Bar(string Label, string Description, long Count);
}
