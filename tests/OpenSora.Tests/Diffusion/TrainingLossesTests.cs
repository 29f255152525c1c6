using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

public sealed class TrainingLossesTests
{
    private static readonly IddpmSchedule Schedule = IddpmSchedule.Linear();

    private static Tensor Normal(ulong seed, params long[] shape)
    {
        using var generator = new Generator(seed);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void A_perfect_prediction_costs_nothing_but_the_bound()
    {
        using var scope = NewDisposeScope();
        var (x0, noise, t) = (Normal(1, 3, 4, 5, 5), Normal(2, 3, 4, 5, 5), tensor(new long[] { 1, 500, 999 }));
        var losses = new Iddpm(Schedule).TrainingLosses((_, _) => cat([noise, -ones_like(noise)], 1), x0, t, noise);
        losses.Parts["mse"].abs().max().item<float>().ShouldBe(0);
        losses.Parts["vb"].abs().max().item<float>().ShouldBeLessThan(1e-5f); // the posterior itself
        losses.Total.shape.ShouldBe([3]);
        var clean = new Iddpm(Schedule, prediction: Prediction.Sample, variance: Variance.FixedSmall);
        clean.TrainingLosses((_, _) => x0, x0, t, noise).Total.abs().max().item<float>().ShouldBe(0);
    }

    [Fact]
    public void The_denoiser_receives_the_noisy_sample_and_the_original_timesteps()
    {
        using var scope = NewDisposeScope();
        var process = new Iddpm(Schedule.Respace(10), variance: Variance.FixedLarge);
        var (x0, noise, t) = (Normal(1, 2, 4, 3, 3), Normal(2, 2, 4, 3, 3), tensor(new long[] { 1, 9 }));
        process.TrainingLosses(See, x0, t, noise);

        Tensor See(Tensor x, Tensor time)
        {
            time.data<float>().ToArray().ShouldBe([111, 999]);
            var alpha = (float)Schedule.AlphasCumprod[111];
            var expected = MathF.Sqrt(alpha) * x0[0] + MathF.Sqrt(1 - alpha) * noise[0];
            (x[0] - expected).abs().max().item<float>().ShouldBeLessThan(1e-6f);
            return x;
        }
    }

    [Theory]
    [InlineData(DiffusionLoss.Mse)]
    [InlineData(DiffusionLoss.RescaledMse)]
    [InlineData(DiffusionLoss.Kl)]
    [InlineData(DiffusionLoss.RescaledKl)]
    public void Losses_are_made_of_their_parts(DiffusionLoss loss)
    {
        using var scope = NewDisposeScope();
        var (x0, noise, t) = (Normal(1, 3, 4, 3, 3), Normal(2, 3, 4, 3, 3), tensor(new long[] { 0, 3, 19 }));
        var schedule = Schedule.Respace(20);
        TrainingLoss Losses(DiffusionLoss kind) => new Iddpm(schedule, loss: kind).TrainingLosses((x, _) => cat([0.3 * x, 0.2 * x], 1), x0, t, noise);

        var losses = Losses(loss);
        var (mse, bound) = (Losses(DiffusionLoss.Mse).Parts["mse"], Losses(DiffusionLoss.Mse).Parts["vb"]);
        var expected = loss switch
        {
            DiffusionLoss.Mse => mse + bound,
            DiffusionLoss.RescaledMse => mse + bound * 0.02,
            DiffusionLoss.Kl => bound,
            _ => bound * 20,
        };
        losses.Total.data<float>().ToArray().ShouldBe(expected.data<float>().ToArray(), 1e-4f);
        losses.Parts.ContainsKey("mse").ShouldBe(loss is DiffusionLoss.Mse or DiffusionLoss.RescaledMse);
        bound.min().item<float>().ShouldBeGreaterThan(0);
    }

    [Theory]
    [InlineData(Variance.FixedSmall)]
    [InlineData(Variance.FixedLarge)]
    public void A_fixed_variance_has_a_bound_only_in_the_kl_losses(Variance variance)
    {
        using var scope = NewDisposeScope();
        var (x0, t) = (Normal(1, 3, 4, 3, 3), tensor(new long[] { 0, 300, 999 }));
        var mse = new Iddpm(Schedule, variance: variance).TrainingLosses((x, _) => 0.5 * x, x0, t);
        mse.Parts.ContainsKey("vb").ShouldBeFalse();
        mse.Total.data<float>().ToArray().ShouldBe(mse.Parts["mse"].data<float>().ToArray());
        var kl = new Iddpm(Schedule, variance: variance, loss: DiffusionLoss.Kl).TrainingLosses((x, _) => 0.5 * x, x0, t);
        kl.Total.data<float>().ToArray().ShouldAllBe(value => float.IsFinite(value) && value > 0);
    }

    [Fact]
    public void The_bound_is_the_divergence_of_two_normal_distributions()
    {
        using var scope = NewDisposeScope();
        var (x0, noise) = (Normal(1, 1, 1, 4, 4), Normal(2, 1, 1, 4, 4));
        var process = new Iddpm(Schedule, variance: Variance.FixedLarge, loss: DiffusionLoss.Kl);
        var bits = process.TrainingLosses((x, _) => zeros_like(x), x0, tensor(new long[] { 400 }), noise).Total.item<float>();

        // With no noise predicted, the means differ by coefficient * noise * sqrt(1 - a) / sqrt(a).
        var (a, small, large) = (Schedule.AlphasCumprod[400], Schedule.PosteriorVariance[400], Schedule.Betas[400]);
        var shift = Schedule.PosteriorMeanCoef1[400] * Math.Sqrt((1 - a) / a);
        var expected =
            0.5 * (Math.Log(large / small) - 1 + small / large + shift * shift * noise.square().mean().item<float>() / large) / Math.Log(2);
        bits.ShouldBe((float)expected, 1e-4f);
    }

    [Fact]
    public void The_bound_trains_the_variance_only()
    {
        using var scope = NewDisposeScope();
        var (x0, noise, t) = (Normal(1, 2, 4, 3, 3), Normal(2, 2, 4, 3, 3), tensor(new long[] { 0, 700 }));
        Tensor Gradient(DiffusionLoss loss, bool boundOnly)
        {
            var output = Normal(3, 2, 8, 3, 3);
            output.requires_grad_();
            var losses = new Iddpm(Schedule, loss: loss).TrainingLosses((_, _) => output, x0, t, noise);
            (boundOnly ? losses.Parts["vb"] : losses.Total).sum().backward();
            return output.grad!;
        }

        var bound = Gradient(DiffusionLoss.Mse, boundOnly: true);
        bound.narrow(1, 0, 4).abs().max().item<float>().ShouldBe(0);
        bound.narrow(1, 4, 4).abs().min().item<float>().ShouldBeGreaterThan(0);
        Gradient(DiffusionLoss.Mse, boundOnly: false).narrow(1, 0, 4).abs().min().item<float>().ShouldBeGreaterThan(0);
        Gradient(DiffusionLoss.Kl, boundOnly: false).narrow(1, 0, 4).abs().max().item<float>().ShouldBeGreaterThan(0);
    }

    [Fact]
    public void Short_types_are_widened()
    {
        using var scope = NewDisposeScope();
        var x0 = Normal(1, 2, 4, 3, 3).to_type(ScalarType.BFloat16);
        var losses = new Iddpm(Schedule).TrainingLosses((x, _) => cat([x, x], 1).to_type(ScalarType.BFloat16), x0, tensor(new long[] { 3, 4 }));
        losses.Total.dtype.ShouldBe(ScalarType.Float32);
    }

    [Fact]
    public void Only_the_losses_remain_in_memory()
    {
        using var x0 = Normal(1, 2, 4, 3, 3);
        using var t = tensor(new long[] { 0, 4 });
        var live = TensorCount.Start();
        var losses = new Iddpm(Schedule).TrainingLosses((x, _) => cat([x, x], 1), x0, t);
        live.More.ShouldBe(3);
        losses.Dispose();
        live.More.ShouldBe(0);
        Should.Throw<InvalidOperationException>(() => new Iddpm(Schedule).TrainingLosses((x, _) => x, x0, t)).Message.ShouldContain("[2, 8, 3, 3]");
        live.More.ShouldBe(0);
    }

    [Fact]
    public void Invalid_input_is_rejected()
    {
        using var scope = NewDisposeScope();
        var process = new Iddpm(Schedule.Respace(10));
        var x0 = Normal(1, 2, 4, 3, 3);
        Denoiser model = (x, _) => cat([x, x], 1);
        Should
            .Throw<ArgumentOutOfRangeException>(() => process.TrainingLosses(model, x0, tensor(new long[] { 0, 10 })))
            .Message.ShouldContain("0 to 9");
        Should
            .Throw<ArgumentOutOfRangeException>(() => process.TrainingLosses(model, x0, tensor(new long[] { 0, 1L << 32 })))
            .Message.ShouldContain("0 to 9");
        Should.Throw<ArgumentException>(() => process.TrainingLosses(model, x0, tensor(new long[] { 0, 1, 2 }))).Message.ShouldContain("[2]");
        Should.Throw<ArgumentException>(() => process.TrainingLosses(model, x0, tensor(new float[] { 0, 1 }))).Message.ShouldContain("int64");
        Should
            .Throw<ArgumentException>(() => process.TrainingLosses(model, x0, tensor(new long[] { 0, 1 }), x0[0]))
            .Message.ShouldContain("[4, 3, 3]");
    }

    [Fact]
    public void Uniform_timesteps_cover_the_process_evenly()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(1);
        var batch = new UniformTimesteps().Sample(10_000, 10, generator);
        var counts = new int[10];
        foreach (var step in batch.Timesteps.data<long>().ToArray())
        {
            counts[step]++;
        }

        counts.ShouldAllBe(count => count > 850 && count < 1150);
        batch.Weights.data<float>().ToArray().ShouldAllBe(weight => weight == 1);
        Should.Throw<ArgumentOutOfRangeException>(() => new UniformTimesteps().Sample(0, 10));
    }

    [Theory]
    [InlineData(Prediction.Noise)]
    [InlineData(Prediction.Sample)]
    public void Min_snr_weights_only_the_squared_error(Prediction prediction)
    {
        using var scope = NewDisposeScope();
        var (x0, noise, t) = (randn([3, 4, 3, 3]), randn([3, 4, 3, 3]), tensor(new long[] { 0, 500, 999 }));
        TrainingLoss Losses(double? gamma) =>
            new Iddpm(Schedule, prediction: prediction, minSnrGamma: gamma).TrainingLosses((x, _) => cat([0.5 * x, 0.1 * x], 1), x0, t, noise);
        var (plain, weighted) = (Losses(null), Losses(5));
        var actual = ((weighted.Total - weighted.Parts["vb"]) / plain.Parts["mse"]).data<float>().ToArray();

        // SNR = a / (1 - a): 9999 at the first step, of which 5 are left; 0.0849 in the middle and 4e-5 at the end, below 5.
        double[] snr = [9999, 0.0785 / (1 - 0.0785), 4.0358e-5 / (1 - 4.0358e-5)];
        double[] expected = prediction == Prediction.Sample ? [5, snr[1], snr[2]] : [5 / snr[0], 1, 1];
        for (var i = 0; i < 3; i++)
        {
            (actual[i] / expected[i]).ShouldBe(1, 0.01);
        }

        (weighted.Parts["vb"] - plain.Parts["vb"]).abs().max().item<float>().ShouldBe(0);
        (weighted.Parts["mse"] - plain.Parts["mse"]).abs().max().item<float>().ShouldBe(0);
        Should.Throw<ArgumentException>(() => new Iddpm(Schedule, minSnrGamma: 5, loss: DiffusionLoss.Kl)).Message.ShouldContain("Kl");
    }

    [Fact]
    public void Conditioning_frames_stay_clean_and_do_not_count()
    {
        using var scope = NewDisposeScope();
        var (x0, noise, t) = (randn([2, 4, 3, 2, 2]), randn([2, 4, 3, 2, 2]), tensor(new long[] { 0, 700 }));
        var mask = tensor(new[] { true, false, true, true, true, true }, [2, 3]);
        var process = new Iddpm(Schedule);
        Tensor? noisy = null;
        var masked = process.TrainingLosses((x, _) => cat([noisy = x.clone().DetachFromDisposeScope(), 0.1 * x], 1), x0, t, noise, noisyFrames: mask);
        using var seen = noisy!;
        var plain = process.TrainingLosses((x, _) => cat([x, 0.1 * x], 1), x0, t, noise);
        (seen.select(2, 1)[0] - x0.select(2, 1)[0]).abs().max().item<float>().ShouldBe(0);
        (seen - process.AddNoise(x0, t, noise)).select(2, 2).abs().max().item<float>().ShouldBe(0);

        // The second sample has no given frame; the first one's loss is the mean over its other two.
        masked.Total[1].item<float>().ShouldBe(plain.Total[1].item<float>(), 1e-6f);
        var others = tensor(new long[] { 0, 2 });
        var two = process.TrainingLosses((x, _) => cat([x, 0.1 * x], 1), x0.index_select(2, others), t, noise.index_select(2, others));
        masked.Parts["mse"][0].item<float>().ShouldBe(two.Parts["mse"][0].item<float>(), 1e-6f);
        masked.Parts["vb"][0].item<float>().ShouldBe(two.Parts["vb"][0].item<float>(), 1e-5f);
    }
}
