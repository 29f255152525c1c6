using OpenSora.Diffusion;
using OpenSora.Goldens;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using OpenSora.Weights;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class StagedTrainerTests
{
    [Fact]
    public void Two_steps_equal_the_original()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "OpenSora.Lib.sln")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        var comparisons = GoldenCase.Check(Path.Combine(folder, "tests", "Data", "goldens", "train_step_stdit.safetensors"));
        comparisons.Count.ShouldBeGreaterThan(60);
        foreach (var comparison in comparisons)
        {
            comparison.Ok.ShouldBeTrue($"{comparison}");
        }
    }

    [Fact]
    public async Task A_stopped_and_resumed_run_gives_the_weights_of_one_that_was_not_stopped()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync(null, null);

        // Stopped between steps: a checkpoint is written on the way out.
        using (var stop = new CancellationTokenSource())
        {
            var checkpoints = new CheckpointOptions { Folder = folder["stopped"] };
            await Should.ThrowAsync<OperationCanceledException>(() =>
                RunAsync(
                    checkpoints,
                    null,
                    new ActionProgress(p =>
                    {
                        if (p.Step == 3)
                        {
                            stop.Cancel();
                        }
                    }),
                    stop.Token
                )
            );
            Tiny.ShouldBeSame(await RunAsync(checkpoints, folder["stopped"]), expected);
        }

        // Broken off in the fifth step: what was done since the last checkpoint is done again.
        var every = new CheckpointOptions
        {
            Folder = folder["broken"],
            EverySteps = 2,
            Every = null,
        };
        await Should.ThrowAsync<IOException>(() =>
            RunAsync(
                every,
                null,
                new ActionProgress(p =>
                {
                    if (p.Step == 5)
                    {
                        throw new IOException("the power went out");
                    }
                })
            )
        );
        Tiny.ShouldBeSame(await RunAsync(every, folder["broken"]), expected);

        static async Task<Dictionary<string, float[]>> RunAsync(
            CheckpointOptions? checkpoints,
            string? resume,
            IProgress<TrainingProgress>? progress = null,
            CancellationToken cancellation = default
        )
        {
            // Another seed where weights are to come from the checkpoint.
            var (model, text) = Tiny.Models(resume is null ? 1 : 99);
            using (model)
            using (text)
            using (var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage()).AddStage(Tiny.Stage("second", 3)))
            {
                if (checkpoints is not null)
                {
                    trainer.SaveTo(checkpoints);
                }

                if (resume is not null)
                {
                    trainer.Resume(resume);
                }

                await trainer.RunAsync(progress, cancellation);
                var weights = Tiny.Weights(("model", model), ("text", text));
                trainer.UseAverages();
                foreach (var (name, values) in Tiny.Weights(("ema", model)))
                {
                    weights.Add(name, values);
                }

                return weights;
            }
        }
    }

    [Fact]
    public async Task A_stage_starts_from_the_averages_of_the_one_before()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            Dictionary<string, float[]>? averages = null;
            using (var first = new StagedTrainer(model, text).AddStage(Tiny.Stage()))
            {
                await first.RunAsync();
                first.UseAverages();
                averages = Tiny.Weights(("model", model));
            }
            var (again, againText) = Tiny.Models();
            using (again)
            using (againText)
            {
                var second = Tiny.Stage("second", 1);
                second.LearningRate = 1e-30; // a step that changes nothing shows what the stage started with
                using var both = new StagedTrainer(again, againText).AddStage(Tiny.Stage()).AddStage(second);
                await both.RunAsync();
                Tiny.ShouldBeSame(Tiny.Weights(("model", again)), averages);
            }
        }
    }

    [Fact]
    public async Task A_second_run_starts_from_the_current_weights_of_the_modules()
    {
        using var folder = new TemporaryFolder();
        manual_seed(3);
        using var line = nn.Linear(3, 2);
        line.SaveWeights(folder["begin.safetensors"]);
        var stage = new TrainingStage
        {
            Name = "line",
            Data = new Points(),
            Steps = 5,
            BatchSize = 4,
            LearningRate = 1e-2,
            EmaDecay = 0.5,
        };
        using var trainer = new StagedTrainer(new Line(line)).AddStage(stage);
        await trainer.RunAsync();
        var trained = Tiny.Weights(("line", line));
        line.LoadWeights(folder["begin.safetensors"], new LoadOptions { Copy = true });
        var begin = Tiny.Weights(("line", line));
        Tiny.AreSame(begin, trained).ShouldBeFalse();
        stage.LearningRate = 1e-30; // steps that round away: what the second run begins with is what it ends with
        await trainer.RunAsync();
        Tiny.ShouldBeSame(Tiny.Weights(("line", line)), begin);
    }

    [Fact]
    public async Task A_run_stopped_in_the_last_step_of_a_stage_does_not_start_the_next_stage()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        using (var stop = new CancellationTokenSource())
        {
            List<string> steps = [];
            using var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage(steps: 2)).AddStage(Tiny.Stage("second", 2));
            await Should.ThrowAsync<OperationCanceledException>(() =>
                trainer.RunAsync(
                    new ActionProgress(p =>
                    {
                        steps.Add($"{p.Stage} {p.Step}");
                        if (p.Step == 2)
                        {
                            stop.Cancel();
                        }
                    }),
                    stop.Token
                )
            );
            steps.ShouldBe(["first 1", "first 2"]);
        }
    }

    [Fact]
    public async Task Only_the_chosen_parameters_are_trained()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            var before = Tiny.Weights(("model", model), ("text", text));
            var stage = TrainingStage.ImagePretraining(new Numbers(1), 3);
            (stage.BatchSize, stage.LearningRate) = (2, 1e-2);
            using var trainer = new StagedTrainer(model, text).AddStage(stage);
            await trainer.RunAsync();
            foreach (var (name, values) in Tiny.Weights(("model", model), ("text", text)))
            {
                var same = before[name].AsSpan().SequenceEqual(values);
                var frozen =
                    name.Contains("attn_temp", StringComparison.Ordinal)
                    || name.Contains("pos_embed", StringComparison.Ordinal)
                    || name.EndsWith("y_embedding", StringComparison.Ordinal);
                if (frozen)
                {
                    same.ShouldBeTrue($"{name} changed");
                }
                else if (name.Contains("x_embedder", StringComparison.Ordinal) || name.Contains("mlp", StringComparison.Ordinal))
                {
                    same.ShouldBeFalse($"{name} did not change");
                }
            }
            before.Keys.ShouldContain(name => name.Contains("attn_temp", StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData("stdit", "blocks.0.attn_temp.proj.weight", true)]
    [InlineData("stdit", "blocks.0.attn.proj.weight", false)]
    [InlineData("stdit2", "blocks.1.attn_temp.proj.weight", true)]
    [InlineData("stdit2", "blocks.1.attn.proj.weight", false)]
    [InlineData("stdit3", "temporal_blocks.0.mlp.fc1.bias", true)]
    [InlineData("stdit3", "spatial_blocks.0.attn.qkv.weight", false)]
    [InlineData("latte", "blocks.1.attn.qkv.weight", true)]
    [InlineData("latte", "blocks.0.attn.qkv.weight", false)]
    public void Training_on_images_leaves_out_the_parts_that_attend_over_time(string kind, string name, bool isTemporal)
    {
        int[] size = [2, 4, 4];
        using nn.Module model = kind switch
        {
            "stdit" => new StdiT(
                new StdiTConfig
                {
                    InputSize = size,
                    HiddenSize = 24,
                    Depth = 2,
                    NumHeads = 2,
                    CaptionChannels = 8,
                }
            ),
            "stdit2" => new StdiT2(
                new StdiT2Config
                {
                    HiddenSize = 24,
                    Depth = 2,
                    NumHeads = 2,
                    CaptionChannels = 8,
                }
            ),
            "stdit3" => new StdiT3(
                new StdiT3Config
                {
                    HiddenSize = 24,
                    Depth = 2,
                    NumHeads = 2,
                    CaptionChannels = 8,
                }
            ),
            _ => new DiT(DiTConfig.Latte with { InputSize = size, HiddenSize = 24, Depth = 2, NumHeads = 2 }),
        };

        model.named_parameters().Select(parameter => parameter.name).ShouldContain(name);
        TrainingStage.ImagePretraining(new Numbers(1), 1).Parameters.Includes("model", model, name).ShouldBe(!isTemporal);
        TrainedParameters.Temporal.Includes("model", model, name).ShouldBe(isTemporal);
    }

    [Fact]
    public async Task A_gradient_that_is_not_finite_is_reported_with_the_name_of_its_parameter()
    {
        manual_seed(3);
        using var line = nn.Linear(3, 2);
        using var trainer = new StagedTrainer(new BrokenBias(line)).AddStage(
            new TrainingStage
            {
                Name = "line",
                Data = new Points(),
                Steps = 1,
                BatchSize = 4,
            }
        );
        (await Should.ThrowAsync<TrainingDivergedException>(() => trainer.RunAsync())).Message.ShouldContain(
            "the first gradient that is not finite belongs to 'line.bias'"
        );
    }

    /// <summary>An objective with a finite loss and a gradient of the bias that is not finite.</summary>
    private sealed class BrokenBias(TorchSharp.Modules.Linear line) : ITrainingObjective
    {
        public IReadOnlyDictionary<string, nn.Module> Modules { get; } =
            new Dictionary<string, nn.Module>(StringComparer.Ordinal) { ["line"] = line };

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
            new(line.weight!.square().mean() + (line.bias! - line.bias!.detach()).sqrt().sum());
    }

    [Fact]
    public async Task A_loss_that_is_not_finite_stops_the_run_before_the_weights_change()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            Dictionary<string, float[]>? last = null;
            using var trainer = new StagedTrainer(model, text)
                .AddStage(Tiny.Stage(data: new Numbers { BrokenBatch = 5 }))
                .SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 1 });
            var error = await Should.ThrowAsync<TrainingDivergedException>(() =>
                trainer.RunAsync(new ActionProgress(_ => last = Tiny.Weights(("model", model), ("text", text))))
            );
            error.Message.ShouldContain("step 3");
            error.Message.ShouldContain("checkpoint-01-00000002");
            Tiny.ShouldBeSame(Tiny.Weights(("model", model), ("text", text)), last.ShouldNotBeNull());
        }
    }

    [Fact]
    public async Task Resuming_with_other_settings_or_data_is_rejected_but_initializing_is_not()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            using (var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage(steps: 2)).SaveTo(new CheckpointOptions { Folder = folder.Path }))
            {
                await trainer.RunAsync();
            }

            var other = Tiny.Stage(steps: 4);
            other.LearningRate = 1e-4;
            using (var trainer = new StagedTrainer(model, text).AddStage(other).Resume(folder.Path))
            {
                (await Should.ThrowAsync<InvalidOperationException>(() => trainer.RunAsync())).Message.ShouldBe(
                    "Stage 'first' was started with different settings: LearningRate was 0.001 and is now 0.0001. "
                        + "Use Resume to continue the same run, or InitializeFrom to start a new run from its weights. "
                        + "To continue with other settings, name them in the argument mayDiffer of Resume, or in the option MayDiffer."
                );
            }

            using (var trainer = new StagedTrainer(model, text).AddStage(Tiny.Stage(data: new Numbers(1))).Resume(folder.Path))
            {
                (await Should.ThrowAsync<InvalidOperationException>(() => trainer.RunAsync())).Message.ShouldContain("different data");
            }

            using (var trainer = new StagedTrainer(model, text).AddStage(other).InitializeFrom(folder.Path))
            {
                await trainer.RunAsync();
            }

            using (var trainer = new StagedTrainer(model, text).AddStage(other).Resume(folder["nothing"]))
            {
                await Should.ThrowAsync<FileNotFoundException>(() => trainer.RunAsync());
            }

            model.SaveWeights(folder["weights.safetensors"]);
            using (var trainer = new StagedTrainer(model).AddStage(other).Resume(folder["weights.safetensors"]))
            {
                (await Should.ThrowAsync<InvalidWeightsException>(() => trainer.RunAsync())).Message.ShouldContain("InitializeFrom");
            }
        }
    }

    [Fact]
    public async Task Weights_from_a_file_initialize_a_model_and_must_fit()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        var (other, otherText) = Tiny.Models(2);
        using (model)
        using (text)
        using (other)
        using (otherText)
        {
            model.SaveWeights(folder["weights.safetensors"]);
            using (var trainer = new StagedTrainer(other).InitializeFrom(folder["weights.safetensors"]))
            {
                Tiny.ShouldBeSame(Tiny.Weights(("model", other)), Tiny.Weights(("model", model)));
            }

            text.SaveWeights(folder["text.safetensors"]);
            using (var trainer = new StagedTrainer(other))
            {
                Should.Throw<InvalidWeightsException>(() => trainer.InitializeFrom(folder["text.safetensors"]));
            }

            using (var trainer = new StagedTrainer(other, otherText))
            {
                Should.Throw<InvalidWeightsException>(() => trainer.InitializeFrom(folder["weights.safetensors"]));
            }
        }
        await Task.CompletedTask;
    }

    [Fact]
    public async Task The_last_checkpoints_are_kept_and_a_failed_write_leaves_none()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            using (
                var trainer = new StagedTrainer(model, text)
                    .AddStage(Tiny.Stage())
                    .SaveTo(
                        new CheckpointOptions
                        {
                            Folder = folder["kept"],
                            EverySteps = 1,
                            KeepLast = 2,
                        }
                    )
            )
            {
                await trainer.RunAsync();
            }

            Directory
                .GetFiles(folder["kept"])
                .Select(Path.GetFileName)
                .Order()
                .ShouldBe(["checkpoint-01-00000005.safetensors", "checkpoint-01-00000006.safetensors"]);

            await File.WriteAllTextAsync(folder["file"], "in the way");
            using (
                var trainer = new StagedTrainer(model, text)
                    .AddStage(Tiny.Stage())
                    .SaveTo(new CheckpointOptions { Folder = folder["file"], EverySteps = 1 })
            )
            {
                await Should.ThrowAsync<IOException>(() => trainer.RunAsync());
            }
        }
    }

    [Fact]
    public async Task A_run_does_not_start_in_a_folder_with_checkpoints_of_another_run()
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            var checkpoints = new CheckpointOptions { Folder = folder["run"], EverySteps = 2 };
            StagedTrainer Trainer(int steps = 6) => new StagedTrainer(model, text).AddStage(Tiny.Stage(steps: steps)).SaveTo(checkpoints);
            using (var trainer = Trainer())
            {
                await trainer.RunAsync();
            }

            var before = Directory.GetFiles(folder["run"]).Order().ToArray();
            await File.WriteAllTextAsync(before[^1] + ".0123456789.tmp", "half of a checkpoint");

            using (var trainer = Trainer().InitializeFrom(folder["run"]))
            {
                (await Should.ThrowAsync<InvalidOperationException>(() => trainer.RunAsync())).Message.ShouldContain("checkpoint-01-00000006");
            }

            using (var trainer = Trainer().Resume(before[0]))
            {
                (await Should.ThrowAsync<InvalidOperationException>(() => trainer.RunAsync())).Message.ShouldContain("Resume");
            }

            Directory.GetFiles(folder["run"]).Length.ShouldBe(before.Length + 1);

            // The newest is gone on with, and what a kill left of one that was being written is removed.
            using (var trainer = Trainer().Resume(folder["run"]))
            {
                await trainer.RunAsync();
            }

            Directory.GetFiles(folder["run"]).Order().ShouldBe(before);
        }
    }

    [Fact]
    public async Task A_finished_run_continues_when_it_is_extended()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync(null, 8);
        await RunAsync("constant", 5);
        Tiny.ShouldBeSame(await RunAsync("constant", 8), expected);
        Tiny.ShouldBeSame(await RunAsync("constant", 8), expected); // and does not, when it is not

        async Task<Dictionary<string, float[]>> RunAsync(string? saved, int steps)
        {
            var (model, text) = Tiny.Models();
            using (model)
            using (text)
            {
                var stage = Tiny.Stage(steps: steps);
                stage.FinalLearningRate = null;
                using var trainer = new StagedTrainer(model, text).AddStage(stage);
                if (saved is not null)
                {
                    trainer.SaveTo(new CheckpointOptions { Folder = folder[saved] }).Resume(folder[saved], ifAny: true);
                }

                await trainer.RunAsync();
                return Tiny.Weights(("model", model), ("text", text));
            }
        }
    }

    [Fact]
    public async Task Parameters_without_a_gradient_at_first_have_their_own_step_count()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync(6, resume: false);
        await RunAsync(4, resume: false, save: true);
        Tiny.ShouldBeSame(await RunAsync(6, resume: true), expected);

        async Task<Dictionary<string, float[]>> RunAsync(int steps, bool resume, bool save = false)
        {
            manual_seed(3);
            using var idle = nn.Linear(3, 2);
            using var line = nn.Linear(3, 2);
            var modules = new Dictionary<string, nn.Module>(StringComparer.Ordinal) { ["idle"] = idle, ["line"] = line };
            using var trainer = new StagedTrainer(new Idle(modules)).AddStage(
                new TrainingStage
                {
                    Name = "one",
                    Data = new Points(),
                    Steps = steps,
                    LearningRate = 0.1,
                }
            );
            if (save)
            {
                trainer.SaveTo(new CheckpointOptions { Folder = folder.Path });
            }

            if (resume)
            {
                trainer.Resume(folder.Path);
            }

            await trainer.RunAsync();
            return Tiny.Weights(("idle", idle), ("line", line));
        }
    }

    [Fact]
    public void The_load_report_lists_what_initialization_left_out()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var a = nn.Linear(3, 2);
        using var b = nn.Linear(3, 2, hasBias: false);
        a.SaveWeights(folder["a.safetensors"]);
        using var trainer = new StagedTrainer(new Line(b)).InitializeFrom(
            folder["a.safetensors"],
            options: new LoadOptions { Strict = false, Copy = true }
        );
        trainer.LoadReports["line"].Unexpected.ShouldBe(["bias"]);
        trainer.LoadReports["line"].Loaded.ShouldBe(["weight"]);
    }

    [Fact]
    public void Checkpoints_without_a_folder_or_an_interval_are_rejected()
    {
        using var line = nn.Linear(3, 2);
        using var trainer = new StagedTrainer(new Line(line));
        foreach (
            var (options, word) in new[]
            {
                (new CheckpointOptions(), nameof(CheckpointOptions.Folder)),
                (new CheckpointOptions { Folder = "x", EverySteps = 0 }, nameof(CheckpointOptions.EverySteps)),
                (new CheckpointOptions { Folder = "x", Every = TimeSpan.Zero }, nameof(CheckpointOptions.Every)),
                (new CheckpointOptions { Folder = "x", KeepLast = 0 }, nameof(CheckpointOptions.KeepLast)),
            }
        )
        {
            Should.Throw<ArgumentException>(() => trainer.SaveTo(options)).Message.ShouldContain(word);
        }

        Should.Throw<ArgumentOutOfRangeException>(() => new PreviewVideos("x", _ => []) { EverySteps = 0 });
    }

    [Fact]
    public async Task No_tensor_is_left_behind()
    {
        await OnceAsync();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = TensorCount.Now;
        await OnceAsync();
        TensorCount.ShouldBe(before);

        static async Task OnceAsync()
        {
            using var folder = new TemporaryFolder();
            var (model, text) = Tiny.Models();
            using (model)
            using (text)
            using (
                var trainer = new StagedTrainer(model, text)
                    .AddStage(Tiny.Stage())
                    .AddStage(Tiny.Stage("second", 2))
                    .SaveTo(new CheckpointOptions { Folder = folder.Path, EverySteps = 2 })
            )
            {
                await trainer.RunAsync();
            }
        }
    }

    [Fact]
    public async Task A_small_model_learns_equally_well_in_bfloat16()
    {
        var exact = await LossesAsync(null);
        var mixed = await LossesAsync(ScalarType.BFloat16);
        exact.TakeLast(10).Average().ShouldBeLessThan(exact.Take(10).Average() * 0.9);
        mixed[0].ShouldBe(exact[0], exact[0] * 0.02);
        mixed.TakeLast(10).Average().ShouldBe(exact.TakeLast(10).Average(), exact.TakeLast(10).Average() * 0.1);

        static async Task<List<double>> LossesAsync(ScalarType? type)
        {
            var (model, text) = Tiny.Models();
            using (model)
            using (text)
            {
                model.UseComputeType(type);
                text.UseComputeType(type);
                var stage = Tiny.Stage(steps: 80);
                (stage.BatchSize, stage.LearningRate) = (16, 5e-3);
                List<double> losses = [];
                using var trainer = new StagedTrainer(model, text).AddStage(stage);
                await trainer.RunAsync(new ActionProgress(p => losses.Add(p.Loss)));
                model.parameters().ShouldAllBe(parameter => parameter.dtype == ScalarType.Float32);
                return losses;
            }
        }
    }

    [Fact]
    public async Task Parts_of_the_loss_cover_all_accumulated_batches()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            List<TrainingProgress> reported = [];
            using var trainer = new StagedTrainer(model, text).AddStage(
                Tiny.Stage(steps: 3, data: new MixedData((new Numbers(1), 1), (new Numbers(), 1)))
            );
            await trainer.RunAsync(new ActionProgress(reported.Add));
            reported.ShouldAllBe(p => Math.Abs(p.Parts["mse"] + p.Parts["vb"] - p.Loss) < 1e-4 * p.Loss);
        }
    }

    [Fact]
    public async Task Accumulated_batches_count_like_one_large_batch()
    {
        var together = await WeightsAsync(1, 4);
        foreach (
            var apart in new[]
            {
                await WeightsAsync(4, 1),
                await WeightsAsync(1, 4, workers: 3),
                await WeightsAsync(2, 2, workers: 2),
                await WeightsAsync(1, 4, workers: 9),
            }
        )
        {
            foreach (var (name, values) in together)
            {
                for (var i = 0; i < values.Length; i++)
                {
                    apart[name][i].ShouldBe(values[i], 1e-5);
                }
            }
        }

        static async Task<Dictionary<string, float[]>> WeightsAsync(int accumulation, int batch, int workers = 1)
        {
            manual_seed(3);
            using var line = nn.Linear(3, 2);
            using var trainer = new StagedTrainer(new Line(line)).AddStage(
                new TrainingStage
                {
                    Name = "line",
                    Data = new Points(),
                    Steps = 5,
                    BatchSize = batch,
                    Accumulation = accumulation,
                    Workers = workers,
                    LearningRate = 1e-2,
                    ClipGradientNorm = null,
                    EmaDecay = null,
                }
            );
            await trainer.RunAsync();
            return Tiny.Weights(("line", line));
        }
    }

    [Fact]
    public async Task Several_workers_give_the_same_weights_in_every_run_and_leave_libtorch_its_threads()
    {
        var threads = get_num_threads();
        var first = await RunAsync();
        Tiny.ShouldBeSame(await RunAsync(), first);
        get_num_threads().ShouldBe(threads);

        static async Task<Dictionary<string, float[]>> RunAsync()
        {
            var (model, text) = Tiny.Models();
            using (model)
            using (text)
            {
                var stage = Tiny.Stage();
                (stage.BatchSize, stage.Workers) = (5, 3);
                using var trainer = new StagedTrainer(model, text).AddStage(stage);
                await trainer.RunAsync();
                return Tiny.Weights(("model", model), ("text", text));
            }
        }
    }

    [Fact]
    public async Task An_exception_in_a_worker_ends_the_run_and_leaves_no_tensor()
    {
        using var line = nn.Linear(3, 2);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = TensorCount.Now;
        using (
            var trainer = new StagedTrainer(new FailsOnAnotherThread(new Line(line))).AddStage(
                new TrainingStage
                {
                    Name = "line",
                    Data = new Points(),
                    Steps = 5,
                    BatchSize = 4,
                    Workers = 2,
                    EmaDecay = null,
                }
            )
        )
        {
            (await Should.ThrowAsync<InvalidDataException>(() => trainer.RunAsync())).Message.ShouldBe("bad sample");
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Invalid_settings_are_rejected_by_name()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            Refused(stage => stage.Steps = 0, nameof(TrainingStage.Steps));
            Refused(stage => stage.Data = null, nameof(TrainingStage.Data));
            Refused(stage => stage.LearningRate = double.NaN, nameof(TrainingStage.LearningRate));
            Refused(stage => stage.Beta2 = 1, "betas");
            Refused(stage => stage.EmaDecay = 1.5, nameof(TrainingStage.EmaDecay));
            Refused(stage => stage.ClipGradientNorm = -1, nameof(TrainingStage.ClipGradientNorm));
            Refused(stage => stage.Workers = 0, nameof(TrainingStage.Workers));
            using var empty = new StagedTrainer(model);
            Should.Throw<InvalidOperationException>(() =>
            {
                _ = empty.RunAsync();
            });

            void Refused(Action<TrainingStage> change, string word)
            {
                var stage = Tiny.Stage();
                change(stage);
                using var trainer = new StagedTrainer(model, text).AddStage(stage);
                Should
                    .Throw<InvalidOperationException>(() =>
                    {
                        _ = trainer.RunAsync();
                    })
                    .Message.ShouldContain(word);
            }
        }
    }

    // Knows two modules, and trains one for two steps, then both.
    private sealed class Idle(IReadOnlyDictionary<string, nn.Module> modules) : ITrainingObjective
    {
        public IReadOnlyDictionary<string, nn.Module> Modules => modules;

        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator)
        {
            var late = batch.Video[0, 0].item<float>() > 0;
            var output = ((nn.Module<Tensor, Tensor>)modules["line"]).call(batch.Video);
            if (late)
            {
                output = output + ((nn.Module<Tensor, Tensor>)modules["idle"]).call(batch.Video);
            }

            return new((output - batch.Text!).square().mean());
        }
    }

    private sealed class FailsOnAnotherThread(ITrainingObjective inner) : ITrainingObjective
    {
        private int _calls;

        public IReadOnlyDictionary<string, nn.Module> Modules => inner.Modules;

        // The first step works; in the second, the worker that has a thread of its own fails.
        public TrainingLoss Loss(TrainingBatch batch, TrainingStage stage, Generator generator) =>
            Interlocked.Increment(ref _calls) > 2 && !Thread.CurrentThread.IsThreadPoolThread
                ? throw new InvalidDataException("bad sample")
                : inner.Loss(batch, stage, generator);
    }
}
