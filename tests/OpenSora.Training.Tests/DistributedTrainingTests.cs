using OpenSora.Models;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
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
        Action<StagedTrainer>? prepare = null
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
        trainer.RunAsync(new ActionProgress(steps.Add)).GetAwaiter().GetResult();
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
