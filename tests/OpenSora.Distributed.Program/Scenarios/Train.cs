using System.Diagnostics;
using System.Globalization;
using OpenSora.Models;
using OpenSora.Mpi;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>Trains a tiny model in two stages, writes a checkpoint after each step, resumes where an earlier run in the folder ended, and writes all
/// weights and averages to FOLDER/weights at the end: train FOLDER SHARDING [RANK MILLISECONDS]. The last two arguments are the process that is
/// killed, and the time after its first step.</summary>
internal sealed class Train : IScenario
{
    public string Name => "train";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        set_num_threads(1);
        var (folder, sharding) = (arguments[0], Enum.Parse<Sharding>(arguments[1]));
        var killed = arguments.Length > 2 && int.Parse(arguments[2], CultureInfo.InvariantCulture) == group.Rank;
        var delay = killed ? int.Parse(arguments[3], CultureInfo.InvariantCulture) : 0;

        Directory.CreateDirectory(folder);
        manual_seed(1 + group.Rank);
        using var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [2, 4, 4],
                InChannels = 2,
                HiddenSize = 8,
                Depth = 2,
                NumHeads = 2,
                CaptionChannels = 4,
                ModelMaxLength = 3,
                ClassDropoutProb = 0.3,
            }
        );
        var data = new Latents(() =>
        {
            if (killed)
            {
                killed = false;
                new Thread(() => Kill(delay)) { IsBackground = true }.Start();
            }
        });
        using var trainer = new StagedTrainer(model)
            .AddStage(Stage("images", data, name => !name.Contains("attn_temp", StringComparison.Ordinal)))
            .AddStage(Stage("clips", data))
            .UseCollectives(group, sharding, bucketBytes: 8000)
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
        try
        {
            trainer.RunAsync(new Printer(output)).GetAwaiter().GetResult();
        }
        catch (CollectiveException e)
        {
            // The launcher can drop the output of the others after the death of a process.
            File.WriteAllText(Path.Combine(folder, $"message {group.Rank}"), e.Message);
            throw;
        }

        using var scope = NewDisposeScope();
        var weights = model.state_dict().ToDictionary(pair => $"last.{pair.Key}", pair => pair.Value.clone(), StringComparer.Ordinal);
        trainer.UseAverages();
        foreach (var (name, value) in model.state_dict())
        {
            weights.Add($"average.{name}", value);
        }

        if (group.Rank == 0)
        {
            WeightsFile.Write(Path.Combine(folder, "weights"), weights);
        }

        output.WriteLine("done");
    }

    private static TrainingStage Stage(string name, ITrainingData data, Func<string, bool>? trains = null) =>
        new()
        {
            Name = name,
            Data = data,
            Steps = 20,
            BatchSize = 3,
            Accumulation = 2,
            LearningRate = 1e-3,
            EmaDecay = 0.9,
            WarmUpSteps = 3,
            FinalLearningRate = 0,
            Trains = trains,
        };

    private static void Kill(int delay)
    {
        Thread.Sleep(delay);
        using var self = Process.GetCurrentProcess();
        self.Kill(); // SIGKILL: nothing of the process runs after this
    }

    private sealed class Printer(ScenarioOutput output) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) =>
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{value.Stage} {value.Step} {value.Loss:R}"));
    }

    private sealed class Latents(Action asked) : ITrainingData
    {
        public long Count => 10;

        public string Fingerprint => "random latents";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            asked();
            using var generator = new Generator(TrainingData.Hash(seed, number) >> 1);
            return ValueTask.FromResult(
                new TrainingBatch(randn([size, 2L, 2L, 4L, 4L], generator: generator), randn([size, 3L, 4L], generator: generator))
            );
        }
    }
}
