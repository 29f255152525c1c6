using System.Globalization;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using OpenSora.Preparation.Manifests;

namespace OpenSora.Preparation.Tests.Manifests;

public sealed partial class StatisticsPageTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_distribution_is_exact_for_few_values_and_close_for_many()
    {
        var few = new Distribution();
        foreach (var value in (double[])[29.97, 24, 29.97, double.NaN, 0.1])
        {
            few.Add(value);
        }

        few.Bins.ShouldBe([(0.1, 1), (24, 1), (29.97, 2)]);
        (few.Count, few.Minimum, few.Maximum).ShouldBe((4, 0.1, 29.97));

        var random = new Random(1);
        var values = Enumerable.Range(0, 50_000).Select(_ => Math.Exp(3 * random.NextDouble()) * (random.Next(100) == 0 ? 1e9 : 1)).ToArray();
        var many = new Distribution();
        Array.ForEach(values, many.Add);
        many.Bins.Count.ShouldBeLessThanOrEqualTo(4096);
        many.Bins.Sum(bin => bin.Count).ShouldBe(50_000);
        foreach (var fraction in (double[])[0.01, 0.25, 0.5, 0.9])
        {
            var exact = values.Order().ElementAt((int)(fraction * values.Length));
            many.Quantile(fraction).ShouldBe(exact, 0.02 * exact);
        }

        // The order does not matter.
        var backwards = new Distribution();
        Array.ForEach([.. values.Reverse()], backwards.Add);
        backwards.Bins.Select(bin => bin.Count).ShouldBe(many.Bins.Select(bin => bin.Count));

        var extreme = new Distribution();
        Array.ForEach([double.PositiveInfinity, -double.MaxValue, double.Epsilon, 0], extreme.Add);
        extreme.Bins.Sum(bin => bin.Count).ShouldBe(4);
        PageCharts.Histogram("x", "", extreme).ShouldContain("<svg");
        await Task.CompletedTask;
    }

    [Fact]
    public void Frequent_texts_survive_any_number_of_rare_ones()
    {
        var table = new FrequencyTable(20_000);
        for (var i = 0; i < 100_000; i++)
        {
            table.Add(string.Create(CultureInfo.InvariantCulture, $"rare {i}"));
            if (i % 10 == 0)
            {
                table.Add("dog");
            }
        }

        (table.Distinct, table.IsComplete).ShouldBe((20_000, false));
        table.Top(100_000).Count.ShouldBeLessThanOrEqualTo(20_000);
        table.Top(1).ShouldBe([("dog", 10_000)]);
        table.Total.ShouldBe(110_000);
    }

    [Fact]
    public async Task The_page_shows_counts_captions_and_reasons_and_escapes_everything()
    {
        const string evil = "<script>alert('x')</script> & \"quoted\" </style>";
        await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=64x36:rate=12", "-frames:v", "24", _folder["<b>.mp4"]);
        await File.WriteAllTextAsync(_folder["bad.mp4"], "not a video");
        ManifestRow[] rows =
        [
            new()
            {
                Path = "<b>.mp4",
                Text = evil,
                NumFrames = 24,
                Height = 36,
                Width = 64,
                Fps = 12,
                Columns = [new(evil, evil), new("score", 0.25), new("start", 1.5), new("end", 3.5), new("hash", "00ff")],
            },
            new()
            {
                Path = "bad.mp4",
                Text = "The dog's dog runs to a dog",
                NumFrames = 48,
                Fps = 12,
                Columns = [new("score", 0.75)],
            },
            new() { Path = "missing.mp4", NumFrames = 1 },
        ];
        var options = new StatisticsPageOptions
        {
            Title = evil,
            Folder = _folder.Path,
            Dropped = [new("filter", evil, 3), new("cut", "too short", 5)],
        };
        await StatisticsPage.WriteAsync(_folder["a.html"], rows.ToAsyncEnumerable(), options);
        var html = await File.ReadAllTextAsync(_folder["a.html"]);

        html.ShouldNotContain("<script");
        html.Split("</style>").Length.ShouldBe(2);
        html.ShouldNotContain("<b>.mp4");
        html.ShouldNotContain("http:");
        html.ShouldNotContain("https:");
        html.ShouldContain("<dt>Clips</dt><dd>2</dd>");
        html.ShouldContain("<dt>Images</dt><dd>1</dd>");
        html.ShouldContain("<dt>Duration</dt><dd>0.1 <small>min</small></dd>");
        html.ShouldContain("<dt>With caption</dt><dd>66.6 <small>%</small></dd>");
        html.ShouldContain("<dt>Dropped</dt><dd>8</dd>");
        html.ShouldContain("cut: too short");
        html.ShouldContain("<figcaption>score");
        foreach (var name in (string[])["start", "end", "hash"])
        {
            html.ShouldNotContain($"<figcaption>{name}");
        }

        html.ShouldContain("<span dir=\"auto\">dog</span><i><b style=\"width:100%\"></b></i><em>2</em>");
        html.ShouldNotContain("<span dir=\"auto\">the</span>");
        html.ShouldContain("<div class=\"none\">file does not exist</div>");
        html.ShouldContain("<div class=\"none\">not a readable video</div>");
        var image = Convert.FromBase64String(JpegData().Match(html).Groups["data"].Value);
        image[..3].ShouldBe([0xFF, 0xD8, 0xFF]);

        // Every element is closed: apart from void elements, the page is XML.
        var xml = VoidElements().Replace(html.Replace("<!DOCTYPE html>", ""), "<${tag}/>");
        XDocument.Parse(xml).Root!.Name.LocalName.ShouldBe("html");

        await StatisticsPage.WriteAsync(_folder["b.html"], rows.ToAsyncEnumerable(), options);
        (await File.ReadAllTextAsync(_folder["b.html"])).ShouldBe(html);
    }

    [Fact]
    public async Task Thumbnails_of_the_caller_are_shown()
    {
        var rows = Enumerable.Range(0, 100).Select(i => new ManifestRow { Path = $"{i}.mp4" });
        var options = new StatisticsPageOptions { Thumbnails = 7, Thumbnail = (_, _) => Task.FromResult<byte[]?>([1, 2, 3]) };
        await StatisticsPage.WriteAsync(_folder["a.html"], rows.ToAsyncEnumerable(), options);
        JpegData().Count(await File.ReadAllTextAsync(_folder["a.html"])).ShouldBe(7);
        options.Thumbnails = 100;
        options.Thumbnail = (row, _) => Task.FromResult<byte[]?>(row.Path is "3.mp4" ? null : [1, 2, 3]);
        await StatisticsPage.WriteAsync(_folder["a.html"], rows.ToAsyncEnumerable(), options);
        var html = await File.ReadAllTextAsync(_folder["a.html"]);
        JpegData().Count(html).ShouldBe(99);
        html.ShouldContain("no thumbnail");
    }

    [Fact]
    public async Task An_empty_manifest_has_a_page()
    {
        await StatisticsPage.WriteAsync(_folder["a.html"], AsyncEnumerable.Empty<ManifestRow>());
        (await File.ReadAllTextAsync(_folder["a.html"])).ShouldContain("<dt>Clips</dt><dd>0</dd>");
    }

    [GeneratedRegex("src=\"data:image/jpeg;base64,(?<data>[^\"]*)\"", RegexOptions.ExplicitCapture, 10_000)]
    private static partial Regex JpegData();

    [GeneratedRegex("<(?<tag>(meta|img)[^>]*)>", RegexOptions.ExplicitCapture, 10_000)]
    private static partial Regex VoidElements();
}
