using System.Globalization;
using OpenSora.Diffusion;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class WatchingTests
{
    [Fact]
    public async Task Callbacks_are_called_in_order()
    {
        using var folder = new TemporaryFolder();
        List<string> reported = [];
        HashSet<int> threads = [];
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (
            var trainer = new StagedTrainer(model, text)
                .AddStage(Tiny.Stage(steps: 2))
                .AddStage(Tiny.Stage("second", 1))
                .SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 1 })
                .AddCallback(new Recorder("a", reported, threads))
                .AddCallback(new Recorder("b", reported, threads) { Reports = true })
        )
        {
            await trainer.RunAsync();
        }

        reported
            .Where(line => line[0] == 'a')
            .ShouldBe([
                "a first starts at 0",
                "a 1 of 2, 1 in all",
                "a found b",
                "a checkpoint-01-00000001.safetensors",
                "a 2 of 2, 2 in all",
                "a found b",
                "a checkpoint-01-00000002.safetensors",
                "a first is over",
                "a second starts at 0",
                "a 1 of 1, 3 in all",
                "a found b",
                "a checkpoint-02-00000001.safetensors",
                "a second is over",
            ]);
        reported[..2].ShouldBe(["a first starts at 0", "b first starts at 0"]);
        threads.ShouldHaveSingleItem("callbacks are called on one thread, and continue on it");
    }

    [Fact]
    public async Task An_exception_in_a_callback_ends_the_run_and_loses_no_step()
    {
        using var folder = new TemporaryFolder();
        var checkpoints = new CheckpointOptions { Folder = folder.Path };
        var expected = await WeightsAsync();
        (
            await Should.ThrowAsync<InvalidDataException>(() =>
                WeightsAsync(trainer =>
                    trainer
                        .SaveTo(checkpoints)
                        .AddCallback(
                            new Does(run =>
                            {
                                if (run.Step == 4)
                                {
                                    throw new InvalidDataException("no more");
                                }
                            })
                        )
                )
            )
        ).Message.ShouldBe("no more");
        List<long> steps = [];
        Tiny.ShouldBeSame(await WeightsAsync(trainer => trainer.Resume(folder.Path).AddCallback(new Does(run => steps.Add(run.Step)))), expected);
        steps.ShouldBe([5, 6]);
    }

    [Fact]
    public async Task Evaluating_the_averages_does_not_change_training()
    {
        var expected = await WeightsAsync();
        var looks = 0;
        var watched = await WeightsAsync(trainer =>
            trainer.AddCallback(
                new Does(run =>
                {
                    var model = run.Modules["model"];
                    var weights = Tiny.Weights(("model", model));
                    run.Evaluate(() =>
                    {
                        model.training.ShouldBeFalse();
                        is_grad_enabled().ShouldBeFalse();
                        Tiny.AreSame(Tiny.Weights(("model", model)), weights).ShouldBeFalse();
                        _ = rand(100);
                        looks++;
                    });
                    run.Evaluate(() => Tiny.ShouldBeSame(Tiny.Weights(("model", model)), weights), averages: false);
                    Should.Throw<InvalidDataException>(() => run.Evaluate(() => throw new InvalidDataException()));
                    Tiny.ShouldBeSame(Tiny.Weights(("model", model)), weights);
                    is_grad_enabled().ShouldBeTrue();

                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                    var before = TensorCount.Now;
                    run.Evaluate(() => _ = rand(100));
                    TensorCount.ShouldBe(before);
                })
            )
        );
        looks.ShouldBe(6);
        Tiny.ShouldBeSame(watched, expected);
    }

    [Fact]
    public async Task Dropout_is_the_same_in_a_resumed_run()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync(
            new CheckpointOptions
            {
                Folder = folder.Path,
                EverySteps = 2,
                KeepLast = 9,
            }
        );
        _ = rand(50);
        Tiny.ShouldBeSame(await RunAsync(null, Path.Combine(folder.Path, "checkpoint-01-00000002.safetensors")), expected);

        static async Task<Dictionary<string, float[]>> RunAsync(CheckpointOptions? save, string? resume = null)
        {
            manual_seed(3);
            using var line = nn.Linear(3, 2);
            using var trainer = new StagedTrainer(new Drops(line)).AddStage(
                new TrainingStage
                {
                    Name = "line",
                    Data = new Points(),
                    Steps = 6,
                    BatchSize = 4,
                    LearningRate = 0.01,
                }
            );
            if (save is not null)
            {
                trainer.SaveTo(save);
            }

            if (resume is not null)
            {
                trainer.Resume(resume);
            }

            await trainer.RunAsync();
            return Tiny.Weights(("line", line));
        }
    }

    [Fact]
    public async Task A_run_with_another_objective_or_fewer_trained_parameters_is_not_resumed()
    {
        using var folder = new TemporaryFolder();
        await RunAsync(trainer => trainer.SaveTo(new CheckpointOptions { Folder = folder.Path }), line => new Drops(line));
        (
            await Should.ThrowAsync<InvalidOperationException>(() => RunAsync(trainer => trainer.Resume(folder.Path), line => new Line(line)))
        ).Message.ShouldContain("a different objective");
        (
            await Should.ThrowAsync<OpenSora.Weights.InvalidWeightsException>(() =>
                RunAsync(trainer => trainer.Resume(folder.Path), line => new Drops(line), name => name.EndsWith("bias", StringComparison.Ordinal))
            )
        ).Message.ShouldContain("trained 2 parameters");

        static async Task RunAsync(
            Action<StagedTrainer> prepare,
            Func<nn.Module<Tensor, Tensor>, ITrainingObjective> objective,
            Func<string, bool>? trains = null
        )
        {
            using var line = nn.Linear(3, 2);
            using var trainer = new StagedTrainer(objective(line)).AddStage(
                new TrainingStage
                {
                    Name = "line",
                    Data = new Points(),
                    Steps = 2,
                    Trains = trains,
                }
            );
            prepare(trainer);
            await trainer.RunAsync();
        }
    }

    [Fact]
    public void Settings_and_objectives_read_the_same_in_every_culture()
    {
        var comma = (CultureInfo)CultureInfo.InvariantCulture.Clone();
        comma.NumberFormat.NumberDecimalSeparator = ",";
        string Reported() =>
            StageSettings.Of(new TrainingStage { Spikes = new SpikeGuard { Factor = 2.5 } }).GetRawText()
            + new Iddpm(IddpmSchedule.Linear(), minSnrGamma: 4.5);
        var expected = Reported();
        var before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = comma;
            $"{2.5}".ShouldBe("2,5");
            Reported().ShouldBe(expected);
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void Objectives_describe_what_they_minimize()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            ITrainingObjective[] objectives =
            [
                new DiffusionTraining(model),
                new DiffusionTraining(model, text, timesteps: new SkewedTimesteps(0.5)),
                new DiffusionTraining(model, timesteps: new SkewedTimesteps(0.25)),
                new DiffusionTraining(model, process: new Iddpm(IddpmSchedule.Linear(), prediction: Prediction.Sample)),
                new DiffusionTraining(model, process: new Iddpm(IddpmSchedule.Linear(), minSnrGamma: 5)),
                new DiffusionTraining(model, process: new Iddpm(IddpmSchedule.SquaredCosine())),
                new DiffusionTraining(model, process: new RectifiedFlow()),
                new DiffusionTraining(model, process: new RectifiedFlow(logitNormal: true)),
            ];
            objectives.Select(objective => objective.Fingerprint).Distinct().Count().ShouldBe(objectives.Length);
            objectives[0].Fingerprint.ShouldBe(new DiffusionTraining(model).Fingerprint);
            objectives[1].Fingerprint.ShouldEndWith("LearnedRange, Mse; SkewedTimesteps 0.5");
        }
    }

    [Fact]
    public async Task A_spike_is_skipped_and_reported_with_the_layer()
    {
        using var line = nn.Linear(3, 2);
        Dictionary<string, float[]>? before = null;
        List<TrainingProgress> reported = [];
        using var trainer = new StagedTrainer(new Line(line)).AddStage(Guarded(new Points { Spikes = [7, 8] }, new SpikeGuard { Window = 5 }));
        await trainer.RunAsync(
            new ActionProgress(progress =>
            {
                reported.Add(progress);
                var now = Tiny.Weights(("line", line));
                if (before is not null)
                {
                    Tiny.AreSame(now, before).ShouldBe(progress.Spike is not null);
                }

                before = now;
            })
        );
        reported.Where(progress => progress.Spike is not null).Select(progress => progress.Step).ShouldBe([8, 9]);
        reported[7].Spike!.ShouldMatch("the loss of .* times the median of 5 steps, the largest gradient is that of 'line.weight'");
        reported.Select(progress => progress.SkippedSteps).ShouldBe([0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2]);
    }

    [Fact]
    public async Task Spikes_in_a_row_end_the_run_with_a_checkpoint_from_before_them()
    {
        using var folder = new TemporaryFolder();
        using var line = nn.Linear(3, 2);
        using var trainer = new StagedTrainer(new Line(line))
            .AddStage(
                Guarded(
                    new Points { Spikes = [7, 8, 9, 10] },
                    new SpikeGuard
                    {
                        Window = 5,
                        SkipSteps = false,
                        StopAfter = 3,
                    }
                )
            )
            .SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 1 });
        var error = await Should.ThrowAsync<TrainingDivergedException>(() => trainer.RunAsync());
        error.Message.ShouldContain("step 10: this is spike 3 in a row");
        error.Message.ShouldContain("line.weight");
        error.Message.ShouldContain("checkpoint-01-00000007");
        Directory.GetFiles(folder.Path).Select(Path.GetFileName).Max().ShouldBe("checkpoint-01-00000007.safetensors");
    }

    [Fact]
    public async Task The_guard_resumes_with_its_history()
    {
        using var folder = new TemporaryFolder();
        var (expected, all) = await RunAsync(trainer =>
            trainer.SaveTo(
                new CheckpointOptions
                {
                    Folder = folder.Path,
                    EverySteps = 1,
                    KeepLast = 99,
                }
            )
        );
        foreach (var step in new[] { 3, 6, 9 })
        {
            var (weights, steps) = await RunAsync(trainer => trainer.Resume(Path.Combine(folder.Path, $"checkpoint-01-{step:D8}.safetensors")));
            Tiny.ShouldBeSame(weights, expected);
            steps
                .Select(progress => (progress.Step, progress.Spike, progress.SkippedSteps))
                .ShouldBe(all.Skip(step).Select(progress => (progress.Step, progress.Spike, progress.SkippedSteps)));
        }

        static async Task<(Dictionary<string, float[]> Weights, List<TrainingProgress> Reported)> RunAsync(Action<StagedTrainer> prepare)
        {
            manual_seed(1);
            using var line = nn.Linear(3, 2);
            List<TrainingProgress> reported = [];
            using var trainer = new StagedTrainer(new Line(line)).AddStage(Guarded(new Points { Spikes = [7, 10] }, new SpikeGuard { Window = 5 }));
            prepare(trainer);
            await trainer.RunAsync(new ActionProgress(reported.Add));
            reported[^1].SkippedSteps.ShouldBe(2);
            return (Tiny.Weights(("line", line)), reported);
        }
    }

    [Fact]
    public void A_guard_with_wrong_settings_is_rejected()
    {
        foreach (
            var guard in new SpikeGuard[]
            {
                new() { Factor = 1 },
                new() { Window = 0 },
                new() { StopAfter = 0 },
            }
        )
        {
            var stage = Tiny.Stage();
            stage.Spikes = guard;
            using var line = nn.Linear(3, 2);
            using var trainer = new StagedTrainer(new Line(line)).AddStage(stage);
            Should
                .Throw<InvalidOperationException>(() =>
                {
                    _ = trainer.RunAsync();
                })
                .Message.ShouldContain("Spikes");
        }
    }

    private static TrainingStage Guarded(Points data, SpikeGuard guard) =>
        new()
        {
            Name = "line",
            Data = data,
            Steps = 12,
            BatchSize = 4,
            LearningRate = 1e-3,
            EmaDecay = 0.9,
            Spikes = guard,
        };

    private static async Task<Dictionary<string, float[]>> WeightsAsync(Action<StagedTrainer>? prepare = null)
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage()))
        {
            prepare?.Invoke(trainer);
            await trainer.RunAsync();
            var weights = Tiny.Weights(("model", model), ("text", text));
            trainer.UseAverages();
            return weights.Concat(Tiny.Weights(("ema", model))).ToDictionary();
        }
    }

    private sealed class Recorder(string name, List<string> reported, HashSet<int> threads) : ITrainingCallback
    {
        public bool Reports { get; init; }

        public ValueTask StageStartedAsync(TrainingRun run) => Add($"{name} {run.Stage.Name} starts at {run.Step}");

        public async ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
        {
            await Task.Delay(10);
            await Add($"{name} {run.Step} of {progress.Steps}, {run.TotalStep} in all");
            if (Reports)
            {
                await run.ReportAsync(new TrainingObservation(name));
            }
        }

        public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation) => Add($"{name} found {observation.Name}");

        public ValueTask CheckpointWrittenAsync(TrainingRun run, string path)
        {
            File.Exists(path).ShouldBeTrue();
            return Add($"{name} {Path.GetFileName(path)}");
        }

        public ValueTask StageFinishedAsync(TrainingRun run) => Add($"{name} {run.Stage.Name} is over");

        private ValueTask Add(string line)
        {
            reported.Add(line);
            threads.Add(Environment.CurrentManagedThreadId);
            return default;
        }
    }

    private sealed class Drops(nn.Module<Tensor, Tensor> line) : ITrainingObjective
    {
        public IReadOnlyDictionary<string, nn.Module> Modules { get; } =
            new Dictionary<string, nn.Module>(StringComparer.Ordinal) { ["line"] = line };

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
            new((nn.functional.dropout(line.call(batch.Video), 0.5, training: true) - batch.Text!).square().mean());
    }
}

/// <summary>Does something after every step.</summary>
internal sealed class Does(Func<TrainingRun, ValueTask> what) : ITrainingCallback
{
    public Does(Action<TrainingRun> what)
        : this(run =>
        {
            what(run);
            return default;
        }) { }

    public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress) => what(run);
}
