using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Mpi;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>A transformer whose tokens are divided among the processes computes what one process computes: its output, its gradients, and a
/// video.</summary>
internal sealed class SequenceParallel : IScenario
{
    private static readonly StdiT3Config Config = new()
    {
        InputSqSize = 64,
        HiddenSize = 48,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 5,
        ClassDropoutProb = 0,
    };

    public string Name => "sequence";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        foreach (var checkpointing in new[] { false, true })
        {
            using var scope = NewDisposeScope();
            var (expected, expectedGradients) = Train(null, checkpointing);
            var (found, gradients) = Train(group, checkpointing);
            Close(found, expected, "The output");
            for (var i = 0; i < gradients.Length; i++)
            {
                group.AllReduce(gradients[i]).Wait();
                Close(gradients[i], expectedGradients[i], $"Gradient {i}");
            }
        }

        var (video, other) = (Generate(null), Generate(group));
        var difference = video.Pixels.ToArray().Zip(other.Pixels.ToArray(), (a, b) => Math.Abs(a - b)).Max();
        ScenarioException.Require(video.Count == other.Count && difference <= 1, $"Pixels differ by {difference}");
        output.WriteLine($"{video.Count} frames, {video.Pixels.ToArray().Distinct().Count() > 20}");
    }

    // 5 frames and 15 places of tokens, which two processes cannot share equally.
    private static (Tensor Output, Tensor[] Gradients) Train(ICollectives? group, bool checkpointing)
    {
        using var generator = new Generator(3);
        var model = Model().UseSequenceParallel(group).UseGradientCheckpointing(checkpointing);
        var conditions = new DenoiserConditions(randn([2, 5, 12], generator: generator))
        {
            Frames = 5,
            Height = 48,
            Width = 80,
            NoisyFrames = tensor(new[] { true, false, true, true, true, true, true, true, true, false }, [2, 5]),
        };
        var x = randn([2, 4, 5, 6, 10], generator: generator);
        var output = model.Denoise(x, tensor(new[] { 100f, 900f }), conditions);
        (output * randn(output.shape, generator: generator)).sum().backward();
        return (output.detach(), [.. model.parameters().Where(parameter => parameter.requires_grad).Select(parameter => parameter.grad!)]);
    }

    private static VideoFrames Generate(ICollectives? group)
    {
        using var model = Model().UseSequenceParallel(group);
        using var text = new Words();
        using var autoencoder = new Colors();
        var pipeline = new VideoPipeline(model, text, autoencoder, new RectifiedFlow(samplingSteps: 3));
        var settings = new GenerationSettings
        {
            Frames = 5,
            Height = 12,
            Width = 20,
            GuidanceScale = 2,
            Seed = group is null or { Rank: 0 } ? 7 : null, // that of the first process is used
        };
        return pipeline.Generate(["a red square"], settings)[0];
    }

    private static StdiT3 Model()
    {
        var model = new StdiT3(Config);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var generator = new Generator(1);
        model.Initialize(generator); // the null caption
        foreach (var parameter in model.parameters())
        {
            parameter.copy_(randn(parameter.shape, generator: generator).mul(tensor(0.1f)));
        }

        model.eval();
        return model;
    }

    private static void Close(Tensor found, Tensor expected, string what)
    {
        using var scope = NewDisposeScope();
        var difference = (found - expected).abs().max().item<float>() / Math.Max(1, expected.abs().max().item<float>());
        ScenarioException.Require(difference < 1e-5, $"{what} differs by {difference}");
    }

    private sealed class Words : ITextEncoder
    {
        public int Width => 12;

        public int MaxTokens => 5;

        public TextStates Encode(IReadOnlyList<string> prompts)
        {
            using var generator = new Generator(5);
            return new TextStates(randn([prompts.Count, 5, 12], generator: generator), ones(prompts.Count, 5, ScalarType.Bool));
        }

        public void Dispose() { }
    }

    private sealed class Colors : IVideoAutoencoder
    {
        public int LatentChannels => 4;

        public int SpatialFactor => 1;

        public int TemporalFactor => 1;

        public Tensor Encode(Tensor video, Generator? generator = null) => throw new NotSupportedException();

        public Tensor Decode(Tensor latents) => latents.narrow(1, 0, 3).tanh();

        public void Dispose() { }
    }
}
