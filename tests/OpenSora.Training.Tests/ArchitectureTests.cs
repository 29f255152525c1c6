using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Tests that every architecture can be trained.</summary>
public class ArchitectureTests
{
    private static nn.Module Make(string name) =>
        name switch
        {
            "stdit2" => new StdiT2(
                new StdiT2Config
                {
                    InputSqSize = 32,
                    InChannels = 2,
                    HiddenSize = 24,
                    Depth = 1,
                    NumHeads = 2,
                    CaptionChannels = 8,
                    ModelMaxLength = 4,
                }
            ),
            "stdit3" => new StdiT3(
                new StdiT3Config
                {
                    InputSqSize = 32,
                    InChannels = 2,
                    HiddenSize = 16,
                    Depth = 1,
                    NumHeads = 2,
                    CaptionChannels = 8,
                    ModelMaxLength = 4,
                }
            ),
            _ => new StdiT(
                StdiTConfig.PixArt with
                {
                    InputSize = [2, 4, 4],
                    InChannels = 2,
                    HiddenSize = 24,
                    Depth = 1,
                    NumHeads = 2,
                    CaptionChannels = 8,
                    ModelMaxLength = 4,
                    SizeConditioning = true,
                }
            ),
        };

    [Theory]
    [InlineData("stdit2", false)]
    [InlineData("stdit2", true)]
    [InlineData("stdit3", true)]
    [InlineData("pixart", false)]
    public async Task It_learns_and_frozen_parameters_stay(string name, bool flow)
    {
        var before = TensorCount.Now;
        manual_seed(1);
        using (var model = Make(name))
        using (
            var text = new T5TextEncoder(
                new T5Config
                {
                    VocabSize = 20,
                    DModel = 8,
                    DKv = 4,
                    DFf = 16,
                    NumLayers = 1,
                    NumHeads = 2,
                }
            )
        )
        {
            var start = Weights(model);
            var data = name is "pixart"
                ? (ITrainingData)new Numbers()
                : new FrameMaskedData(new Numbers(), new Dictionary<FrameMask, double> { [FrameMask.ImageHead] = 0.5 });
            var objective = new DiffusionTraining(
                (IVideoTransformer)model,
                text,
                flow ? new RectifiedFlow(logitNormal: true, shiftBySize: true) : null
            )
            {
                FramesPerSecond = 8,
            };
            var losses = new List<TrainingProgress>();
            var stage = Tiny.Stage(steps: 4, data: data);
            stage.Workers = 2;
            using (var trainer = new StagedTrainer(objective).AddStage(stage))
            {
                await trainer.RunAsync(new ActionProgress(losses.Add));
            }

            losses.ShouldAllBe(step => double.IsFinite(step.Loss) && step.GradientNorm > 0);

            var end = Weights(model);
            bool Moved(string parameter) => !start["model." + parameter].AsSpan().SequenceEqual(end["model." + parameter]);
            Moved("final_layer.linear.weight").ShouldBeTrue();
            Moved("y_embedder.y_embedding").ShouldBeFalse();
            if (name is not "pixart")
            {
                Moved("rope.freqs").ShouldBeFalse();
            }
        }
        TensorCount.ShouldBe(before);

        static Dictionary<string, float[]> Weights(nn.Module model)
        {
            using var scope = NewDisposeScope();
            return Tiny.Weights(("model", model));
        }
    }

    [Fact]
    public void The_model_receives_size_frame_rate_frames_and_dropped_captions()
    {
        using var scope = NewDisposeScope();
        using var model = new Watched();
        var objective = new DiffusionTraining(model, process: new RectifiedFlow())
        {
            FramesPerSecond = 12,
            SpatialFactor = 4,
            TemporalFactor = 2,
        };
        using var generator = new Generator(1);
        var noisy = tensor([true, false, true, true, true, true], [2, 3]);
        objective.Loss(
            new TrainingBatch(randn([2, 2, 3, 4, 6]), randn([2, 4, 8]), NoisyFrames: noisy),
            new TrainingStage { CaptionDropout = 1 },
            generator
        );
        (model.Received!.Frames, model.Received.Height, model.Received.Width, model.Received.FramesPerSecond).ShouldBe((6, 16, 24, 12.0));
        model.Received.NoisyFrames.ShouldBeSameAs(noisy);
        model.Dropped.ShouldBe([true, true]);
        objective.Loss(new TrainingBatch(randn([2, 2, 1, 4, 6]), randn([2, 4, 8])), new TrainingStage { CaptionDropout = 0 }, generator);
        (model.Received.Frames, model.Received.FramesPerSecond).ShouldBe((2, DenoiserConditions.ImageFramesPerSecond));
        model.Dropped.ShouldBe([false, false]);
        Should.Throw<ArgumentException>(() => new DiffusionTraining(new NoModule())).Message.ShouldContain("NoModule is not a Module");
    }

    private sealed class Watched : nn.Module, IVideoTransformer
    {
        private readonly NoModule _inner = new();

        public Watched()
            : base(nameof(Watched)) { }

        public DenoiserConditions? Received { get; private set; }

        public bool[]? Dropped { get; private set; }

        public int LatentChannels => _inner.LatentChannels;

        public IReadOnlyList<int> LatentMultiple => _inner.LatentMultiple;

        public int TextWidth => _inner.TextWidth;

        public int TextTokens => _inner.TextTokens;

        public bool SupportsNoisyFrames => true;

        public double CaptionDropout => 0.5;

        public Tensor NullCaption(long batch = 1) => _inner.NullCaption(batch);

        public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
        {
            Received = conditions;
            Dropped = conditions.DroppedText!.data<bool>().ToArray();
            return _inner.Denoise(x, t, conditions);
        }
    }

    private sealed class NoModule : IVideoTransformer
    {
        public int LatentChannels => 2;

        public IReadOnlyList<int> LatentMultiple => [1, 1, 1];

        public int TextWidth => 8;

        public int TextTokens => 4;

        public bool SupportsNoisyFrames => false;

        public double CaptionDropout => 0;

        public Tensor NullCaption(long batch = 1) => zeros(batch, TextTokens, TextWidth);

        public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions) => x.clone();

        public void Dispose() { }
    }
}
