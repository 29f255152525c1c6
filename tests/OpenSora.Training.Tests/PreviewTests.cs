using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Previews and validation.</summary>
public class PreviewTests
{
    [Fact]
    public async Task A_model_without_learned_variance_is_trained_and_previewed_without_further_settings()
    {
        using var folder = new TemporaryFolder();
        using var model = new StdiTBuilder()
            .Latents(2, 4, 4, channels: 3)
            .Transformer(channels: 24, depth: 1, heads: 2)
            .Text(1, tokens: 1)
            .LearnedVariance(false)
            .Seed(1)
            .Build();
        using var text = new ClassLabelEncoder(2);
        using var trainer = new StagedTrainer(model)
            .AddStage(
                new TrainingStage
                {
                    Name = "a",
                    Data = new Classes(),
                    Steps = 1,
                    BatchSize = 2,
                }
            )
            .AddPreviews(folder.Path, model, text, null, ["0", "1"], new GenerationSettings { Steps = 2 });

        await trainer.RunAsync();

        Directory.GetFiles(folder.Path).ShouldNotBeEmpty();
    }

    private sealed class Classes : ITrainingData
    {
        public long Count => 2;

        public string Fingerprint => "classes";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default) =>
            ValueTask.FromResult(new TrainingBatch(zeros([size, 3L, 2L, 4L, 4L]), zeros([size, 1L, 1L])));
    }

    [Fact]
    public async Task Previews_and_validation_do_not_change_training()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync((_, _, _) => { });
        var seen = new Observations();
        var watched = await RunAsync(
            (trainer, model, text) =>
                trainer
                    .AddPreviews(folder.Path, Pipeline(model, text), ["a", "b", "c"], everySteps: 2, batchSize: 2)
                    .AddValidationLoss(new Numbers(channels: 3), everySteps: 3, bands: 4, samples: 5, batchSize: 2)
                    .AddCallback(seen)
        );
        Tiny.ShouldBeSame(watched, expected);

        Directory
            .GetFiles(folder.Path)
            .Select(Path.GetFileName)
            .Order(StringComparer.Ordinal)
            .ShouldBe(new[] { 2, 4, 5 }.SelectMany(step => new[] { $"first-{step:D8}.mp4", $"first-{step:D8}.png" }));
        var shown = seen.All.Where(one => one.What.Name.Equals("preview", StringComparison.Ordinal)).ToList();
        shown.Select(one => one.Step).ShouldBe([2, 4, 5]);
        var videos = shown.ConvertAll(one => one.What.Videos["first"]);
        videos.ShouldAllBe(video => video.Count == 2 && video.Width == 3 * (4 + 4) + 4 && video.Height == 4 + 2 * 4);
        videos[1].Pixels.Span.SequenceEqual(videos[0].Pixels.Span).ShouldBeFalse();
        var sheet = await new VideoReader().ReadAsync(Path.Combine(folder.Path, "first-00000005.png"));
        (sheet.Width, sheet.Height).ShouldBe((4 * (4 + 4) + 4, 3 * (4 + 4) + 4));
        (await new VideoReader().ReadAsync(Path.Combine(folder.Path, "first-00000005.mp4"), new ClipOptions())).Count.ShouldBe(2);

        var losses = seen.All.Where(one => one.What.Name.Equals("validation", StringComparison.Ordinal)).ToList();
        losses.Select(one => one.Step).ShouldBe([0, 3, 5]);
        losses.Select(one => one.What.Scalars["loss"]).Distinct().Count().ShouldBe(3);
    }

    [Fact]
    public void The_same_weights_and_seed_draw_the_same_and_prompts_do_not_change_each_other()
    {
        using var model = Model();
        using var text = Text();
        model.eval();
        byte[][] Draw(string[] prompts, int seed = 1, int atOnce = 2) =>
            [
                .. new PromptRenderer(Pipeline(model, text), prompts, new GenerationSettings { Seed = seed, Frames = 1 }, atOnce)
                    .Render(default)
                    .Select(video => video.Pixels.ToArray()),
            ];
        using (no_grad())
        {
            _ = Draw(["a"]);
            GC.Collect();
            GC.WaitForPendingFinalizers();
            var before = TensorCount.Now;
            var first = Draw(["a", "b", "c"]);
            TensorCount.ShouldBe(before);
            first.Length.ShouldBe(3);
            first[0].Length.ShouldBe(4 * 4 * 3);
            _ = rand(10);
            Draw(["a", "b", "c"]).ShouldBe(first);
            Draw(["a"], atOnce: 1)[0].Zip(first[0]).ShouldAllBe(pair => Math.Abs(pair.First - pair.Second) <= 1);
            Draw(["a", "b", "c"], seed: 2)[0].ShouldNotBe(first[0]);
        }
        using var trainer = new StagedTrainer(model);
        Should.Throw<ArgumentException>(() => trainer.AddPreviews("folder", model, text, null, []));
        Should
            .Throw<ArgumentException>(() => trainer.AddPreviews("folder", Pipeline(model, text), ["a"], new GenerationSettings { Steps = 2 }))
            .Message.ShouldContain("Create the sampler with it instead");
    }

    [Fact]
    public void A_model_without_a_configured_size_needs_one()
    {
        using var text = Text();
        using var model = new StdiT2(
            new StdiT2Config
            {
                InputSqSize = 32,
                InChannels = 3,
                HiddenSize = 24,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = text.Width,
                ModelMaxLength = text.MaxTokens,
                PredSigma = false,
            }
        );
        model.eval();
        GenerationSettings Sized(int? height) =>
            new()
            {
                Frames = 2,
                Height = height,
                Width = 6,
            };
        using (no_grad())
        {
            var video = new PromptRenderer(Pipeline(model, text), ["a"], Sized(4), batchSize: 1).Render(default).ShouldHaveSingleItem();
            (video.Count, video.Height, video.Width).ShouldBe((2, 4, 6));
        }
        using var trainer = new StagedTrainer(model);
        Should
            .Throw<ArgumentException>(() => trainer.AddPreviews("folder", model, text, null, ["a"], Sized(null)))
            .Message.ShouldContain("StdiT2 has no size of its own");
    }

    [Fact]
    public async Task Any_renderer_can_be_previewed_and_stills_are_images()
    {
        using var folder = new TemporaryFolder();
        using var line = nn.Linear(3, 2);
        // Of one length: the second must not be taken for the first.
        using var trainer = new StagedTrainer(new Line(line))
            .AddStage(
                new TrainingStage
                {
                    Name = "a/b",
                    Data = new Points(),
                    Steps = 3,
                }
            )
            .AddStage(
                new TrainingStage
                {
                    Name = "c",
                    Data = new Points(),
                    Steps = 3,
                }
            )
            .AddPreviews(folder.Path, _ =>
            {
                line.training.ShouldBeFalse();
                return [new VideoFrames(new byte[4 * 4 * 3], 1, 4, 4, 1), new VideoFrames(new byte[4 * 4 * 3], 1, 4, 4, 1)];
            });
        await trainer.RunAsync();
        Directory.GetFiles(folder.Path).Select(Path.GetFileName).Order().ShouldBe(["ab-00000003.png", "c-00000003.png"]);
    }

    [Fact]
    public async Task Bands_cover_all_times_evenly_with_the_same_noise_every_time()
    {
        using var line = nn.Linear(3, 2);
        var objective = new Recording();
        using var trainer = new StagedTrainer(objective);
        Task<TrainingObservation> MeasureAsync(ITrainingData data, int bands = 4, CancellationToken stop = default) =>
            trainer.MeasureLossAsync(data, bands, samples: 6, batchSize: 4, cancellationToken: stop);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = TensorCount.Now;
        var result = await MeasureAsync(new Numbers());
        TensorCount.ShouldBe(before);
        // The loss is the time: each band's mean is its middle.
        result.Scalars.Values.Zip([0.5, 0.125, 0.375, 0.625, 0.875]).ShouldAllBe(pair => Math.Abs(pair.First - pair.Second) < 1e-6);
        result.Scalars.Keys.ShouldBe(["loss", "0.0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1.0"]);
        objective.Times.Order().ShouldBe(Enumerable.Range(0, 24).Select(i => (i + 0.5f) / 24), 1e-6f);
        objective.Noise.Count.ShouldBe(8); // of 4 and of 2 samples, in 4 bands each
        objective.Noise.Distinct().Count().ShouldBe(2);

        var noise = objective.Noise.ToArray();
        objective.Noise.Clear();
        await MeasureAsync(new Numbers());
        objective.Noise.ShouldBe(noise);

        // Data that choose the size of their batches: 2 and 8 instead of 4, of which 4 are needed.
        objective.Times.Clear();
        var others = TrainingData.Mix((new Numbers(), 0.5), (new Numbers(1), 2));
        (await MeasureAsync(others)).Scalars["loss"].ShouldBe(0.5, 1e-6);
        objective.Times.Order().ShouldBe(Enumerable.Range(0, 24).Select(i => (i + 0.5f) / 24), 1e-6f);
        (await Should.ThrowAsync<InvalidOperationException>(() => MeasureAsync(others, bands: 0))).Message.ShouldContain("Bands is 0");
        using var stop = new CancellationTokenSource();
        await stop.CancelAsync();
        await Should.ThrowAsync<OperationCanceledException>(() => MeasureAsync(others, 1, stop.Token));

        using var plain = new StagedTrainer(new Line(line));
        (await Should.ThrowAsync<NotSupportedException>(() => plain.MeasureLossAsync(new Points()))).Message.ShouldContain(
            "Line does not implement SampleLosses"
        );
    }

    [Fact]
    public async Task The_loss_of_samples_equals_the_training_loss()
    {
        var (model, text) = Tiny.Models();
        using var batch = await new Numbers().GetBatchAsync(0, 3, 1);
        using (model)
        using (text)
        using (no_grad())
        {
            model.eval();
            using var scope = NewDisposeScope();
            var objective = new DiffusionTraining(model, text);
            var noise = randn(batch.Video.shape);
            var losses = objective.SampleLosses(batch, tensor(new[] { 0f, 0.5f, 1f }), noise);
            losses.shape.ShouldBe([3]);
            var expected = objective.SampleLoss(batch, batch.Video, tensor(new long[] { 0, 500, 999 }), noise, null);
            losses.data<float>().ToArray().ShouldBe(expected.Total.data<float>().ToArray(), 1e-6f);
        }
    }

    private static VideoPipeline Pipeline(IVideoTransformer model, ITextEncoder text) =>
        new(model, text, null, new DpmSolver(3, prediction: Prediction.Sample));

    private static StdiT Model()
    {
        manual_seed(1);
        return new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 4, 4],
                InChannels = 3,
                HiddenSize = 16,
                Depth = 2,
                NumHeads = 2,
                CaptionChannels = 8,
                ModelMaxLength = 4,
            }
        );
    }

    private static T5TextEncoder Text() =>
        new(
            new T5Config
            {
                VocabSize = 60,
                DModel = 8,
                DKv = 4,
                DFf = 16,
                NumLayers = 1,
                NumHeads = 2,
            },
            new Letters(),
            4
        );

    private static async Task<Dictionary<string, float[]>> RunAsync(Action<StagedTrainer, StdiT, T5TextEncoder> prepare)
    {
        using var model = Model();
        using var text = Text();
        var stage = Tiny.Stage(steps: 5, data: new Numbers(channels: 3));
        stage.LearningRate = 0.05;
        using var trainer = new StagedTrainer(model, text).AddStage(stage);
        prepare(trainer, model, text);
        await trainer.RunAsync();
        var weights = Tiny.Weights(("model", model), ("text", text));
        trainer.UseAverages();
        return weights.Concat(Tiny.Weights(("ema", model))).ToDictionary();
    }

    private sealed class Letters : ITokenizer
    {
        public int PadId => 0;

        public IReadOnlyList<int> Encode(string text, int maxTokens) => [.. text.Take(maxTokens - 1).Select(letter => letter % 50 + 2), 1];
    }

    private sealed class Observations : ITrainingCallback
    {
        public List<(long Step, TrainingObservation What)> All { get; } = [];

        public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
        {
            All.Add((run.Step, observation));
            return default;
        }
    }

    /// <summary>A loss that is the time, and what it was asked for.</summary>
    private sealed class Recording : ITrainingObjective
    {
        public IReadOnlyDictionary<string, nn.Module> Modules { get; } = new Dictionary<string, nn.Module>(StringComparer.Ordinal);

        public List<float> Times { get; } = [];

        public List<float> Noise { get; } = [];

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
            throw new InvalidOperationException("Not trained.");

        public Tensor SampleLosses(TrainingBatch batch, Tensor times, Tensor noise)
        {
            Times.AddRange(times.data<float>());
            noise.shape.ShouldBe(batch.Video.shape);
            Noise.Add(noise.sum().item<float>());
            return times.clone();
        }
    }
}
