// A training run for the kill test: trains a tiny model in two stages, writes a checkpoint and a line for
// each step, resumes where an earlier run in the folder was killed, and writes all weights and averages to FOLDER/weights at the end.
// dotnet OpenSora.Training.Killable.dll FOLDER
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

set_num_threads(1);
var folder = args[0];
manual_seed(1);
using var model = new StdiT(
    new StdiTConfig
    {
        InputSize = [2, 4, 4],
        InChannels = 2,
        HiddenSize = 8,
        Depth = 1,
        NumHeads = 2,
        CaptionChannels = 4,
        ModelMaxLength = 3,
        ClassDropoutProb = 0.3,
    }
);

TrainingStage Stage(string name, int steps, Func<string, bool>? trains = null) =>
    new()
    {
        Name = name,
        Data = new Latents(),
        Steps = steps,
        BatchSize = 2,
        Accumulation = 2,
        LearningRate = 1e-2,
        EmaDecay = 0.9,
        WarmUpSteps = 3,
        FinalLearningRate = 0,
        Trains = trains,
    };

using var trainer = new StagedTrainer(model)
    .AddStage(Stage("images", 20, name => !name.Contains("attn_temp", StringComparison.Ordinal)))
    .AddStage(Stage("clips", 20))
    .SaveTo(
        new CheckpointOptions
        {
            Folder = Path.Combine(folder, "checkpoints"),
            EverySteps = 1,
            Every = null,
            KeepLast = 2,
        }
    )
    .Resume(Path.Combine(folder, "checkpoints"), ifAny: true);
await trainer.RunAsync(new Printer());

using var scope = NewDisposeScope();
var weights = model.state_dict().ToDictionary(pair => $"last.{pair.Key}", pair => pair.Value.clone(), StringComparer.Ordinal);
trainer.UseAverages();
foreach (var (name, value) in model.state_dict())
{
    weights.Add($"average.{name}", value);
}

WeightsFile.Write(Path.Combine(folder, "weights"), weights);

internal sealed class Printer : IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value) => Console.WriteLine($"{value.Stage} {value.Step}");
}

internal sealed class Latents : ITrainingData
{
    public long Count => 10;

    public string Fingerprint => "random latents";

    public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
    {
        using var generator = new Generator(TrainingData.Hash(seed, number) >> 1);
        return ValueTask.FromResult(
            new TrainingBatch(randn([size, 2L, 2L, 4L, 4L], generator: generator), randn([size, 3L, 4L], generator: generator))
        );
    }
}
