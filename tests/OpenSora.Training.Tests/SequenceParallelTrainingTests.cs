using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Distributed;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Training with samples that several processes compute together, here threads with models of their own, equals training with one
/// process.</summary>
public class SequenceParallelTrainingTests
{
    private static readonly Lock Creating = new(); // the global generator belongs to all threads

    // 5 frames, which no number of processes shares equally; a single frame, which every process computes.
    [Theory]
    [InlineData(2, 2, 5, Sharding.None, false)]
    [InlineData(3, 3, 5, Sharding.None, true)]
    [InlineData(4, 2, 5, Sharding.OptimizerState, false)]
    [InlineData(4, 2, 5, Sharding.Gradients, true)]
    [InlineData(4, 2, 1, Sharding.None, false)]
    public void LossesAndWeightsAreThoseOfOneProcess(int processes, int sequence, int frames, Sharding sharding, bool checkpointing)
    {
        var stage = Stage(frames, checkpointing);
        var expected = Train(null, stage);
        expected.Steps.Count.ShouldBe(4);

        var options = new DistributedOptions
        {
            SequenceProcesses = sequence,
            Sharding = sharding,
            BucketBytes = 4000,
        };
        var members = InProcessCollectives.Run(processes, member => Train(member, stage, options));

        var first = members[0].Steps;
        first.ConvertAll(step => step.Samples).ShouldBe(expected.Steps.ConvertAll(step => step.Samples));
        for (var i = 0; i < first.Count; i++)
        {
            first[i].Loss.ShouldBe(expected.Steps[i].Loss, 1e-5);
            first[i].GradientNorm.ShouldBe(expected.Steps[i].GradientNorm, 1e-4 * Math.Max(1, expected.Steps[i].GradientNorm));
        }

        foreach (var member in members)
        {
            Tiny.ShouldBeSame(member.Weights, members[0].Weights);
            foreach (var (name, values) in expected.Weights)
            {
                values.Zip(member.Weights[name], (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThan(2e-5f, name);
            }
        }
    }

    [Fact]
    public void WhatCannotBeDividedIsRefused()
    {
        InProcessCollectives.Run(3, member =>
        {
            var (model, text) = Models(1);
            using var trainer = new StagedTrainer(model, text);
            Should
                .Throw<ArgumentException>(() => trainer.UseCollectives(member, new DistributedOptions { SequenceProcesses = 2 }))
                .Message.ShouldStartWith("SequenceProcesses is 2, but there are 3 processes.");
            Should
                .Throw<ArgumentException>(() => trainer.UseCollectives(member, new DistributedOptions { SequenceProcesses = 0 }))
                .Message.ShouldStartWith("SequenceProcesses is 0; it must be at least 1.");
        });

        // Every member fails before the first step.
        Refused(stage => stage.Workers = 2).ShouldAllBe(error => error.StartsWith("Stage 'one' has Workers 2, but with SequenceProcesses 2"));
        Refused(_ => { }, AttentionOrder.Full).ShouldAllBe(error => error.Contains("attends to the tokens of all frames", StringComparison.Ordinal));
        using var line = nn.Linear(3, 2);
        InProcessCollectives
            .Run(2, member =>
            {
                using var trainer = new StagedTrainer(new Line(line));
                trainer.AddStage(Tiny.Stage("one", 1, new Points())).UseCollectives(member, new DistributedOptions { SequenceProcesses = 2 });
                return Should.Throw<InvalidOperationException>(() => Wait(trainer.RunAsync())).Message;
            })
            .ShouldAllBe(error => error.StartsWith("SequenceProcesses is 2, but no transformer is trained", StringComparison.Ordinal));
    }

    [Fact]
    public void CallbacksCanUseTheModelInTheFirstProcess()
    {
        var videos = InProcessCollectives.Run(2, member =>
        {
            var (model, text) = Models(1);
            using var trainer = new StagedTrainer(model, text);
            trainer.AddStage(Stage(5, false)).UseCollectives(member, new DistributedOptions { SequenceProcesses = 2 });
            var calls = 0;
            trainer
                .RunAsync(
                    new ActionProgress(_ =>
                    {
                        using var scope = NewDisposeScope();
                        using var noGradients = no_grad();
                        model.Denoise(
                            ones([1, 2, 5, 4, 4]),
                            ones(1),
                            new DenoiserConditions(ones(1, 4, 8)) { DroppedText = zeros(1, ScalarType.Bool) }
                        );
                        calls++;
                    })
                )
                .GetAwaiter()
                .GetResult();
            return calls;
        });
        videos.ShouldBe([4, 0]);
    }

    private static string[] Refused(Action<TrainingStage> change, AttentionOrder order = AttentionOrder.Serial) =>
        InProcessCollectives.Run(2, member =>
        {
            var (model, text) = Models(1, order);
            using var trainer = new StagedTrainer(model, text);
            var stage = Stage(5, false);
            change(stage);
            trainer.AddStage(stage).UseCollectives(member, new DistributedOptions { SequenceProcesses = 2 });
            return Should.Throw<Exception>(() => Wait(trainer.RunAsync())).Message;
        });

    private static TrainingStage Stage(int frames, bool checkpointing) =>
        new()
        {
            Name = "one",
            Data = new Numbers(frames),
            Steps = 4,
            BatchSize = 3,
            Accumulation = 2,
            LearningRate = 1e-3,
            ClipGradientNorm = 1e-2,
            EmaDecay = 0.9,
            GradientCheckpointing = checkpointing,
        };

    private static (List<TrainingProgress> Steps, Dictionary<string, float[]> Weights) Train(
        InProcessCollectives? member,
        TrainingStage stage,
        DistributedOptions? options = null
    )
    {
        var (model, text) = Models(member is { Rank: > 0 and var other } ? 100 + other : 1); // those of process 0 count
        using var trainer = new StagedTrainer(model, text);
        trainer.AddStage(stage);
        if (member is not null)
        {
            trainer.UseCollectives(member, options);
        }

        var steps = new List<TrainingProgress>();
        Wait(trainer.RunAsync(new ActionProgress(steps.Add)));
        using var scope = NewDisposeScope();
        return (steps, Tiny.Weights(("model", model), ("text", text)));
    }

    private static (StdiT Model, T5TextEncoder Text) Models(int seed, AttentionOrder order = AttentionOrder.Serial)
    {
        lock (Creating)
        {
            var (model, text) = Tiny.Models(seed);
            return (order == AttentionOrder.Serial ? model : new StdiT(model.Config with { AttentionOrder = order }), text);
        }
    }

    // Members of a group are threads, so they must wait.
    private static void Wait(Task task) => task.GetAwaiter().GetResult();
}
