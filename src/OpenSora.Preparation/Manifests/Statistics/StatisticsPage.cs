using System.Globalization;
using System.Text;
using OpenSora.Media;

namespace OpenSora.Preparation.Manifests;

/// <summary>Specifies the contents of a statistics page.</summary>
public sealed class StatisticsPageOptions
{
    /// <summary>Gets or sets the title.</summary>
    public string Title { get; set; } = "Video data set";

    /// <summary>Gets or sets what earlier stages dropped, which the page lists.</summary>
    public IReadOnlyList<DroppedCount> Dropped { get; set; } = [];

    /// <summary>Gets or sets the number of clips that the page shows, which are chosen at random.</summary>
    public int Thumbnails { get; set; } = 24;

    /// <summary>Gets or sets the seed of the choice.</summary>
    public int Seed { get; set; }

    /// <summary>Gets or sets the folder to which paths are relative; null for the current folder.</summary>
    public string? Folder { get; set; }

    /// <summary>Gets or sets a function that returns the thumbnail of a row as JPEG, or null if there is none; null to extract the frame in the middle of
    /// each video with ffmpeg.</summary>
    public Func<ManifestRow, CancellationToken, Task<byte[]?>>? Thumbnail { get; set; }

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }
}

/// <summary>Writes the statistics of a manifest as an HTML file with charts and thumbnails.</summary>
public static class StatisticsPage
{
    private const int TopTexts = 10;
    private const int TopWords = 40;
    private const int LongestCaption = 240;

    /// <summary>Writes a page that contains everything it shows, so that it opens without a network connection, and no scripts. The same rows and options
    /// result in the same bytes.</summary>
    /// <remarks>The statistics need bounded memory. Histograms and counts of words are approximate if there are very many different values.</remarks>
    /// <param name="path">The path of the HTML file.</param>
    /// <param name="rows">The rows of the manifest.</param>
    /// <param name="options">Specifies the contents; null for the default.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="PreparationException">ffmpeg is missing. A thumbnail that cannot be extracted is shown as a gap with the reason.</exception>
    public static async Task WriteAsync(
        string path,
        IAsyncEnumerable<ManifestRow> rows,
        StatisticsPageOptions? options = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        options ??= new StatisticsPageOptions();
        var statistics = new ManifestStatistics();
        var chosen = new Reservoir<ManifestRow>(options.Thumbnails, options.Seed);
        await foreach (var row in rows.WithCancellation(cancellationToken).ConfigureAwait(false))
        {
            statistics.Add(row);
            chosen.Add(row);
        }

        var html = new StringBuilder();
        AppendStart(html, options.Title);
        AppendTotals(html, statistics, options.Dropped);
        AppendCharts(html, statistics);
        AppendDropped(html, options.Dropped);
        await AppendSheetAsync(html, chosen.Chosen, options, cancellationToken).ConfigureAwait(false);
        html.Append("</body>\n</html>\n");
        await AtomicOutput.WriteFileAsync(path, file => File.WriteAllTextAsync(file, html.ToString(), cancellationToken)).ConfigureAwait(false);
    }

    private static void AppendStart(StringBuilder html, string title) =>
        html.Append(
            $"""
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
            <title>{PageCharts.Escape(title)}</title>
            <style>
            {PageStyle.Css}
            </style>
            </head>
            <body>
            <h1>{PageCharts.Escape(title)}</h1>

            """
        );

    private static void AppendTotals(StringBuilder html, ManifestStatistics statistics, IReadOnlyList<DroppedCount> dropped)
    {
        var videos = statistics.Rows - statistics.Images;
        html.Append("<dl>\n");
        Total("Clips", PageCharts.Format(videos));
        if (statistics.Images > 0)
        {
            Total("Images", PageCharts.Format(statistics.Images));
        }

        if (statistics.Seconds.Count > 0)
        {
            var hours = statistics.Seconds.Sum / 3600;
            Total("Duration", hours >= 1 ? PageCharts.Format(Math.Round(hours, 1)) : PageCharts.Format(Math.Round(hours * 60, 1)), hours >= 1 ? "h" : "min");
            Total("Median clip", PageCharts.Format(statistics.Seconds.Quantile(0.5)), "s");
        }

        if (statistics.Sizes.Total > 0)
        {
            Total("Most frequent size", statistics.Sizes.Top(1)[0].Text);
        }

        if (statistics.Rows > 0)
        {
            var captioned = 100d * (statistics.Rows - statistics.WithoutCaption) / statistics.Rows;
            // Rounded down, so that 100 % means all.
            Total("With caption", (Math.Floor(captioned * 10) / 10).ToString("0.#", CultureInfo.InvariantCulture), "%");
        }

        if (dropped.Count > 0)
        {
            Total("Dropped", PageCharts.Format(dropped.Sum(each => each.Count)));
        }

        html.Append("</dl>\n");

        void Total(string name, string value, string unit = "") =>
            html.Append(CultureInfo.InvariantCulture, $"<div><dt>{name}</dt><dd>{PageCharts.Escape(value)}{(unit.Length > 0 ? $" <small>{unit}</small>" : "")}</dd></div>\n");
    }

    private static void AppendCharts(StringBuilder html, ManifestStatistics statistics)
    {
        var (rows, videos) = (statistics.Rows, statistics.Rows - statistics.Images);
        Section(
            "Clips",
            [
                PageCharts.Histogram("Duration", "seconds", statistics.Seconds, Unknown(videos - statistics.Seconds.Count)),
                PageCharts.Histogram("Length", "frames", statistics.Frames, Unknown(videos - statistics.Frames.Count)),
                PageCharts.Histogram("Frame rate", "frames per second", statistics.FrameRates, Unknown(videos - statistics.FrameRates.Count)),
                Texts("Size", "width × height in pixels", statistics.Sizes, rows - statistics.Sizes.Total),
                PageCharts.Histogram("Resolution", "megapixels", statistics.Megapixels, Unknown(rows - statistics.Megapixels.Count)),
                PageCharts.Histogram("Aspect ratio", "height / width", statistics.AspectRatios, Unknown(rows - statistics.AspectRatios.Count)),
            ]
        );
        Section(
            "Other columns",
            statistics.Columns.SelectMany(column =>
                (string[])
                    [
                        PageCharts.Histogram(column.Name, "", column.Numbers, Unknown(rows - column.Numbers.Count)),
                        Texts(column.Name, "", column.Texts, rows - column.Texts.Total),
                    ]
            )
        );
        var words = statistics.Words.Top(TopWords);
        var half = (words.Count + 1) / 2;
        Section(
            "Captions",
            [
                PageCharts.Histogram("Length", "words", statistics.CaptionWords, statistics.WithoutCaption == 0 ? null : $"{PageCharts.Format(statistics.WithoutCaption)} without a caption"),
                Words("Most frequent words", "without function words", words.Take(half)),
                Words("Next words", "", words.Skip(half)),
            ]
        );

        static string? Unknown(long count) => count > 0 ? $"{PageCharts.Format(count)} not known" : null;

        static string Words(string title, string note, IEnumerable<(string Text, long Count)> words) =>
            words.Any() ? $"<figure><figcaption>{title} <small>{note}</small></figcaption>{PageCharts.Bars(words)}</figure>\n" : "";

        void Section(string title, IEnumerable<string> charts)
        {
            var all = string.Concat(charts);
            if (all.Length > 0)
            {
                html.Append(CultureInfo.InvariantCulture, $"<h2>{title}</h2>\n<div class=\"charts\">\n{all}</div>\n");
            }
        }
    }

    private static string Texts(string title, string unit, FrequencyTable texts, long unknown)
    {
        if (texts.Total == 0)
        {
            return "";
        }

        var top = texts.Top(TopTexts);
        var others = texts.Total - top.Sum(each => each.Count);
        List<string> facts = [$"{PageCharts.Format(texts.Distinct)} different"];
        if (others > 0)
        {
            facts.Add($"{PageCharts.Format(others)} with others");
        }

        if (unknown > 0)
        {
            facts.Add($"{PageCharts.Format(unknown)} not known");
        }

        return $"<figure><figcaption>{PageCharts.Escape(title)} <small>{unit}</small></figcaption>{PageCharts.Bars(top)}<p>{string.Join(" · ", facts)}</p></figure>\n";
    }

    private static void AppendDropped(StringBuilder html, IReadOnlyList<DroppedCount> dropped)
    {
        if (dropped.Count > 0)
        {
            html.Append("<h2>Dropped</h2>\n<figure>");
            html.Append(PageCharts.Bars(dropped.Select(each => ($"{each.Stage}: {each.Reason}", each.Count)), "wide dropped")).Append("</figure>\n");
        }
    }

    private static async Task AppendSheetAsync(
        StringBuilder html,
        IReadOnlyList<ManifestRow> chosen,
        StatisticsPageOptions options,
        CancellationToken cancellationToken
    )
    {
        if (chosen.Count == 0)
        {
            return;
        }

        html.Append("<h2>Examples</h2>\n<div class=\"sheet\">\n");
        await foreach (
            var (row, image) in chosen
                .ToAsyncEnumerable()
                .SelectAsync(Environment.ProcessorCount, async (row, token) => (row, await ImageAsync(row, options, token).ConfigureAwait(false)), cancellationToken)
                .ConfigureAwait(false)
        )
        {
            var text = Shortened(row.Text.Trim());
            List<string> facts = [];
            if (row is { NumFrames: > 1 and var frames, Fps: > 0 and var fps })
            {
                facts.Add($"{PageCharts.Format(Math.Round(frames / fps, 2))} s");
            }

            if (row is { Width: { } width, Height: { } height })
            {
                facts.Add(string.Create(CultureInfo.InvariantCulture, $"{width} × {height}"));
            }

            facts.Add(PageCharts.Escape(row.Path));
            html.Append("<figure>").Append(image).Append("<figcaption dir=\"auto\">");
            html.Append(text.Length > 0 ? PageCharts.Escape(text) : "<small>no caption</small>");
            html.Append("</figcaption><p>").AppendJoin(" · ", facts).Append("</p></figure>\n");
        }

        html.Append("</div>\n");
    }

    private static string Shortened(string text)
    {
        if (text.Length <= LongestCaption)
        {
            return text;
        }

        var end = LongestCaption - (char.IsHighSurrogate(text[LongestCaption - 1]) ? 1 : 0);
        return text[..end].TrimEnd() + "…";
    }

    private static async Task<string> ImageAsync(ManifestRow row, StatisticsPageOptions options, CancellationToken cancellationToken)
    {
        string problem;
        try
        {
            var jpeg = options.Thumbnail is { } thumbnail
                ? await thumbnail(row, cancellationToken).ConfigureAwait(false)
                : await Thumbnails
                    .ExtractAsync(ManifestFiles.Locate(options.Folder, row.Path), options.FFmpegFolder, cancellationToken)
                    .ConfigureAwait(false);
            if (jpeg is { Length: > 0 })
            {
                return $"<img alt=\"\" src=\"data:image/jpeg;base64,{Convert.ToBase64String(jpeg)}\">";
            }

            problem = "no thumbnail";
        }
        catch (PreparationException e) when (e.Reason is not "ffmpeg is missing")
        {
            problem = e.Reason;
        }
        catch (FileNotFoundException)
        {
            problem = "file does not exist";
        }

        return $"<div class=\"none\">{PageCharts.Escape(problem)}</div>";
    }
}
