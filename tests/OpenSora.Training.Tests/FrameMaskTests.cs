using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

public class FrameMaskTests
{
    private static string Draw(FrameMask mask, int frames, Random random) =>
        string.Concat(FrameMaskedData.Noisy(mask, frames, random).Select(noisy => noisy ? '1' : '0'));

    [Fact]
    public void Masks_match_their_names()
    {
        var random = new Random(1);
        var expected = new Dictionary<FrameMask, string>
        {
            [FrameMask.Random] = "^[01]{8}$",
            [FrameMask.Interpolate] = "^(01){4}$|^(10){4}$",
            [FrameMask.QuarterRandom] = "^1*(0|00)1*$",
            [FrameMask.QuarterHead] = "^(0|00)1{6,7}$",
            [FrameMask.QuarterTail] = "^1{6,7}(0|00)$",
            [FrameMask.QuarterHeadTail] = "^(01{6}0|001{4}00)$",
            [FrameMask.ImageRandom] = "^1*01*0?1*$",
            [FrameMask.ImageHead] = "^01{7}$",
            [FrameMask.ImageTail] = "^1{7}0$",
            [FrameMask.ImageHeadTail] = "^01{6}0$",
        };
        expected.Keys.ShouldBe(Enum.GetValues<FrameMask>());
        foreach (var (mask, pattern) in expected)
        {
            for (var i = 0; i < 50; i++)
            {
                Draw(mask, 8, random).ShouldMatch(pattern, mask.ToString());
                Draw(mask, 2, random).ShouldContain("1", Case.Sensitive, $"{mask}: something is left to learn");
                Draw(mask, 1, random).ShouldBe("1", "an image is not masked");
            }
        }
        Enumerable
            .Range(0, 100)
            .Select(_ => Draw(FrameMask.QuarterRandom, 8, random))
            .Distinct(StringComparer.Ordinal)
            .Count()
            .ShouldBeGreaterThan(8);
    }

    [Fact]
    public async Task The_published_fractions_are_met_and_batches_are_reproducible()
    {
        TrainingData.OpenSora11FrameMasks.Values.Sum().ShouldBe(0.25, 1e-9);
        TrainingData.OpenSora12FrameMasks.Values.Sum().ShouldBe(0.25, 1e-9);
        var data = new FrameMaskedData(new Numbers(frames: 8));
        data.Fingerprint.ShouldBe(
            "numbers 8, masks QuarterRandom 0.025 QuarterHead 0.025 QuarterTail 0.025 QuarterHeadTail 0.05 "
                + "ImageRandom 0.025 ImageHead 0.025 ImageTail 0.025 ImageHeadTail 0.05"
        );
        var masked = 0;
        for (var number = 0; number < 20; number++)
        {
            using var batch = await data.GetBatchAsync(number, 100, 3);
            using var again = await data.GetBatchAsync(number, 100, 3);
            var rows = batch.NoisyFrames!.data<bool>().ToArray();
            rows.ShouldBe(again.NoisyFrames!.data<bool>().ToArray());
            masked += rows.Chunk(8).Count(row => row.Contains(false));
        }
        (masked / 2000.0).ShouldBe(0.25, 0.03);

        var stills = new FrameMaskedData(new Numbers(frames: 1), new Dictionary<FrameMask, double> { [FrameMask.ImageHead] = 1 });
        using var images = await stills.GetBatchAsync(0, 5, 1);
        images.NoisyFrames.ShouldBeNull();
        Should
            .Throw<ArgumentException>(() =>
                new FrameMaskedData(new Numbers(), new Dictionary<FrameMask, double> { [FrameMask.ImageHead] = 0.7, [FrameMask.ImageTail] = 0.4 })
            )
            .Message.ShouldContain("0.7");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_model_learns_from_conditioning_frames_with_either_process(bool flow)
    {
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            var data = new FrameMaskedData(new Numbers(), new Dictionary<FrameMask, double> { [FrameMask.ImageHead] = 0.6 });
            var stage = Tiny.Stage(steps: 3, data: data);
            stage.Workers = 2;
            var losses = new List<TrainingProgress>();
            using var trainer = new StagedTrainer(new DiffusionTraining(model, text, flow ? new RectifiedFlow(logitNormal: true) : null)).AddStage(
                stage
            );
            await trainer.RunAsync(new ActionProgress(losses.Add));
            losses.Count.ShouldBe(3);
            losses.ShouldAllBe(p => double.IsFinite(p.Loss) && p.Loss > 0 && p.GradientNorm > 0);
            losses[0].Parts.Keys.ShouldBe(flow ? ["mse"] : ["mse", "vb"]);
        }
    }

    [Fact]
    public void A_model_without_support_for_conditioning_frames_is_rejected()
    {
        using var scope = NewDisposeScope();
        using var model = new DiT(
            new DiTConfig
            {
                InputSize = [2, 4, 4],
                InChannels = 2,
                HiddenSize = 16,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = 8,
            }
        );
        using var generator = new Generator(1);
        var batch = new TrainingBatch(randn([1, 2, 2, 4, 4]), randn([1, 4, 8]), null, tensor([false, true], [1, 2]));
        Should
            .Throw<ArgumentException>(() => new DiffusionTraining(model).Loss(batch, new TrainingStage(), generator))
            .Message.ShouldContain("DiT does not support them");
    }

    [Fact]
    public void Conditioning_frames_are_seen_as_clean_by_the_other_frames()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (model, text) = Tiny.Models();
        using (model)
        using (text)
        {
            model.eval();
            foreach (var parameter in model.parameters())
            {
                parameter.add_(randn(parameter.shape) * 0.1f);
            }

            var (x, y) = (randn([1, 2, 2, 4, 4]), randn([1, 1, 4, 8]));
            Tensor Second(params bool[] noisy) =>
                model.forward(x, tensor(new[] { 700f }), y, null, null, noisy.Length == 0 ? null : tensor(noisy, [1, noisy.Length])).select(2, 1);
            float Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();
            Difference(Second(true, true), Second()).ShouldBeLessThan(1e-6f);
            Difference(Second(false, true), Second()).ShouldBeGreaterThan(1e-4f);
            model.TemporalAttention = false; // frames do not see each other
            Difference(Second(false, true), Second()).ShouldBeLessThan(1e-6f);
            Should.Throw<ArgumentException>(() => Second(true, true, true)).Message.ShouldContain("[1, 3]");
        }
    }
}
