using OpenSora.Distributed;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Planning;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>A training step over several processes: its time, the memory of a process, and what it sends, with the plan.</summary>
/// <param name="StepTime">The median time of a step in seconds; measured in process 0 only.</param>
/// <param name="Memory">The peak growth of the resident memory in bytes.</param>
/// <param name="BytesPerStep">The bytes that the process passed to the group in a step.</param>
/// <param name="Plan">The plan.</param>
internal sealed record TrainingScale(double StepTime, double Memory, long BytesPerStep, ProcessPlan Plan)
{
    private const int Steps = 5,
        BucketBytes = 4_000_000;

    /// <summary>Gets a model with much memory for its state and little for its activations.</summary>
    public static StdiTConfig Wide { get; } = Config(hiddenSize: 512, depth: 6);

    /// <summary>Gets a model that computes much for each parameter.</summary>
    public static StdiTConfig Narrow { get; } = Config(hiddenSize: 192, depth: 4);

    /// <summary>Trains a few steps.</summary>
    /// <param name="group">The processes.</param>
    /// <param name="model">The model.</param>
    /// <param name="sharding">What each process holds only a part of.</param>
    /// <param name="batch">The number of samples of all processes.</param>
    /// <param name="side">The height and width of the latents.</param>
    public static TrainingScale Measure(ICollectives group, StdiTConfig model, Sharding sharding, int batch, int side)
    {
        set_num_threads(1);
        Train(null, Config(hiddenSize: 16, depth: 1), sharding, batch: 1, side: 4); // code that is loaded once does not count
        group.Barrier();
        var before = ResidentMemory.Start();
        var counting = new CountingCollectives(group);
        var (times, bytes, sizes) = Train(counting, model, sharding, batch, side);
        var memory = ResidentMemory.Peak() - before;
        return new TrainingScale(
            times.Count > 0 ? times.Skip(1).Order().ElementAt((times.Count - 1) / 2) : 0,
            memory,
            bytes,
            ProcessPlan.Of(sizes, group.Size, new DistributedOptions { Sharding = sharding, BucketBytes = BucketBytes }, lossParts: 2)
        );
    }

    private static (List<double> Times, long Bytes, long[] Sizes) Train(
        CountingCollectives? group,
        StdiTConfig config,
        Sharding sharding,
        int batch,
        int side
    )
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        using var model = new StdiT(config);
        var sent = new List<long>();
        using var trainer = new StagedTrainer(model).AddStage(
            new TrainingStage
            {
                Name = "scale",
                Data = new Noise(config, side, () => sent.Add(group?.Bytes ?? 0)),
                Steps = Steps,
                BatchSize = batch,
            }
        );
        if (group is not null)
        {
            trainer.UseCollectives(group, sharding, bucketBytes: BucketBytes);
        }

        var times = new List<double>();
        trainer.RunAsync(new Times(times)).GetAwaiter().GetResult();
        return (times, sent[^1] - sent[^2], [.. model.parameters().Select(parameter => parameter.numel())]);
    }

    private static StdiTConfig Config(int hiddenSize, int depth) =>
        new()
        {
            InputSize = [4, 32, 32],
            HiddenSize = hiddenSize,
            Depth = depth,
            NumHeads = 4,
            CaptionChannels = 64,
            ModelMaxLength = 8,
        };

    private sealed class Times(List<double> times) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => times.Add(value.StepTime.TotalSeconds);
    }

    private sealed class Noise(StdiTConfig config, int side, Action asked) : ITrainingData
    {
        public long Count => 1000;

        public string Fingerprint => "noise";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            asked();
            using var scope = NewDisposeScope();
            using var generator = new Generator(TrainingData.Hash(seed, number) >> 1);
            var video = randn([size, config.InChannels, config.InputSize[0], side, side], generator: generator);
            var text = randn([size, config.ModelMaxLength, config.CaptionChannels], generator: generator);
            return ValueTask.FromResult(new TrainingBatch(video.MoveToOuterDisposeScope(), text.MoveToOuterDisposeScope()));
        }
    }
}
