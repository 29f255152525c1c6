using OpenSora.Benchmarks;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

[Collection(nameof(GradientCheckpointingTests))] // measures the memory of the process
public class OffloadTests
{
    // Large enough that weights, states and inputs are in files.
    private static StdiT Model()
    {
        manual_seed(1);
        var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [4, 16, 16],
                InChannels = 2,
                HiddenSize = 96,
                Depth = 3,
                NumHeads = 4,
                CaptionChannels = 8,
                ModelMaxLength = 4,
                ClassDropoutProb = 0.3,
            }
        );
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var parameter in model.parameters())
        {
            parameter.add_(randn(parameter.shape) * 0.05f);
        }

        return model;
    }

    private static TrainingStage Stage(OffloadOptions? offload, int steps = 3, int workers = 1, string name = "first") =>
        new()
        {
            Name = name,
            Data = new Clips(),
            Steps = steps,
            BatchSize = 2,
            LearningRate = 1e-3,
            EmaDecay = 0.9,
            Accumulation = 2,
            Workers = workers,
            GradientCheckpointing = true,
            Offload = offload,
        };

    private static async Task<Dictionary<string, float[]>> TrainAsync(params TrainingStage[] stages)
    {
        using var model = Model();
        using var trainer = new StagedTrainer(model);
        foreach (var stage in stages)
        {
            trainer.AddStage(stage);
        }

        await trainer.RunAsync();
        return WeightsAndAverages(trainer, model);
    }

    private static Dictionary<string, float[]> WeightsAndAverages(StagedTrainer trainer, StdiT model)
    {
        using var scope = NewDisposeScope();
        var weights = Tiny.Weights(("model", model));
        trainer.UseAverages();
        foreach (var (key, values) in Tiny.Weights(("average", model)))
        {
            weights[key] = values;
        }

        return weights;
    }

    [Theory]
    [InlineData(true, false, false, false)]
    [InlineData(false, true, false, false)]
    [InlineData(true, true, true, false)]
    [InlineData(true, false, false, true)]
    [InlineData(true, true, true, true)]
    public async Task Weights_and_averages_are_those_without_offloading(bool optimizer, bool activations, bool parameters, bool copies)
    {
        using var folder = new TemporaryFolder();
        var before = TensorCount.Now;
        var offload = new OffloadOptions
        {
            Optimizer = optimizer,
            Activations = activations,
            Parameters = parameters,
            Folder = folder.Path,
            Copies = copies,
        };
        var expected = await TrainAsync(Stage(null), Stage(null, steps: 1, name: "second"));
        var found = await TrainAsync(Stage(offload), Stage(offload, steps: 1, name: "second"));
        Tiny.ShouldBeSame(found, expected);
        Directory.EnumerateFileSystemEntries(folder.Path).ShouldBeEmpty();
        TensorCount.ShouldBe(before);
    }

    [Theory]
    [InlineData(Sharding.None, 1, false)]
    [InlineData(Sharding.Gradients, 1, true)]
    [InlineData(Sharding.Gradients, 2, false)]
    [InlineData(Sharding.Gradients, 2, true)]
    public void Several_processes_can_keep_activations_on_the_host(Sharding sharding, int sequenceProcesses, bool copies)
    {
        using var folder = new TemporaryFolder();
        var creating = new Lock();
        Dictionary<string, float[]> Train(InProcessCollectives member, OffloadOptions? offload)
        {
            StdiT model;
            lock (creating)
            {
                model = Model();
            }

            using var owned = model;
            var stage = Stage(offload);
            stage.CheckpointSlices = 2; // a slice's input has 48 KB, that of a block 96 KB, which is moved
            using var trainer = new StagedTrainer(model).AddStage(stage).UseCollectives(member, sharding, sequenceProcesses);
            trainer.RunAsync().GetAwaiter().GetResult();
            return WeightsAndAverages(trainer, model);
        }

        var expected = InProcessCollectives.Run(2, member => Train(member, null));
        var offload = new OffloadOptions
        {
            Activations = true,
            Folder = folder.Path,
            Copies = copies,
        };
        var found = InProcessCollectives.Run(2, member => Train(member, offload));
        Tiny.ShouldBeSame(found[0], expected[0]);
        Tiny.ShouldBeSame(found[1], expected[0]);
    }

    [Fact]
    public void Several_processes_cannot_offload_the_optimizer() => InProcessCollectives.Run(2, member =>
        {
            using var model = new StdiT(
                new StdiTConfig
                {
                    Depth = 1,
                    HiddenSize = 16,
                    NumHeads = 2,
                }
            );
            using var trainer = new StagedTrainer(model).AddStage(Stage(new OffloadOptions { Optimizer = true })).UseCollectives(member);
            Should.Throw<InvalidOperationException>(() => trainer.RunAsync()).Message.ShouldContain("Use only Activations");
        });

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_canceled_run_leaves_no_files_and_resumes(bool copies)
    {
        using var folder = new TemporaryFolder();
        var offload = new OffloadOptions
        {
            Optimizer = true,
            Activations = true,
            Parameters = true,
            Folder = folder["scratch"],
            Copies = copies,
        };
        using var whole = Model();
        using (var trainer = new StagedTrainer(whole).AddStage(Stage(null, steps: 4)))
        {
            await trainer.RunAsync();
        }

        using var model = Model();
        var checkpoints = new CheckpointOptions { Folder = folder["checkpoints"] };
        using (var stop = new CancellationTokenSource())
        using (var trainer = new StagedTrainer(model).AddStage(Stage(offload, steps: 4)).SaveTo(checkpoints))
        {
            var progress = new ActionProgress(now =>
            {
                if (now.Step == 2)
                {
                    stop.Cancel();
                }
            });
            await Should.ThrowAsync<OperationCanceledException>(() => trainer.RunAsync(progress, stop.Token));
        }

        Directory.EnumerateFileSystemEntries(folder["scratch"]).ShouldBeEmpty();
        using var other = Model();
        using (var trainer = new StagedTrainer(other).AddStage(Stage(offload, steps: 4)).SaveTo(checkpoints).Resume(checkpoints.Folder))
        {
            await trainer.RunAsync();
        }

        Tiny.ShouldBeSame(Tiny.Weights(("model", other)), Tiny.Weights(("model", whole)));
        Directory.EnumerateFileSystemEntries(folder["scratch"]).ShouldBeEmpty();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_failed_run_leaves_no_files_and_the_weights_of_the_last_step(bool copies)
    {
        using var folder = new TemporaryFolder();
        using var model = Model();
        using var twoSteps = Model();
        using (var trainer = new StagedTrainer(twoSteps).AddStage(Stage(null, steps: 2)))
        {
            await trainer.RunAsync();
        }

        var stage = Stage(
            new OffloadOptions
            {
                Optimizer = true,
                Activations = true,
                Parameters = true,
                Folder = folder.Path,
                Copies = copies,
            }
        );
        stage.Data = new Clips { BrokenBatch = 4 };
        using (var trainer = new StagedTrainer(model).AddStage(stage))
        {
            await Should.ThrowAsync<TrainingDivergedException>(() => trainer.RunAsync());
        }

        Tiny.ShouldBeSame(Tiny.Weights(("model", model)), Tiny.Weights(("model", twoSteps)));
        Directory.EnumerateFileSystemEntries(folder.Path).ShouldBeEmpty();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Callbacks_and_validation_see_the_weights_of_the_step(bool copies)
    {
        var offload = new OffloadOptions
        {
            Optimizer = true,
            Parameters = true,
            Copies = copies,
        };
        (await SeenAsync(offload)).ShouldBe(await SeenAsync(null));

        static async Task<List<double>> SeenAsync(OffloadOptions? offload)
        {
            using var model = Model();
            var seen = new List<double>();
            using var trainer = new StagedTrainer(model).AddStage(Stage(offload)).AddCallback(new Sums(seen));
            await trainer.RunAsync();
            return seen;
        }
    }

    [Fact]
    public async Task A_folder_that_cannot_be_written_is_an_error()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder["file"], "", TestContext.Current.CancellationToken);
        using var model = Model();
        using var trainer = new StagedTrainer(model).AddStage(Stage(new OffloadOptions { Optimizer = true, Folder = folder["file"] }));
        await Should.ThrowAsync<IOException>(() => trainer.RunAsync());
        model.parameters().ShouldAllBe(parameter => parameter.isfinite().all().item<bool>());
    }

    [Fact]
    public void Offloading_that_needs_another_setting_is_rejected()
    {
        var stage = Stage(new OffloadOptions { Activations = true });
        stage.Problems().ShouldBeEmpty();
        stage.GradientCheckpointing = false;
        stage.Problems().ShouldHaveSingleItem().ShouldContain("requires GradientCheckpointing");
        Stage(new OffloadOptions { Optimizer = true }, workers: 2).Problems().ShouldHaveSingleItem().ShouldContain("offloading requires 1");
        Stage(new OffloadOptions { Parameters = true }).Problems().ShouldHaveSingleItem().ShouldContain("set both to true");
    }

    [Fact]
    public void Updates_run_in_order_in_the_background()
    {
        using var updates = new HostUpdates();
        using var gate = new ManualResetEventSlim();
        List<int> done = [];
        var first = updates.Add(() => done.Add(1));
        updates.Add(() =>
        {
            gate.Wait();
            done.Add(2);
        });
        updates.Wait(first); // does not wait for the second
        done.ShouldBe([1]);
        gate.Set();
        updates.Wait();
        done.ShouldBe([1, 2]);
        updates.Add(() => throw new InvalidOperationException("no space"));
        updates.Add(() => done.Add(3));
        Should.Throw<InvalidOperationException>(updates.Wait).Message.ShouldBe("no space");
        done.ShouldBe([1, 2]);
    }

    [Theory]
    [InlineData(true, false, false)]
    [InlineData(true, true, true)]
    public void Resident_memory_falls_as_planned(bool optimizer, bool activations, bool parameters)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Peak memory is read from /proc.");
        var model = new StdiTConfig
        {
            HiddenSize = 384,
            Depth = 6,
            NumHeads = 6,
            CaptionChannels = 128,
            ModelMaxLength = 20,
        };
        var plain = new MemoryCase(model, 2, 8, 16, BFloat16: false, Checkpointing: true);
        (plain with { Model = model with { Depth = 1 } }).Measure(); // maps what the libraries need for themselves
        var offloaded = plain with
        {
            Offload = new()
            {
                Optimizer = optimizer,
                Activations = activations,
                Parameters = parameters,
            },
        };
        var (before, after) = (plain.MeasureLeast(share: 0.8), offloaded.MeasureLeast(share: 0.8));
        after.ShouldBeLessThan(before);
        (offloaded.Estimate() / after).ShouldBeInRange(0.8, 1.2, $"{after / 1e6:F0} MB were measured, {before / 1e6:F0} MB without offloading.");
    }

    /// <summary>Random latents and text states.</summary>
    private sealed class Clips : ITrainingData
    {
        public long BrokenBatch { get; init; } = -1;

        public long Count => 100;

        public string Fingerprint => "clips";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default)
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator(Randomness.Mix(seed, number) >> 1);
            var video = randn([size, 2, 4, 16L, 16L], generator: generator);
            var text = randn([size, 4L, 8], generator: generator);
            if (number == BrokenBatch)
            {
                video.fill_(float.NaN);
            }

            return ValueTask.FromResult(new TrainingBatch(video.MoveToOuterDisposeScope(), text.MoveToOuterDisposeScope()));
        }
    }

    /// <summary>Notes sums of the weights and of the averages.</summary>
    private sealed class Sums(List<double> seen) : ITrainingCallback
    {
        public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
        {
            foreach (var averages in new[] { false, true })
            {
                run.Evaluate(
                    () => seen.Add(run.Modules["model"].parameters().Sum(parameter => parameter.detach().abs().sum().item<float>())),
                    averages
                );
            }

            return default;
        }
    }
}
