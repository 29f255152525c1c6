using OpenSora.Benchmarks;
using OpenSora.Models;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

[CollectionDefinition(nameof(GradientCheckpointingTests), DisableParallelization = true)] // measures the memory of the process
[Collection(nameof(GradientCheckpointingTests))]
public class GradientCheckpointingTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 1)]
    [InlineData(1, 3)]
    [InlineData(2, 2)]
    public async Task Gradients_stay_the_same(int workers, int slices)
    {
        var before = TensorCount.Now;
        var kept = await GradientsAsync(checkpointing: false, workers);
        var computedAgain = await GradientsAsync(checkpointing: true, workers, slices);
        computedAgain.Keys.ShouldBe(kept.Keys);
        kept.Keys.ShouldContain("model.blocks.1.attn_temp.qkv.weight");
        foreach (var (name, expected) in kept)
        {
            var scale = Math.Max(1e-3, expected.Max(Math.Abs));
            expected.Zip(computedAgain[name]).Max(pair => Math.Abs(pair.First - pair.Second) / scale).ShouldBeLessThan(1e-6, name);
        }
        kept.Values.Count(gradient => gradient.Any(value => value != 0)).ShouldBe(kept.Count);
        TensorCount.ShouldBe(before);
    }

    // Gradients of a batch with masked captions, temporal attention and a text encoder, read through the optimizer: after one step from zero, AdamW's
    // mean is a tenth of them.
    private static async Task<Dictionary<string, float[]>> GradientsAsync(bool checkpointing, int workers, int slices = 1)
    {
        using var folder = new TemporaryFolder();
        var (model, text) = Randomised();
        using (model)
        using (text)
        {
            var stage = Tiny.Stage(steps: 1);
            (stage.GradientCheckpointing, stage.Workers, stage.ClipGradientNorm) = (checkpointing, workers, null);
            stage.CheckpointSlices = slices;
            using (var trainer = new StagedTrainer(model, text).AddStage(stage).SaveTo(new CheckpointOptions { Folder = folder.Path }))
            {
                await trainer.RunAsync();
            }

            using var scope = NewDisposeScope();
            using var file = Weights.SafetensorsFile.Open(Checkpoint.Newest(folder.Path)!);
            const string Means = "adam.mean.";
            return file
                .Tensors.Keys.Where(name => name.StartsWith(Means, StringComparison.Ordinal))
                .Order(StringComparer.Ordinal)
                .ToDictionary(name => name[Means.Length..], name => file.Read(name).data<float>().ToArray(), StringComparer.Ordinal);
        }
    }

    // Parameters that start at zero would hide what lies behind them.
    private static (StdiT Model, T5TextEncoder Text) Randomised()
    {
        var (model, text) = Tiny.Models();
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var generator = new Generator(5);
        foreach (var parameter in model.parameters())
        {
            parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
        }

        return (model, text);
    }

    [Fact]
    public void A_graph_holds_the_inputs_of_blocks_only()
    {
        using var model = new StdiT(
            new StdiTConfig
            {
                InputSize = [8, 32, 32],
                HiddenSize = 64,
                Depth = 6,
                NumHeads = 4,
                CaptionChannels = 8,
                ModelMaxLength = 4,
                ClassDropoutProb = 0,
            }
        );
        using var scope = NewDisposeScope();
        var (x, t, y) = (randn([2, 4, 8, 32, 32]), zeros(2), randn([2, 1, 4, 8]));
        // 2 x 8 x 256 tokens of 64 floats are 1 MiB; a block computes dozens of these, attention's weights not counted.
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Memory is read from /proc.");
        Held(on: true); // libraries are loaded, one block's memory has been had
        var held = Enumerable.Range(0, 4).Min(_ => Held(on: true)); // other memory of the process only adds to it
        held.ShouldBeLessThan(40 << 20); // 10 MiB were measured, and 183 without checkpointing
        Held(on: false).ShouldBeGreaterThan(120 << 20);

        long Held(bool on)
        {
            using var inner = NewDisposeScope();
            model.UseGradientCheckpointing(on);
            var before = ResidentMemory.Start();
            var loss = model.forward(x, t, y, null).square().mean();
            var grown = (long)(Environment.WorkingSet - before);
            ResidentMemory.Stop();
            loss.backward();
            model.zero_grad();
            return grown;
        }
    }

    [Fact]
    public void Frozen_parameters_get_no_gradient_and_the_rest_do()
    {
        var (model, text) = Randomised();
        using (text)
        using (model.UseGradientCheckpointing())
        using (NewDisposeScope())
        {
            foreach (var (name, parameter) in model.named_parameters())
            {
                parameter.requires_grad_(name.Contains("attn_temp", StringComparison.Ordinal));
            }

            model.eval();
            model.forward(randn([1, 2, 2, 4, 4]), zeros(1), randn([1, 1, 4, 8]), null).square().mean().backward();
            foreach (var (name, parameter) in model.named_parameters())
            {
                (parameter.grad is not null).ShouldBe(name.Contains("attn_temp", StringComparison.Ordinal), name);
            }
        }
    }
}
