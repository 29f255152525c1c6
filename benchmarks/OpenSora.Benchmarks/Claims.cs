using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Tests the claims about this training method on synthetic clips of moving shapes (<see cref="MovingShapes"/>), with three seeds
/// each.</summary>
internal static class Claims
{
    private const int Seeds = 3,
        Side = 12,
        Frames = 8;

    /// <summary>Tests claim 1: with weights of an image model, temporal attention with a zero-initialized output learns faster than randomly
    /// initialized temporal attention, and faster than a model without image training.</summary>
    public static void ZeroInit()
    {
        const int imageSteps = 400,
            clipSteps = 400,
            every = 40;
        var curves = new List<Curve>();
        for (var seed = 1; seed <= Seeds; seed++)
        {
            using var scope = NewDisposeScope();
            using var images = Model(seed, Side, Frames);
            Train(images, ImageStage(imageSteps, seed));
            foreach (
                var (name, fromImages, startAtZero) in new[]
                {
                    ("image weights, temporal output zero", true, true),
                    ("image weights, temporal output random", true, false),
                    ("from scratch", false, true),
                }
            )
            {
                using var model = Model(seed + 100, Side, Frames, startAtZero);
                if (fromImages)
                {
                    CopyAllButTemporal(images, model);
                }

                curves.Add(Train(model, ClipStage(clipSteps, seed), new MovingShapes(Side, Frames), every, name, seed));
            }
        }
        Report("zero-init", curves);
    }

    /// <summary>Tests claim 2: training on images, then on small clips, then on a few high-quality, large and long clips is better than spending the
    /// same compute on the last stage alone.</summary>
    public static void Stages()
    {
        const int large = 2 * Side,
            more = 12,
            fine = 2000;
        var (first, second, third) = (400, 400, 160);
        var curves = new List<Curve>();
        for (var seed = 1; seed <= Seeds; seed++)
        {
            using var scope = NewDisposeScope();
            var stages = new[] { ImageStage(first, seed, noise: 0.3), ClipStage(second, seed, noise: 0.3), FineStage(third, seed) };
            var compute = stages.Sum(Tokens);

            // Each size has its own position table; the coordinates of the small size are doubled.
            using var small = Model(seed, Side, Frames, spaceScale: 0.5);
            Train(small, stages[0]);
            Train(small, stages[1]);
            using var staged = Model(seed, large, more);
            Copy(small, staged, name => !name.Contains("pos_embed", StringComparison.Ordinal));
            curves.Add(Train(staged, stages[2], new MovingShapes(large, more), 40, "three stages", seed, before: compute - Tokens(stages[2])));

            using var single = Model(seed, large, more);
            var one = FineStage((int)(compute / (Tokens(stages[2]) / third)), seed);
            curves.Add(Train(single, one, new MovingShapes(large, more), 40, "one stage", seed));
        }
        Report("stages", curves);

        TrainingStage FineStage(int steps, int seed) => Stage("fine clips", new MovingShapes(large, more, fine), steps, 4, seed);
    }

    private sealed record Curve(string Name, int Seed, List<(double X, double Loss)> Losses, List<(double X, double Error)> Errors);

    private static StdiT Model(int seed, int side, int frames, bool startAtZero = true, double spaceScale = 1) =>
        new StdiTBuilder()
            .Latents(frames, side, side, channels: 3)
            .Transformer(channels: 64, depth: 3, heads: 4)
            .Text(MovingShapes.Words, tokens: 3)
            .Positions(spaceScale)
            .LearnedVariance(false)
            .TemporalAttention(startAtZero)
            .Seed(seed)
            .Build();

    private static TrainingStage Stage(string name, MovingShapes data, int steps, int batch, int seed) =>
        new()
        {
            Name = name,
            Data = data,
            Steps = steps,
            BatchSize = batch,
            LearningRate = 1e-3,
            FinalLearningRate = 1e-4,
            WarmUpSteps = 20,
            Beta2 = 0.99,
            EmaDecay = 0.98,
            Seed = seed,
            Workers = Math.Min(2, Environment.ProcessorCount),
        };

    private static TrainingStage ImageStage(int steps, int seed, double noise = 0)
    {
        var stage = Stage("images", new MovingShapes(Side, 1, noise: noise), steps, 32, seed);
        stage.Trains = name => !name.Contains(".attn_temp.", StringComparison.Ordinal);
        return stage;
    }

    private static TrainingStage ClipStage(int steps, int seed, double noise = 0) =>
        Stage("clips", new MovingShapes(Side, Frames, noise: noise), steps, 8, seed);

    // The cost of a stage in tokens processed by the model: patches of 1 x 2 x 2.
    private static double Tokens(TrainingStage stage)
    {
        var data = (MovingShapes)stage.Data!;
        return (double)stage.Steps * stage.BatchSize * data.Frames * data.Size * data.Size / 4;
    }

    private static Curve Train(
        StdiT model,
        TrainingStage stage,
        MovingShapes? world = null,
        int every = 0,
        string name = "",
        int seed = 0,
        double before = 0
    )
    {
        var process = new Iddpm(IddpmSchedule.Linear(), Prediction.Sample, Variance.FixedSmall);
        var objective = new DiffusionTraining(model, process: process);
        var curve = new Curve(name, seed, [], []);
        model.TemporalAttention = stage.Trains is null;
        using var trainer = new StagedTrainer(objective).AddStage(stage);
        if (world is not null)
        {
            var perStep = Tokens(stage) / stage.Steps;
            trainer
                .AddValidationLoss(world, every, bands: 8, samples: 16, seed: 12345)
                .AddCallback(
                    new Watch(
                        model,
                        world,
                        every * 2,
                        (step, loss) => curve.Losses.Add((before + step * perStep, loss)),
                        (step, error) => curve.Errors.Add((before + step * perStep, error))
                    )
                );
            Console.Error.WriteLine($"{name}, seed {seed} ...");
        }
        trainer.RunAsync().GetAwaiter().GetResult();
        trainer.UseAverages();
        return curve;
    }

    private static void CopyAllButTemporal(StdiT from, StdiT to) => Copy(from, to, name => !name.Contains("attn_temp", StringComparison.Ordinal));

    private static void Copy(StdiT from, StdiT to, Func<string, bool> chosen)
    {
        using var noGradients = no_grad();
        var source = from.state_dict();
        foreach (var (name, tensor) in to.state_dict())
        {
            if (chosen(name))
            {
                tensor.copy_(source[name]);
            }
        }
    }

    // Measures the distance of generated clips from the nearest true clips, with fixed captions and noise.
    private sealed class Watch(StdiT model, MovingShapes world, int every, Action<long, double> loss, Action<long, double> error) : ITrainingCallback
    {
        public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
        {
            if (observation.Scalars.TryGetValue("loss", out var value))
            {
                loss(run.Step, value);
            }

            if (run.Step > 0 && run.Step % every == 0)
            {
                run.Evaluate(() => error(run.Step, Error()));
            }

            return default;
        }

        private double Error()
        {
            const int count = 16;
            var random = new Random(99);
            var captions = Enumerable.Range(0, count).Select(_ => MovingShapes.Draw(random)).ToArray();
            var (states, nothing) = (MovingShapes.Encode(captions), model.NullCaption(count));
            var size = model.Config.InputSize;
            using var generator = new Generator(3);
            var noise = randn([count, 3, size[0], size[1], size[2]], generator: generator);
            var videos = new DpmSolver(20, prediction: Prediction.Sample).Sample(
                Sampling.ClassifierFreeGuidance((x, t) => model.forward(x, t, states, null), (x, t) => model.forward(x, t, nothing, null), 2),
                noise,
                generator
            );
            return Enumerable.Range(0, count).Average(i => world.DistanceToNearest(videos[i], captions[i]));
        }
    }

    // Reports means and standard deviations over the seeds, as tables and as charts in out/.
    private static void Report(string name, List<Curve> curves)
    {
        foreach (
            var (what, pointsOf) in new (string, Func<Curve, List<(double X, double Y)>>)[]
            {
                ("validation loss", curve => [.. curve.Losses.Select(point => (point.X, point.Loss))]),
                ("error of generated clips", curve => [.. curve.Errors.Select(point => (point.X, point.Error))]),
            }
        )
        {
            Console.WriteLine();
            var chart = new LossChart
            {
                XLabel = "million tokens trained on",
                YLabel = what,
                LogY = true,
                Smoothing = 1,
            };
            foreach (var group in curves.GroupBy(curve => curve.Name, StringComparer.Ordinal))
            {
                chart.Add(group.Key, [.. group.Select(curve => pointsOf(curve).ConvertAll(point => (point.X / 1e6, point.Y)))]);
            }

            var path = $"out/{name}-{(what.Contains("loss", StringComparison.Ordinal) ? "loss" : "error")}.svg";
            Directory.CreateDirectory("out");
            chart.SaveAsync(path).GetAwaiter().GetResult();
            Console.WriteLine(path);
            var groups = curves.GroupBy(curve => curve.Name, StringComparer.Ordinal).ToArray();
            var at = groups.SelectMany(group => pointsOf(group.First()).Select(point => point.X)).Distinct().Order().ToArray();
            Console.WriteLine(
                $"| {what}, after million tokens | {string.Join(" | ", at.Select(x => (x / 1e6).ToString("0.00", CultureInfo.InvariantCulture)))} |"
            );
            Console.WriteLine($"|---|{string.Concat(at.Select(_ => "---|"))}");
            foreach (var group in groups)
            {
                Console.WriteLine(
                    $"| {group.Key} | {string.Join(" | ", at.Select(x =>
                {
                    var values = group.SelectMany(curve => pointsOf(curve).Where(point => point.X == x)).Select(point => point.Y).ToArray();
                    if (values.Length == 0)
                    {
                        return "";
                    }

                    var mean = values.Average();
                    var deviation = Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)) / values.Length);
                    return FormattableString.Invariant($"{mean:F3} ± {deviation:F3}");
                }))} |"
                );
            }
        }
        Console.WriteLine();
    }
}
