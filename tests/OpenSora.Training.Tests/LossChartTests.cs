using System.Xml.Linq;
using OpenSora.Media;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class LossChartTests
{
    private static readonly XNamespace Svg = "http://www.w3.org/2000/svg";

    [Fact]
    public void A_chart_has_title_labels_round_ticks_and_a_legend()
    {
        var document = XDocument.Parse(
            new LossChart { Title = "Loss & <time>", YLabel = "error" }
                .Add("first", Line(100, i => 1 - i / 200.0))
                .Add("second \"2\"", Line(100, i => 0.5))
                .ToSvg()
        );
        var texts = document.Descendants(Svg + "text").Select(text => text.Value).ToArray();
        texts.ShouldContain("Loss & <time>");
        texts.ShouldContain("error");
        texts.ShouldContain("steps");
        texts.ShouldContain("second \"2\"");
        texts
            .Where(text => text.Length > 0 && char.IsAsciiDigit(text[0]))
            .ShouldBe(["0.5", "0.6", "0.7", "0.8", "0.9", "1.0", "0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "100"]);
        document.Descendants(Svg + "polyline").Count(line => line.Attribute("clip-path") is not null).ShouldBe(4); // a faint and a smooth line each
    }

    [Theory]
    [InlineData(1, 20000, false, 700, 90, "0 5k 10k 15k 20k")]
    [InlineData(0.0312, 0.0487, false, 400, 48, "0.032 0.034 0.036 0.038 0.040 0.042 0.044 0.046 0.048")]
    [InlineData(-3, 3, false, 300, 48, "-3 -2 -1 0 1 2 3")]
    [InlineData(0, 25_000_000, false, 700, 90, "0 5M 10M 15M 20M 25M")]
    [InlineData(0.05, 1.1, true, 400, 48, "0.05 0.07 0.1 0.2 0.3 0.5 0.7 1")]
    [InlineData(0.00002, 3, true, 300, 48, "0.0001 0.001 0.01 0.1 1")]
    [InlineData(0.2, 0.21, true, 300, 48, "0.200 0.202 0.204 0.206 0.208 0.210")]
    [InlineData(5, 5, false, 200, 48, "3 4 5 6 7")]
    public void Ticks_are_round(double low, double high, bool log, double pixels, double spacing, string expected)
    {
        var ticks = ChartAxis.For([high, low], log, pixels, spacing, padding: 0).Ticks;
        string.Join(' ', ticks.Select(tick => tick.Label)).ShouldBe(expected);
    }

    [Fact]
    public void Many_points_make_a_small_file_that_keeps_their_extremes()
    {
        var points = Line(200_000, i => i == 77_777 ? 9 : 1 + i % 7 * 0.1);
        var svg = new LossChart { Smoothing = 1 }
            .Add("", points)
            .ToSvg();
        svg.Length.ShouldBeLessThan(60_000);
        var chart = new LossChart().Add("", points);
        var heights = XDocument
            .Parse(svg)
            .Descendants(Svg + "polyline")
            .Single(line => line.Attribute("clip-path") is not null)
            .Attribute("points")!
            .Value.Split(' ')
            .Select(point => double.Parse(point.Split(',')[1], System.Globalization.CultureInfo.InvariantCulture))
            .ToArray();
        (heights.Max() - heights.Min()).ShouldBeGreaterThan(300); // from the lowest to the one point at 9
        chart.ToSvg().Length.ShouldBeLessThan(120_000);
    }

    [Fact]
    public void Several_runs_are_their_mean_in_a_band()
    {
        // Constant runs at 1, 2 and 6: the mean, 3, lies two fifths up in the band.
        var picture = new LossChart { Width = 400, Height = 300 }
            .Add("", Line(50, _ => 1), Line(50, _ => 2), Line(50, _ => 6))
            .ToPicture();
        (picture.Width, picture.Height).ShouldBe((800, 600));
        var (band, line) = Rows(picture, 500);
        var (top, bottom) = (band.Min(), band.Max());
        ((bottom - line.Average()) / (bottom - top)).ShouldBe(0.4, 0.02);
        line.Length.ShouldBeInRange(3, 5); // two units are four pixels
    }

    [Fact]
    public void A_noisy_run_is_a_faint_line_with_a_smooth_one_in_its_middle()
    {
        var picture = new LossChart { Width = 400, Height = 300 }
            .Add("", Line(4000, i => i % 2 == 0 ? 1 : 3))
            .ToPicture();
        var (faint, line) = Rows(picture, 500);
        ((faint.Max() - line.Average()) / (faint.Max() - faint.Min())).ShouldBe(0.5, 0.02);
    }

    [Fact]
    public void A_logarithmic_axis_spreads_powers_evenly()
    {
        var points = XDocument
            .Parse(
                new LossChart
                {
                    LogX = true,
                    LogY = true,
                    Smoothing = 1,
                }
                    .Add("", [(1, 0.01), (10, 0.1), (100, 1), (0, 5), (1000, -1)])
                    .ToSvg()
            )
            .Descendants(Svg + "polyline")
            .Single(line => line.Attribute("clip-path") is not null)
            .Attribute("points")!
            .Value.Split(' ')
            .Select(point => point.Split(',').Select(number => double.Parse(number, System.Globalization.CultureInfo.InvariantCulture)).ToArray())
            .ToArray();
        points.Length.ShouldBe(3);
        (points[1][0] - points[0][0]).ShouldBe(points[2][0] - points[1][0], 0.2);
        (points[1][1] - points[0][1]).ShouldBe(points[2][1] - points[1][1], 0.2);
        points[2][1].ShouldBeLessThan(points[0][1]);
    }

    [Fact]
    public async Task What_cannot_be_drawn_is_refused()
    {
        Should.Throw<ArgumentException>(() => new LossChart().Add("empty", [])).Message.ShouldContain("no points");
        Should.Throw<ArgumentException>(() => new LossChart().Add("seeds", Line(5, _ => 1), Line(6, _ => 1))).Message.ShouldContain("same steps");
        Should.Throw<InvalidOperationException>(() => new LossChart().ToSvg());
        Should.Throw<InvalidOperationException>(() =>
            new LossChart { LogY = true }
                .Add("", Line(5, _ => -1))
                .ToSvg()
        );
        await Should.ThrowAsync<ArgumentException>(() => new LossChart().Add("", Line(5, _ => 1)).SaveAsync("chart.gif"));
        foreach (var odd in new[] { Line(1, _ => 3), Line(40, _ => 0), Line(9, i => i == 3 ? double.NaN : 1e-12 * i), Line(3, i => 1e300 * i) })
        {
            XDocument.Parse(new LossChart().Add("", odd).ToSvg()).ToString().ShouldNotContain("NaN");
            new LossChart().Add("", odd).ToPicture().Count.ShouldBe(1);
        }
    }

    [Fact]
    public async Task Charts_are_saved_as_svg_and_png()
    {
        using var folder = new TemporaryFolder();
        var chart = new LossChart { Width = 300, Height = 200 }.Add("a", Line(5, i => i));
        await chart.SaveAsync(folder["a/chart.svg"]);
        await chart.SaveAsync(folder["a/chart.png"]);
        (await File.ReadAllTextAsync(folder["a/chart.svg"])).ShouldBe(chart.ToSvg());
        var picture = await new ImageCodec().ReadAsync(folder["a/chart.png"]);
        picture.Pixels.Span.SequenceEqual(chart.ToPicture().Pixels.Span).ShouldBeTrue();
        Directory.GetFiles(folder["a"]).Length.ShouldBe(2);
    }

    [Fact]
    public void Every_printable_character_has_a_glyph_of_its_own()
    {
        string Shape(string letter) => string.Join(';', StrokeFont.Lines(letter, 20).Select(line => string.Join(' ', line)));
        var box = Shape("\u20ac");
        var shapes = Enumerable.Range('!', '~' - '!' + 1).Select(code => Shape(((char)code).ToString())).ToList();
        shapes.ShouldNotContain(box);
        shapes.Distinct().Count().ShouldBe(shapes.Count);
        StrokeFont
            .Lines(new string([.. Enumerable.Range(' ', 95).Select(code => (char)code)]), 20)
            .SelectMany(line => line)
            .ShouldAllBe(point => point.Y >= -4.5 && point.Y <= 16.5);
        StrokeFont.Width("111", 20).ShouldBe(StrokeFont.Width("808", 20));
        StrokeFont.Width("", 20).ShouldBe(0);
    }

    [Fact]
    public async Task Losses_are_kept_and_drawn_and_a_resumed_run_goes_on_with_them()
    {
        using var folder = new TemporaryFolder();
        using (var curves = new LossCurves(folder["curves"]) { Every = TimeSpan.Zero })
        {
            await Should.ThrowAsync<IOException>(() =>
                TrainAsync(trainer =>
                    trainer
                        .SaveTo(new CheckpointOptions { Folder = folder["saved"], EverySteps = 2 })
                        .AddCallback(curves)
                        .AddCallback(
                            new Does(run =>
                            {
                                File.Exists(folder["curves/losses.svg"]).ShouldBeTrue();
                                if (run.TotalStep == 9)
                                {
                                    throw new IOException("the power went out");
                                }
                            })
                        )
                )
            );
        }
        Directory.GetFiles(folder["saved"]).Select(Path.GetFileName).Max().ShouldBe("checkpoint-02-00000003.safetensors");
        File.Delete(Directory.GetFiles(folder["saved"]).Max()!);
        await File.AppendAllTextAsync(folder["curves/losses.csv"], "10,\"a, \"\"b\"\"\",4,0.1"); // cut short

        List<double> losses = [];
        using (var curves = new LossCurves(folder["curves"]))
        {
            await TrainAsync(trainer => trainer.Resume(folder["saved"]).AddCallback(curves), new Told(progress => losses.Add(progress.Loss)));
        }

        var read = LossCurves.Read(folder["curves/losses.csv"]);
        read.Select(stage => stage.Stage).ShouldBe(["first", "a, \"b\""]);
        read[0].Points.Select(point => point.Step).ShouldBe([1, 2, 3, 4, 5, 6]);
        read[1].Points.Select(point => point.Step).ShouldBe([7, 8, 9, 10]);
        read[1].Points.Skip(2).Select(point => point.Loss).ShouldBe(losses);
        (await File.ReadAllTextAsync(folder["curves/losses.svg"])).ShouldContain("a, &quot;b&quot;");

        await File.WriteAllTextAsync(folder["other.csv"], "a,b\n1,2\n");
        Should.Throw<InvalidDataException>(() => LossCurves.Read(folder["other.csv"])).Message.ShouldContain("total_step");

        static async Task TrainAsync(Action<StagedTrainer> prepare, IProgress<TrainingProgress>? progress = null)
        {
            manual_seed(1);
            using var line = nn.Linear(3, 2);
            TrainingStage Stage(string name, int steps) =>
                new()
                {
                    Name = name,
                    Data = new Points(),
                    Steps = steps,
                    BatchSize = 4,
                    EmaDecay = null,
                };
            using var trainer = new StagedTrainer(new Line(line)).AddStage(Stage("first", 6)).AddStage(Stage("a, \"b\"", 4));
            prepare(trainer);
            await trainer.RunAsync(progress);
        }
    }

    private static List<(double, double)> Line(int count, Func<int, double> value) =>
        [.. Enumerable.Range(1, count).Select(i => ((double)i, value(i)))];

    // The rows of a column that are coloured at all, and those in the full colour of the first curve.
    private static (int[] Coloured, int[] Full) Rows(VideoFrames picture, int column)
    {
        List<int> coloured = [],
            full = [];
        for (var y = 0; y < picture.Height - 113; y++)
        {
            var pixel = picture.Pixels.Span.Slice((y * picture.Width + column) * 3, 3);
            if (pixel[2] - pixel[0] > 12)
            {
                coloured.Add(y);
            }

            if (pixel[0] == 0x44 && pixel[1] == 0x77 && pixel[2] == 0xaa)
            {
                full.Add(y);
            }
        }
        return ([.. coloured], [.. full]);
    }
}
