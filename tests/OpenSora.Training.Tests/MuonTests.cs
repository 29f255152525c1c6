using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Tests the updates of Muon against singular value decompositions in float64, and stages that use it.</summary>
public class MuonTests
{
    private static readonly Lock Creating = new();

    [Theory]
    [InlineData(16, 16, ScalarType.Float32)]
    [InlineData(64, 16, ScalarType.Float32)]
    [InlineData(16, 64, ScalarType.BFloat16)]
    public void Singular_values_become_equal_and_singular_vectors_stay(int rows, int columns, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(1);
        var matrices = randn([3, rows, columns], generator: generator) * tensor(new[] { 1f, 1e-4f, 1e4f }).view(3, 1, 1);

        var made = Muon.Orthogonal(matrices, type).to(ScalarType.Float64);

        for (var i = 0; i < 3; i++)
        {
            var (u, _, v) = linalg.svd(matrices[i].to(ScalarType.Float64), fullMatrices: false);
            var inside = u.transpose(0, 1).matmul(made[i]).matmul(v.transpose(0, 1)); // diagonal if the vectors are the same
            var values = inside.diagonal();
            var most = type == ScalarType.Float32 ? 0.13 : 0.2;
            (values - 1).abs().max().item<double>().ShouldBeLessThan(most);
            (inside - diag(values)).abs().max().item<double>().ShouldBeLessThan(type == ScalarType.Float32 ? 1e-3 : 0.1);
        }
    }

    [Fact]
    public void An_update_is_the_momentum_made_orthogonal_with_the_size_of_the_scale()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(2);
        var start = randn([64, 16], generator: generator);
        var gradients = new[] { randn([64, 16], generator: generator), randn([64, 16], generator: generator) };
        using var weights = new Parameter(start.clone());
        using var mean = zeros_like(start);
        var (expected, momentum) = (start.to(ScalarType.Float64), zeros(64, 16, ScalarType.Float64));
        const double Rate = 0.01,
            Scale = 0.2,
            Decay = 0.1;
        foreach (var gradient in gradients)
        {
            weights.grad = gradient.clone();
            using (no_grad())
            {
                Muon.Step([("model.blocks.0.mlp.fc1.weight", weights, mean)], Rate, Scale, Decay, ScalarType.Float32);
            }

            momentum = momentum * 0.95 + gradient.to(ScalarType.Float64) * 0.05;
            var (u, _, v) = linalg.svd(momentum * 0.95 + gradient.to(ScalarType.Float64) * 0.05, fullMatrices: false);
            expected = expected * (1 - Rate * Decay) - u.matmul(v) * (Rate * Scale * Math.Sqrt(64));
        }

        var change = (weights.detach().to(ScalarType.Float64) - expected).norm().item<double>();
        change.ShouldBeLessThan(0.1 * (expected - start.to(ScalarType.Float64)).norm().item<double>());
        weights.grad = null;
        var before = weights.detach().clone();
        Muon.Step([("model.blocks.0.mlp.fc1.weight", weights, mean)], Rate, Scale, Decay, ScalarType.Float32);
        weights.detach().eq(before).all().item<bool>().ShouldBeTrue("a matrix without a gradient stays as it is");
    }

    [Fact]
    public void Entries_of_an_update_have_the_root_mean_square_of_the_scale_whatever_the_shape()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        foreach (var (rows, columns) in new[] { (16, 16), (64, 16), (16, 128) })
        {
            using var weights = new Parameter(zeros(rows, columns)) { grad = randn([rows, columns], generator: generator) };
            using var mean = zeros(rows, columns);
            using (no_grad())
            {
                Muon.Step([("blocks.0.weight", weights, mean)], 1, 0.2, 0, ScalarType.Float32);
            }

            weights.detach().square().mean().sqrt().item<float>().ShouldBe(0.2f, 0.02f);
        }
    }

    [Fact]
    public void Queries_keys_and_values_are_separate_matrices()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(4);
        var gradients = Enumerable.Range(1, 3).Select(size => randn([16, 16], generator: generator) * size).ToArray();
        using var whole = new Parameter(zeros(48, 16)) { grad = cat(gradients) };
        var parts = gradients.Select(gradient => new Parameter(zeros(16, 16)) { grad = gradient }).ToArray();
        using (no_grad())
        {
            Muon.Step([("blocks.0.attn.qkv.weight", whole, zeros(48, 16))], 1, 0.2, 0, ScalarType.Float32);
            Muon.Step(parts.Select((part, i) => ($"blocks.{i}.proj.weight", part, zeros(16, 16))), 1, 0.2, 0, ScalarType.Float32);
        }

        (whole.detach() - cat([.. parts.Select(part => part.detach())])).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void Only_matrices_of_blocks_use_Muon_and_they_keep_no_squares()
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            var parameters = model.named_parameters().Select(pair => ("model." + pair.name, pair.parameter)).ToArray();
            using var optimizer = new AdamWOptimizers(parameters, new TrainingStage { MuonScale = 0.2 });
            var muon = parameters.Where((_, i) => optimizer.State(i).Square is null).Select(pair => pair.Item1).ToArray();
            muon.Length.ShouldBe(2 * 9); // qkv and proj twice, q_linear, kv_linear, proj, fc1 and fc2
            muon.ShouldAllBe(name =>
                name.StartsWith("model.blocks.", StringComparison.Ordinal) && name.EndsWith(".weight", StringComparison.Ordinal)
            );
            using var adamW = new AdamWOptimizers(parameters, new TrainingStage());
            Enumerable.Range(0, parameters.Length).ShouldAllBe(i => adamW.State(i).Square! is object);
        }
    }

    [Fact]
    public async Task A_resumed_run_gives_the_same_weights_bit_for_bit()
    {
        using var folder = new TemporaryFolder();
        var expected = await RunAsync(6, save: null);
        using var canceled = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() =>
            RunAsync(
                6,
                folder.Path,
                new ActionProgress(progress =>
                {
                    if (progress.Step == 3)
                    {
                        canceled.Cancel();
                    }
                }),
                canceled.Token
            )
        );
        Tiny.ShouldBeSame(await RunAsync(6, folder.Path), expected);

        var adamW = await RunAsync(6, save: null, muonScale: null);
        Tiny.AreSame(adamW, expected).ShouldBeFalse();
    }

    [Fact]
    public void Several_processes_give_the_weights_of_one_and_resume()
    {
        using var folder = new TemporaryFolder();
        Dictionary<string, float[]> Train(OpenSora.Distributed.ICollectives? member, int steps, string? save)
        {
            StdiT model;
            T5TextEncoder text;
            lock (Creating) // the global generator belongs to all threads
            {
                (model, text) = Tiny.Models();
            }

            using (model)
            using (text)
            {
                using var trainer = new StagedTrainer(model, text).AddStage(Stage(6, 0.2));
                if (member is not null)
                {
                    trainer.UseCollectives(member);
                }

                if (save is not null)
                {
                    trainer.SaveTo(new CheckpointOptions { Folder = save }).Resume(save, ifAny: true);
                }

                using var source = new CancellationTokenSource();
                var stop = new ActionProgress(progress =>
                {
                    if (progress.Step == steps)
                    {
                        source.Cancel();
                    }
                });
                if (steps < 6)
                {
                    Should.Throw<OperationCanceledException>(() => trainer.RunAsync(stop, source.Token).GetAwaiter().GetResult());
                }
                else
                {
                    trainer.RunAsync().GetAwaiter().GetResult();
                }

                return Tiny.Weights(("model", model));
            }
        }

        var expected = Train(null, 6, null);
        InProcessCollectives.Run(2, member => Train(member, 3, folder.Path));
        var resumed = InProcessCollectives.Run(2, member => Train(member, 6, folder.Path));
        Tiny.ShouldBeSame(resumed[1], resumed[0]);
        foreach (var (name, values) in expected)
        {
            values.Zip(resumed[0][name]).Max(pair => Math.Abs(pair.First - pair.Second)).ShouldBeLessThan(1e-4f, name);
        }
    }

    [Fact]
    public void Settings_that_exclude_each_other_are_refused()
    {
        var stage = Stage(2, 0);
        stage.Problems().ShouldHaveSingleItem().ShouldContain("MuonScale 0; it must be above 0, or null");
        stage.MuonScale = 0.2;
        stage.Problems().ShouldBeEmpty();
        stage.Offload = new OffloadOptions { Optimizer = true };
        stage.Problems().ShouldHaveSingleItem().ShouldContain("which Muon does not support");

        var messages = InProcessCollectives.Run(2, member =>
        {
            StdiT model;
            T5TextEncoder text;
            lock (Creating)
            {
                (model, text) = Tiny.Models();
            }

            using (model)
            using (text)
            {
                using var trainer = new StagedTrainer(model, text).AddStage(Stage(2, 0.2)).UseCollectives(member, Sharding.OptimizerState);
                return Should.Throw<InvalidOperationException>(() => trainer.RunAsync().GetAwaiter().GetResult()).Message;
            }
        });
        messages.ShouldAllBe(message => message.Contains("requires whole matrices, but Sharding is OptimizerState", StringComparison.Ordinal));
    }

    private static TrainingStage Stage(int steps, double? muonScale)
    {
        var stage = Tiny.Stage(steps: steps);
        stage.MuonScale = muonScale;
        return stage;
    }

    private static async Task<Dictionary<string, float[]>> RunAsync(
        int steps,
        string? save,
        IProgress<TrainingProgress>? progress = null,
        CancellationToken cancellationToken = default,
        double? muonScale = 0.2
    )
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            using var trainer = new StagedTrainer(model, text).AddStage(Stage(steps, muonScale));
            if (save is not null)
            {
                trainer.SaveTo(new CheckpointOptions { Folder = save }).Resume(save, ifAny: true);
            }

            await trainer.RunAsync(progress, cancellationToken);
            return Tiny.Weights(("model", model), ("text", text));
        }
    }
}
