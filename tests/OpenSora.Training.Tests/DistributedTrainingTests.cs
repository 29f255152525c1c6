using OpenSora.Distributed;
using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;
using OpenSora.Training.Planning;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Training with several processes, here threads with models of their own, equals training with one.</summary>
public class DistributedTrainingTests
{
    private static readonly Lock Creating = new(); // the global generator belongs to all threads

    [Theory]
    [InlineData(2, Sharding.None, false)]
    [InlineData(4, Sharding.None, true)]
    [InlineData(2, Sharding.OptimizerState, true)]
    [InlineData(4, Sharding.OptimizerState, false)]
    [InlineData(2, Sharding.Gradients, false)]
    [InlineData(4, Sharding.Gradients, true)]
    public void LossesAndWeightsDoNotDependOnTheNumberOfProcesses(int processes, Sharding sharding, bool checkpointing)
    {
        var expected = Train(null, TwoStages(checkpointing));
        expected.Losses.Count.ShouldBe(7);
        expected.Norms.ShouldContain(norm => norm > 1e-2, "the norm is clipped");

        var members = InProcessCollectives.Run(processes, member =>
            Train(member, TwoStages(checkpointing), new DistributedOptions { Sharding = sharding, BucketBytes = 4000 })
        );

        ShouldBeClose(members[0].Losses, expected.Losses, 1e-5);
        ShouldBeClose(members[0].Norms, expected.Norms, 1e-4);
        members[0].Samples.ShouldAllBe(samples => samples == 10);
        foreach (var member in members)
        {
            ShouldBeClose(member.Weights, expected.Weights, 2e-5);
            ShouldBeClose(member.Averages, expected.Averages, 2e-5);
            Tiny.ShouldBeSame(member.Weights, members[0].Weights);
            Tiny.ShouldBeSame(member.Averages, members[0].Averages);
            member.Losses.Count.ShouldBe(member.Rank == 0 ? 7 : 0, "only process 0 reports progress");
        }
    }

    [Theory]
    [InlineData(Sharding.None)]
    [InlineData(Sharding.OptimizerState)]
    [InlineData(Sharding.Gradients)]
    public void Spikes_are_skipped_alike_and_name_the_same_parameter(Sharding sharding)
    {
        var expected = TrainLine(null, sharding);
        expected[7].Spike.ShouldNotBeNull();
        expected.ConvertAll(step => step.Spike is null).ShouldBe([.. Enumerable.Range(0, 10).Select(i => i != 7)]);

        var steps = InProcessCollectives.Run(2, member => TrainLine(member, sharding))[0];
        steps.ConvertAll(step => step.Spike).ShouldBe(expected.ConvertAll(step => step.Spike));
        ShouldBeClose(steps.ConvertAll(step => step.Loss), expected.ConvertAll(step => step.Loss), 1e-5);
        steps[^1].SkippedSteps.ShouldBe(1);
    }

    [Theory]
    [InlineData(Sharding.None)]
    [InlineData(Sharding.OptimizerState)]
    [InlineData(Sharding.Gradients)]
    public void A_loss_that_is_not_finite_ends_all_processes_with_the_same_message(Sharding sharding)
    {
        var messages = InProcessCollectives.Run(2, member =>
            Should
                .Throw<TrainingDivergedException>(() =>
                    Train(
                        member,
                        [Tiny.Stage(data: new Numbers { BrokenBatch = 3 })],
                        new DistributedOptions { Sharding = sharding, BucketBytes = 4000 }
                    )
                )
                .Message
        );
        messages[0].ShouldContain("step 2: the loss is NaN");
        messages[0].ShouldContain("the first gradient that is not finite belongs to 'model.x_embedder.proj.weight'");
        messages[1].ShouldBe(messages[0]);
    }

    [Fact]
    public void Gradients_are_sent_during_the_backward_pass()
    {
        var sent = InProcessCollectives.Run(2, member =>
        {
            using var model = Model();
            using var scope = NewDisposeScope();
            List<(string, TorchSharp.Modules.Parameter)> trained = [.. model.named_parameters().Select(pair => (pair.name, pair.parameter))];
            var group = new TrainingGroup(member, new DistributedOptions { BucketBytes = 4000 });
            using var owned = new OwnedParameters(trained, group);
            using var reduction = new GradientReduction(trained, owned);
            var x = ones([1, 2, 2, 4, 4]);
            var conditions = new DenoiserConditions(ones([1, 4, 8])) { DroppedText = zeros(1, ScalarType.Bool) };
            var early = new List<int>();
            for (var step = 0; step < 2; step++)
            {
                model.zero_grad();
                reduction.Begin();
                reduction.Run([model], overlaps: true, () =>
                {
                    var loss = model.Denoise(x, tensor(new[] { 10L }), conditions).square().sum();
                    reduction.BeforeBackward();
                    loss.backward();
                });
                early.Add(reduction.Overlapped);
                reduction.Complete([]);
            }

            return (early, owned.Layout!.Buckets.Count);
        });
        foreach (var (early, buckets) in sent)
        {
            early.ShouldAllBe(count => count >= buckets / 2 && count < buckets);
        }
    }

    [Fact]
    public void A_parameter_that_is_used_in_a_block_and_elsewhere_has_its_whole_gradient()
    {
        double[] Gradient(InProcessCollectives? member)
        {
            using var model = Model();
            using var scope = NewDisposeScope();
            var shared = model.named_parameters().First(pair => pair.name.Equals("blocks.1.mlp.fc1.weight", StringComparison.Ordinal)).parameter;
            List<(string, TorchSharp.Modules.Parameter)> trained = [.. model.named_parameters().Select(pair => (pair.name, pair.parameter))];
            var x = ones([1, 2, 2, 4, 4]);
            var conditions = new DenoiserConditions(ones([1, 4, 8])) { DroppedText = zeros(1, ScalarType.Bool) };
            Tensor Loss() => model.Denoise(x * shared.mean(), tensor(new[] { 10L }), conditions).square().sum();
            if (member is null)
            {
                Loss().backward();
                return [.. shared.grad!.flatten().data<float>().Select(value => (double)value)];
            }

            using var owned = new OwnedParameters(trained, new TrainingGroup(member, new DistributedOptions { BucketBytes = 4000 }));
            using var reduction = new GradientReduction(trained, owned);
            reduction.Begin();
            reduction.Run([model], overlaps: true, () =>
            {
                var loss = Loss();
                reduction.BeforeBackward();
                (loss / 2).backward();
            });
            reduction.Complete([]);
            return [.. shared.grad!.flatten().data<float>().Select(value => (double)value)];
        }

        ShouldBeClose(InProcessCollectives.Run(2, Gradient)[1], Gradient(null), 1e-4);
    }

    [Theory]
    [InlineData(Sharding.None, 1)]
    [InlineData(Sharding.OptimizerState, 1)]
    [InlineData(Sharding.Gradients, 1)]
    [InlineData(Sharding.Gradients, 3)]
    public void The_bytes_of_a_step_are_those_of_the_plan(Sharding sharding, int accumulation)
    {
        const int Processes = 2;
        var options = new DistributedOptions { Sharding = sharding, BucketBytes = 4000 };
        var counted = InProcessCollectives.Run(Processes, member =>
        {
            using var model = Model();
            using var counting = new CountingCollectives(member);
            var stage = Tiny.Stage(steps: 4, data: new Noise());
            (stage.Accumulation, stage.BatchSize) = (accumulation, 4);
            var bytes = new List<long>();
            using var trainer = new StagedTrainer(model)
                .AddStage(stage)
                .UseCollectives(counting, options)
                .AddCallback(new Each(() => bytes.Add(counting.Bytes)));
            trainer.RunAsync().GetAwaiter().GetResult();
            var sizes = model.parameters().Select(parameter => parameter.numel()).ToArray();
            return (bytes, ProcessPlan.Of(sizes, Processes, options, accumulation: accumulation, lossParts: 2).BytesPerStep);
        })[0];
        var (each, planned) = counted;
        // The order of the buckets is sent once, in the first step.
        each.Zip(each.Skip(1), (before, after) => after - before).ShouldAllBe(bytes => bytes == planned);
    }

    [Fact]
    public void Checkpoints_resume_with_other_numbers_of_processes_and_other_sharding()
    {
        using var folder = new TemporaryFolder();
        TrainingStage Constant(int steps)
        {
            var stage = Tiny.Stage(steps: steps);
            stage.FinalLearningRate = null;
            return stage;
        }

        var whole = Train(null, [Constant(6)]);
        var runs = new (int Processes, Sharding Sharding)[]
        {
            (2, Sharding.Gradients),
            (3, Sharding.OptimizerState),
            (1, Sharding.None),
            (2, Sharding.None),
            (3, Sharding.Gradients),
            (1, Sharding.None),
        };
        Trained? last = null;
        for (var i = 0; i < runs.Length; i++)
        {
            var (processes, sharding) = runs[i];
            void Prepare(StagedTrainer trainer) =>
                trainer.SaveTo(new CheckpointOptions { Folder = folder.Path, KeepLast = 2 }).Resume(folder.Path, ifAny: true);
            var stage = Constant(i + 1);
            last =
                processes == 1
                    ? Train(null, [stage], prepare: Prepare)
                    : InProcessCollectives.Run(processes, member =>
                        Train(member, [stage], new DistributedOptions { Sharding = sharding, BucketBytes = 4000 }, Prepare)
                    )[0];
            last.Steps.ShouldHaveSingleItem().Step.ShouldBe(i + 1);
        }

        ShouldBeClose(last!.Weights, whole.Weights, 5e-5);
        ShouldBeClose(last.Averages, whole.Averages, 5e-5);
        Checkpoint
            .All(folder.Path)
            .Select(Path.GetFileName)
            .ShouldBe(["checkpoint-01-00000005.safetensors.index.json", "checkpoint-01-00000006.safetensors"]);
        Directory.EnumerateFiles(folder.Path).Count().ShouldBe(1 + 3 + 1, "the shards of deleted checkpoints are deleted too");
    }

    [Theory]
    [InlineData(Sharding.None)]
    [InlineData(Sharding.OptimizerState)]
    [InlineData(Sharding.Gradients)]
    public void A_resumed_run_gives_the_same_bits_and_one_process_continues_it(Sharding sharding)
    {
        using var folder = new TemporaryFolder();
        var options = new DistributedOptions { Sharding = sharding, BucketBytes = 4000 };
        Trained[] Run(int processes, Action<StagedTrainer>? prepare, CancellationToken stop = default) =>
            InProcessCollectives.Run(processes, member => Train(member, [Tiny.Stage(steps: 6)], options, prepare, stop));
        void Saved(StagedTrainer trainer) =>
            trainer.SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 2 }).Resume(folder.Path, ifAny: true);

        var whole = Run(2, null);
        using (var stop = new CancellationTokenSource())
        {
            // Only one process is canceled, and all end with a checkpoint.
            Should.Throw<OperationCanceledException>(() => InProcessCollectives.Run(2, member => Train(
                        member,
                        [Tiny.Stage(steps: 6)],
                        options,
                        trainer =>
                        {
                            Saved(trainer);
                            if (member.Rank == 0)
                            {
                                trainer.AddCallback(
                                    new Each(run =>
                                    {
                                        if (run.Step == 3)
                                        {
                                            stop.Cancel();
                                        }
                                    })
                                );
                            }
                        },
                        member.Rank == 0 ? stop.Token : default
                    )));
        }

        Checkpoint.All(folder.Path).Last().ShouldEndWith("checkpoint-01-00000003.safetensors.index.json");
        var copy = folder["copy"];
        Directory.CreateDirectory(copy);
        foreach (var file in Directory.EnumerateFiles(folder.Path, "*00000003*"))
        {
            File.Copy(file, Path.Combine(copy, Path.GetFileName(file)));
        }

        // The weights and averages can be loaded without a run.
        foreach (var path in new[] { copy, Directory.GetFiles(copy, "*.json").Single() })
        {
            var (model, text) = Tiny.Models(9);
            using var first = model;
            using var second = text;
            using var trainer = new StagedTrainer(model, text).InitializeFrom(path);
            trainer.LoadReports["model"].Loaded.Count.ShouldBe(model.state_dict().Count);
        }

        var resumed = Run(2, Saved);
        Tiny.ShouldBeSame(resumed[0].Weights, whole[0].Weights);
        Tiny.ShouldBeSame(resumed[1].Averages, whole[1].Averages);

        var one = Train(null, [Tiny.Stage(steps: 6)], prepare: trainer => trainer.Resume(copy));
        ShouldBeClose(one.Weights, whole[0].Weights, 2e-5);
        ShouldBeClose(one.Averages, whole[0].Averages, 2e-5);
        one.Losses.Count.ShouldBe(3);
    }

    [Fact]
    public void A_checkpoint_without_its_index_does_not_exist_and_a_damaged_shard_is_named()
    {
        using var folder = new TemporaryFolder();
        var options = new DistributedOptions { Sharding = Sharding.Gradients, BucketBytes = 4000 };
        void RunMember(InProcessCollectives member, int steps, bool usePrevious) =>
            Train(member, [Tiny.Stage(steps: steps)], options, trainer =>
                trainer
                    .SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 1 })
                    .Resume(folder.Path, ifAny: true, usePreviousIfDamaged: usePrevious)
            );
        void Run(int steps, bool usePrevious) => InProcessCollectives.Run(2, member => RunMember(member, steps, usePrevious));
        Exception Failure() => InProcessCollectives.Run(2, member => Should.Throw<Exception>(() => RunMember(member, 4, usePrevious: false)))[0];
        Run(3, usePrevious: false);

        // An interrupted writer leaves shards, or files with temporary names.
        File.Delete(folder["checkpoint-01-00000003.safetensors.index.json"]);
        File.WriteAllText(folder["checkpoint-01-00000003.safetensors.index.json.0123456789abcdef.tmp"], "{");
        File.WriteAllText(folder["checkpoint-01-00000004-00002-of-00002.safetensors.0123456789abcdef.tmp"], "");
        Checkpoint.All(folder.Path).Last().ShouldEndWith("checkpoint-01-00000002.safetensors.index.json");
        Run(3, usePrevious: false);
        Directory.EnumerateFiles(folder.Path, "*.tmp").ShouldBeEmpty();
        Checkpoint.All(folder.Path).Last().ShouldEndWith("checkpoint-01-00000003.safetensors.index.json");

        var shard = folder["checkpoint-01-00000003-00002-of-00002.safetensors"];
        File.WriteAllBytes(shard, File.ReadAllBytes(shard)[..^100]);
        Failure().ShouldBeOfType<InvalidWeightsException>().Message.ShouldContain("checkpoint-01-00000003-00002-of-00002.safetensors");
        File.Delete(shard);
        Failure().ShouldBeOfType<InvalidWeightsException>().Message.ShouldContain("checkpoint-01-00000003-00002-of-00002.safetensors");
        Run(4, usePrevious: true);
        File.Exists(folder["checkpoint-01-00000003.safetensors.index.json.damaged"]).ShouldBeTrue();
        Checkpoint.All(folder.Path).Last().ShouldEndWith("checkpoint-01-00000004.safetensors.index.json");
    }

    [Fact]
    public void Callbacks_of_process_0_use_averages_that_all_processes_share()
    {
        double[] Validate(InProcessCollectives? member)
        {
            var losses = new List<double>();
            Train(member, [Tiny.Stage(steps: 4)], new DistributedOptions { Sharding = Sharding.Gradients, BucketBytes = 4000 }, trainer =>
                trainer
                    .AddValidationLoss(new Numbers(), everySteps: 2, bands: 2, samples: 3, batchSize: 3)
                    .AddCallback(new Each(_ => { }, observed => losses.Add(observed.Scalars["loss"])))
            );
            return [.. losses];
        }

        var expected = Validate(null);
        expected.Length.ShouldBe(3);
        var members = InProcessCollectives.Run(3, Validate);
        ShouldBeClose(members[0], expected, 1e-5);
        members[1].ShouldBeEmpty();
    }

    [Fact]
    public void A_callback_that_fails_ends_all_processes_after_a_checkpoint()
    {
        using var folder = new TemporaryFolder();
        var failures = InProcessCollectives.Run(2, member =>
            Should.Throw<Exception>(() =>
                Train(member, [Tiny.Stage(steps: 6)], new DistributedOptions { Sharding = Sharding.OptimizerState }, trainer =>
                    trainer
                        .SaveTo(new CheckpointOptions { Folder = folder.Path })
                        .AddCallback(new Each(run => _ = run.Step == 2 ? throw new InvalidTimeZoneException("at step 2") : 0))
                )
            )
        );
        failures[0].ShouldBeOfType<InvalidTimeZoneException>();
        failures[1].ShouldBeOfType<CollectiveException>().Message.ShouldContain("process 0 of 2 failed");
        Checkpoint.All(folder.Path).ShouldHaveSingleItem().ShouldEndWith("checkpoint-01-00000002.safetensors.index.json");
    }

    [Fact]
    public void Wrong_settings_are_refused()
    {
        InProcessCollectives.Run(2, member =>
        {
            using var model = Model();
            using var trainer = new StagedTrainer(model).AddStage(Tiny.Stage(data: new Noise()));
            Should.Throw<ArgumentException>(() => trainer.UseCollectives(member, new DistributedOptions { BucketBytes = 0 }));
            trainer.UseCollectives(member);
            trainer.Stages[0].BatchSize = 1;
            Should.Throw<InvalidOperationException>(() => trainer.RunAsync()).Message.ShouldContain("BatchSize 1, but 2 processes share a batch");
            trainer.Stages[0].BatchSize = 4;
            trainer.Stages[0].LearningRate = 1e-3 * (1 + member.Rank);
            var failure = Should.Throw<Exception>(() => trainer.RunAsync().GetAwaiter().GetResult());
            failure.GetType().ShouldBe(member.Rank == 0 ? typeof(CollectiveException) : typeof(InvalidOperationException));
            failure.Message.ShouldContain(
                member.Rank == 0 ? "process 1 of 2 failed" : "Process 1 has other settings of stage 'first' than process 0"
            );
        });
        Should.Throw<InvalidOperationException>(() => TrainingBatch.RangeOf(2, 0, 3)).Message.ShouldContain("3 processes share it");
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Parts_of_batches_are_those_of_the_whole_batch(int processes)
    {
        ITrainingData[] sources =
        [
            new Numbers(),
            TrainingData.Mix((new Numbers(), 1), (new Numbers(frames: 4), 2)),
            TrainingData.InBuckets((new Bucket(2, 4, 4, 5), new Numbers()), (new Bucket(4, 4, 4, 3), new Numbers(frames: 4))),
            new Numbers(frames: 8).WithFrameMasks(new Dictionary<FrameMask, double> { [FrameMask.Random] = 0.5 }),
        ];
        foreach (var data in sources)
        {
            for (var number = 0; number < 5; number++)
            {
                using var whole = await data.GetBatchAsync(number, 6, 42);
                var offset = 0L;
                for (var part = 0; part < processes; part++)
                {
                    using var batch = await data.GetPartAsync(number, 6, 42, part, processes);
                    var count = batch.Video.shape[0];
                    (batch.Offset, batch.WholeSize).ShouldBe((offset, whole.Video.shape[0]));
                    using var expected = whole.Narrow(offset, count);
                    batch.Video.Equals(expected.Video).ShouldBeTrue();
                    batch.Text!.Equals(expected.Text!).ShouldBeTrue();
                    batch.Mask!.Equals(expected.Mask!).ShouldBeTrue();
                    (batch.NoisyFrames is null).ShouldBe(expected.NoisyFrames is null);
                    (batch.NoisyFrames is null || batch.NoisyFrames.Equals(expected.NoisyFrames!)).ShouldBeTrue();
                    offset += count;
                }

                offset.ShouldBe(whole.Video.shape[0]);
            }
        }
    }

    private static StdiT Model()
    {
        lock (Creating)
        {
            var (model, text) = Tiny.Models();
            text.Dispose();
            return model;
        }
    }

    private static List<TrainingProgress> TrainLine(InProcessCollectives? member, Sharding sharding)
    {
        TorchSharp.Modules.Linear line;
        lock (Creating)
        {
            manual_seed(1);
            line = nn.Linear(3, 2);
        }

        using var owned = line;
        var steps = new List<TrainingProgress>();
        using var trainer = new StagedTrainer(new Line(line)).AddStage(
            new TrainingStage
            {
                Name = "line",
                Data = new Points { Spikes = [7] },
                Steps = 10,
                BatchSize = 4,
                LearningRate = 1e-2,
                Spikes = new SpikeGuard { Factor = 10, Window = 3 },
            }
        );
        if (member is not null)
        {
            trainer.UseCollectives(member, new DistributedOptions { Sharding = sharding });
        }

        trainer.RunAsync(new ActionProgress(steps.Add)).GetAwaiter().GetResult();
        return steps;
    }

    private sealed class Each(Action<TrainingRun> done, Action<TrainingObservation>? observed = null) : ITrainingCallback
    {
        public Each(Action done)
            : this(_ => done()) { }

        public ValueTask StepDoneAsync(TrainingRun run, TrainingProgress progress)
        {
            done(run);
            return default;
        }

        public ValueTask ObservedAsync(TrainingRun run, TrainingObservation observation)
        {
            observed?.Invoke(observation);
            return default;
        }
    }

    /// <summary>Latents with text states.</summary>
    private sealed class Noise : ITrainingData
    {
        public long Count => 100;

        public string Fingerprint => "noise";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int size, int seed, CancellationToken cancellationToken = default) =>
            ValueTask.FromResult(new TrainingBatch(ones([size, 2, 2, 4, 4]), ones([size, 4, 8])));
    }

    private static TrainingStage[] TwoStages(bool checkpointing)
    {
        TrainingStage Stage(string name, int steps, Func<string, bool>? trains) =>
            new()
            {
                Name = name,
                Data = new Numbers(),
                Steps = steps,
                BatchSize = 5,
                Accumulation = 2,
                LearningRate = 1e-3,
                WeightDecay = 0.01,
                WarmUpSteps = 2,
                FinalLearningRate = 0,
                ClipGradientNorm = 1e-2,
                EmaDecay = 0.9,
                GradientCheckpointing = checkpointing,
                Trains = trains,
            };
        return [Stage("first", 3, name => !name.Contains("attn_temp", StringComparison.Ordinal)), Stage("second", 4, null)];
    }

    private sealed record Trained(
        int Rank,
        List<double> Losses,
        List<double> Norms,
        List<long> Samples,
        Dictionary<string, float[]> Weights,
        Dictionary<string, float[]> Averages,
        List<TrainingProgress> Steps
    );

    private static Trained Train(
        InProcessCollectives? member,
        TrainingStage[] stages,
        DistributedOptions? options = null,
        Action<StagedTrainer>? prepare = null,
        CancellationToken stop = default
    )
    {
        (StdiT Model, T5TextEncoder Text) made;
        lock (Creating)
        {
            made = Tiny.Models(seed: member is { Rank: > 0 and var other } ? 100 + other : 1); // those of process 0 count
        }

        using var model = made.Model;
        using var text = made.Text;
        using var trainer = new StagedTrainer(model, text);
        foreach (var stage in stages)
        {
            trainer.AddStage(stage);
        }

        if (member is not null)
        {
            trainer.UseCollectives(member, options);
        }

        prepare?.Invoke(trainer);
        var steps = new List<TrainingProgress>();
        trainer.RunAsync(new ActionProgress(steps.Add), stop).GetAwaiter().GetResult();
        using var scope = NewDisposeScope();
        var weights = Tiny.Weights(("model", model), ("text", text));
        trainer.UseAverages();
        return new Trained(
            member?.Rank ?? 0,
            steps.ConvertAll(step => step.Loss),
            steps.ConvertAll(step => step.GradientNorm),
            steps.ConvertAll(step => step.Samples),
            weights,
            Tiny.Weights(("model", model), ("text", text)),
            steps
        );
    }

    private static void ShouldBeClose(IReadOnlyList<double> actual, IReadOnlyList<double> expected, double tolerance)
    {
        actual.Count.ShouldBe(expected.Count);
        for (var i = 0; i < expected.Count; i++)
        {
            actual[i].ShouldBe(expected[i], tolerance * Math.Max(1, Math.Abs(expected[i])));
        }
    }

    private static void ShouldBeClose(Dictionary<string, float[]> actual, Dictionary<string, float[]> expected, double tolerance)
    {
        actual.Keys.ShouldBe(expected.Keys, ignoreOrder: true);
        foreach (var (name, values) in expected)
        {
            var most = values.Zip(actual[name], (a, b) => Math.Abs(a - b)).Max();
            most.ShouldBeLessThan((float)tolerance, name);
        }
    }
}
