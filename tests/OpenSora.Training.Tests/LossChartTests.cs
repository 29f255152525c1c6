using System.Globalization;
using System.Xml.Linq;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class LossChartTests
{
    private static readonly XNamespace Svg = "http://www.w3.org/2000/svg";

    [Fact]
    public void A_chart_has_a_title_labels_and_a_legend()
    {
        var document = XDocument.Parse(
            new LossChart { Title = "Loss & <time>", YLabel = "error" }
                .Add("first", Line(100, i => 1 - i / 200.0))
                .Add("second \"2\"", Line(100, _ => 0.5))
                .ToSvg()
        );

        var texts = document.Descendants(Svg + "text").Select(text => text.Value).ToArray();
        foreach (var expected in new[] { "Loss & <time>", "error", "steps", "first", "second \"2\"", "0.5", "100" })
        {
            texts.ShouldContain(expected);
        }

        Curves(document).Count.ShouldBe(4); // a faint and a smooth line each
    }

    [Fact]
    public void Many_points_make_a_small_file_that_keeps_their_extremes()
    {
        var svg = new LossChart { Smoothing = 1 }
            .Add("", Line(200_000, i => i == 77_777 ? 9 : 1 + i % 7 * 0.1))
            .ToSvg();

        svg.Length.ShouldBeLessThan(200_000);
        var heights = Curves(XDocument.Parse(svg)).Single().Select(point => point.Y).ToArray();
        (heights.Max() - heights.Min()).ShouldBeGreaterThan(300); // from the lowest to the one point at 9
    }

    [Fact]
    public void Several_runs_are_their_mean_in_a_band()
    {
        // Constant runs at 1, 2 and 6: the mean, 3, lies two fifths up in the band.
        var document = XDocument.Parse(new LossChart().Add("", Line(50, _ => 1), Line(50, _ => 2), Line(50, _ => 6)).ToSvg());

        var band = document.Descendants(Svg + "polygon").SelectMany(Points).Select(point => point.Y).ToArray();
        var mean = Curves(document)[^1].Average(point => point.Y);
        ((band.Max() - mean) / (band.Max() - band.Min())).ShouldBe(0.4, 0.02);
    }

    [Fact]
    public void A_noisy_run_is_a_faint_line_with_a_smoothed_line()
    {
        var curves = Curves(XDocument.Parse(new LossChart().Add("", Line(4000, i => i % 2 == 0 ? 1 : 3)).ToSvg()));

        var (faint, smooth) = (curves[0].Select(point => point.Y).ToArray(), curves[1].Average(point => point.Y));
        ((faint.Max() - smooth) / (faint.Max() - faint.Min())).ShouldBe(0.5, 0.02);
    }

    [Fact]
    public void A_logarithmic_axis_spreads_powers_evenly()
    {
        var chart = new LossChart
        {
            LogX = true,
            LogY = true,
            Smoothing = 1,
        };
        var points = Curves(XDocument.Parse(chart.Add("", [(1, 0.01), (10, 0.1), (100, 1), (0, 5), (1000, -1)]).ToSvg())).Single();

        points.Count.ShouldBe(3);
        (points[1].X - points[0].X).ShouldBe(points[2].X - points[1].X, 1.1);
        (points[1].Y - points[0].Y).ShouldBe(points[2].Y - points[1].Y, 1.1);
        points[2].Y.ShouldBeLessThan(points[0].Y);
    }

    [Fact]
    public async Task Values_that_cannot_be_drawn_are_rejected()
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
            var svg = new LossChart().Add("", odd).ToSvg();
            XDocument.Parse(svg).ToString().ShouldNotContain("NaN", Case.Sensitive);
        }
    }

    [Fact]
    public async Task A_chart_is_saved_under_a_temporary_name_first()
    {
        using var folder = new TemporaryFolder();
        var chart = new LossChart { Width = 300, Height = 200 }.Add("a", Line(5, i => i));

        await chart.SaveAsync(folder["a/chart.svg"]);

        (await File.ReadAllTextAsync(folder["a/chart.svg"])).ShouldBe(chart.ToSvg());
        Directory.GetFiles(folder["a"]).Length.ShouldBe(1);
    }

    [Fact]
    public async Task Losses_are_stored_and_drawn_and_a_resumed_run_continues_them()
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
            await TrainAsync(
                trainer => trainer.Resume(folder["saved"]).AddCallback(curves),
                new ActionProgress(progress => losses.Add(progress.Loss))
            );
        }

        var read = LossChart.ReadLosses(folder["curves/losses.csv"]);
        read.Select(stage => stage.Stage).ShouldBe(["first", "a, \"b\""]);
        read[0].Points.Select(point => point.Step).ShouldBe([1, 2, 3, 4, 5, 6]);
        read[1].Points.Select(point => point.Step).ShouldBe([7, 8, 9, 10]);
        read[1].Points.Skip(2).Select(point => point.Loss).ShouldBe(losses);
        XDocument.Parse(await File.ReadAllTextAsync(folder["curves/losses.svg"])).Root!.Value.ShouldContain("a, \"b\"");

        await File.WriteAllTextAsync(folder["other.csv"], "a,b\n1,2\n");
        Should.Throw<InvalidDataException>(() => LossChart.ReadLosses(folder["other.csv"])).Message.ShouldContain("total_step");

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

    // The lines of the curves, without those of the axes and the legend, which have two points.
    private static List<List<(double X, double Y)>> Curves(XDocument document) =>
        [.. document.Descendants(Svg + "polyline").Select(Points).Where(points => points.Count > 2)];

    private static List<(double X, double Y)> Points(XElement line) =>
        [
            .. line.Attribute("points")!
                .Value.Split(' ', StringSplitOptions.RemoveEmptyEntries)
                .Select(point => Array.ConvertAll(point.Split(','), number => double.Parse(number, CultureInfo.InvariantCulture)))
                .Select(point => (point[0], point[1])),
        ];
}
