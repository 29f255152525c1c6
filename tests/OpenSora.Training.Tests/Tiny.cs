using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Models and data small enough to train in a test.</summary>
internal static class Tiny
{
    public static (StdiT Model, T5TextEncoder Text) Models(int seed = 1)
    {
        manual_seed(seed);
        var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 4, 4],
                InChannels = 2,
                HiddenSize = 16,
                Depth = 2,
                NumHeads = 2,
                CaptionChannels = 8,
                ModelMaxLength = 4,
                ClassDropoutProb = 0.3,
            }
        );
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
        );
        return (model, text);
    }

    public static TrainingStage Stage(string name = "first", int steps = 6, ITrainingData? data = null) =>
        new()
        {
            Name = name,
            Data = data ?? new Numbers(),
            Steps = steps,
            BatchSize = 3,
            LearningRate = 1e-3,
            EmaDecay = 0.9,
            WarmUpSteps = 2,
            FinalLearningRate = 0,
            Accumulation = 2,
        };

    /// <summary>All weights by name, copied.</summary>
    public static Dictionary<string, float[]> Weights(params (string Name, nn.Module Module)[] modules) =>
        modules
            .SelectMany(pair => pair.Module.state_dict().Select(entry => (Name: $"{pair.Name}.{entry.Key}", entry.Value)))
            .ToDictionary(entry => entry.Name, entry => entry.Value.detach().flatten().data<float>().ToArray(), StringComparer.Ordinal);

    public static void ShouldBeSame(Dictionary<string, float[]> actual, Dictionary<string, float[]> expected)
    {
        actual.Keys.ShouldBe(expected.Keys, ignoreOrder: true);
        foreach (var (name, values) in expected)
        {
            actual[name].AsSpan().SequenceEqual(values).ShouldBeTrue($"{name} differs");
        }
    }

    public static bool AreSame(Dictionary<string, float[]> a, Dictionary<string, float[]> b) =>
        a.All(pair => b[pair.Key].AsSpan().SequenceEqual(pair.Value));
}

/// <summary>Random latents with token ids.</summary>
internal sealed class Numbers(int frames = 2, int channels = 2) : ITrainingData
{
    public long Count => 100;

    public string Fingerprint => $"numbers {frames}";

    /// <summary>The number of a batch with latents that are NaN.</summary>
    public long BrokenBatch { get; init; } = -1;

    public List<long> Asked { get; } = [];

    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        using var scope = NewDisposeScope();
        Asked.Add(number);
        using var generator = new Generator(Randomness.Mix(seed, number) >> 1);
        var video = randn([size, channels, frames, 4L, 4L], generator: generator);
        if (number == BrokenBatch)
        {
            video = video * float.NaN;
        }

        var ids = randint(1, 20, [size, 4L], ScalarType.Int64, generator: generator);
        var mask = ones([size, 4L], ScalarType.Bool);
        mask[0].narrow(0, 2, 2).fill_(false);
        return ValueTask.FromResult(
            new TrainingBatch(video.MoveToOuterDisposeScope(), ids.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope())
        );
    }
}

/// <summary>Squared error of a linear layer; nothing random.</summary>
internal sealed class Line(nn.Module<Tensor, Tensor> line) : ITrainingObjective
{
    public IReadOnlyDictionary<string, nn.Module> Modules { get; } = new Dictionary<string, nn.Module>(StringComparer.Ordinal) { ["line"] = line };

    public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
        new((line.call(batch.Video) - batch.Text!).square().mean());
}

/// <summary>Points of a curve.</summary>
internal sealed class Points : ITrainingData
{
    public long Count => 20;

    /// <summary>Batches that are far off.</summary>
    public long[] Spikes { get; init; } = [];

    public string Fingerprint => "points";

    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        using var scope = NewDisposeScope();
        var at = arange(number * size, (number + 1) * size, ScalarType.Float32).unsqueeze(1);
        var scale = Spikes.Contains(number) ? 100 : 1;
        return ValueTask.FromResult(
            new TrainingBatch(
                (cat([at.sin(), at.cos(), (at * 2).sin()], 1) * scale).MoveToOuterDisposeScope(),
                cat([at.cos(), (at * 3).sin()], 1).MoveToOuterDisposeScope()
            )
        );
    }
}

internal sealed class ActionProgress(Action<TrainingProgress> tell) : IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value) => tell(value);
}

internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("opensora-training-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
