using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

public sealed class RectifiedFlowTests
{
    private static Tensor Noise(long seed, params long[] shape)
    {
        using var generator = new Generator((ulong)seed);
        return randn(shape, generator: generator);
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(7, true)]
    public void Along_straight_lines_sampling_arrives_in_any_number_of_steps(int steps, bool shifted)
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            var (x0, noise) = (Noise(1, 2, 4, 3, 4, 4), Noise(2, 2, 4, 3, 4, 4));
            var flow = new RectifiedFlow(samplingSteps: steps, shiftBySize: shifted);
            (flow.Sample((_, _) => x0 - noise, noise) - x0).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void The_exact_velocity_has_no_loss_and_learned_channels_are_left_out()
    {
        var before = TensorCount.Now;
        using (var scope = NewDisposeScope())
        {
            var (x0, noise, t) = (Noise(1, 2, 4, 3, 4, 4), Noise(2, 2, 4, 3, 4, 4), tensor(new[] { 100f, 900f }));
            using var losses = new RectifiedFlow().TrainingLosses((x, _) => cat([x0 - noise, x], 1), x0, t, noise);
            losses.Total.abs().max().item<float>().ShouldBe(0);
            losses.Parts.ContainsKey("vb").ShouldBeFalse();
        }

        TensorCount.ShouldBe(before);
    }

    [Theory]
    [InlineData(false, 0.5, 0.2887)] // uniform: deviation 1 / sqrt(12)
    [InlineData(true, 0.5, 0.2083)] // the logistic function of a standard normal number
    public void Timesteps_are_drawn_as_configured(bool logitNormal, double mean, double deviation)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        var x0 = zeros([20_000, 1, 1, 1, 1]);
        var times = new RectifiedFlow(logitNormal: logitNormal).DrawTimesteps(x0, generator).Timesteps / 1000;
        times.mean().item<float>().ShouldBe((float)mean, 0.01f);
        times.std().item<float>().ShouldBe((float)deviation, 0.01f);
        times.min().item<float>().ShouldBeGreaterThanOrEqualTo(0);
        times.max().item<float>().ShouldBeLessThanOrEqualTo(1);
    }

    [Fact]
    public void Times_are_shifted_by_the_size()
    {
        using var scope = NewDisposeScope();
        // 4 frames of 512x512: twice as long as sqrt says, so that 0.5 becomes 2 * 0.5 / (1 + 0.5).
        var flow = new RectifiedFlow(shiftBySize: true, samplingSteps: 2);
        var seen = new List<float>();
        flow.Sample(
            (x, t) =>
            {
                seen.Add(t[0].item<float>());
                return x;
            },
            zeros([1, 1, 4, 64, 64])
        );
        seen.ShouldBe([1000, 2000f / 3], 1e-3);

        float[] Draw(bool shift)
        {
            using var generator = new Generator(5);
            return new RectifiedFlow(shiftBySize: shift, wholeSteps: true)
                .DrawTimesteps(zeros([9, 1, 4, 64, 64]), generator)
                .Timesteps.data<float>()
                .ToArray();
        }

        var plain = Draw(shift: false);
        plain.ShouldAllBe(time => time == Math.Floor(time) && time < 1000);
        Draw(shift: true).ShouldBe(plain.Select(time => 2 * time / (1 + time / 1000)), 1e-3);
    }

    [Fact]
    public void Conditioning_frames_do_not_change()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            var latents = Noise(1, 1, 2, 3, 2, 2);
            var reported = new List<bool[]>();
            var sample = new RectifiedFlow(samplingSteps: 4).SampleFrames(
                (x, _, frames) =>
                {
                    reported.Add(frames.data<bool>().ToArray());
                    return ones_like(x);
                },
                latents,
                tensor(new[] { 0f, 0.5f, 1f }).reshape(1, 3)
            );
            reported.ShouldBe([
                [false, false, true],
                [false, false, true],
                [false, true, true],
                [false, true, true],
            ]);
            (sample - latents)[0, 0, 0].abs().max().item<float>().ShouldBe(0);
            (sample - latents)[0, 0, 2]
                .ShouldSatisfyAllConditions(
                    moved => moved.min().item<float>().ShouldBe(1, 1e-5f),
                    moved => moved.max().item<float>().ShouldBe(1, 1e-5f)
                );
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Inputs_that_do_not_fit_are_rejected()
    {
        using var scope = NewDisposeScope();
        var flow = new RectifiedFlow();
        var x0 = zeros([2, 4, 3, 2, 2]);
        Should.Throw<ArgumentOutOfRangeException>(() => new RectifiedFlow(samplingSteps: 0)).ParamName.ShouldBe("samplingSteps");
        Should.Throw<ArgumentOutOfRangeException>(() => new RectifiedFlow(steps: 0)).ParamName.ShouldBe("steps");
        Should.Throw<ArgumentOutOfRangeException>(() => new RectifiedFlow(spatialFactor: 0)).ParamName.ShouldBe("spatialFactor");
        Should.Throw<ArgumentException>(() => new RectifiedFlow(lossWeights: [1, 2])).Message.ShouldContain("must be 1000 finite");
        Should.Throw<ArgumentException>(() => flow.AddNoise(x0, zeros([3]), x0)).Message.ShouldContain("and [2]; got");
        Should
            .Throw<InvalidOperationException>(() => flow.TrainingLosses((x, _) => x.narrow(1, 0, 3), x0, zeros([2])))
            .Message.ShouldContain("[2, 3, 3, 2, 2]");
        Should
            .Throw<ArgumentException>(() => flow.TrainingLosses((x, _) => x, x0, zeros([2]), noisyFrames: ones([2, 2], ScalarType.Bool)))
            .Message.ShouldContain("[2, 2]");
        Should
            .Throw<ArgumentException>(() => new RectifiedFlow(shiftBySize: true).Sample((x, _) => x, zeros([1, 4, 4, 4])))
            .Message.ShouldContain("[1, 4, 4, 4]");
    }
}
