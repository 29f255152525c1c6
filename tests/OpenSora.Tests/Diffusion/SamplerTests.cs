using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

public sealed class SamplerTests
{
    private const double Mean = 0.7;
    private const double Deviation = 0.4;
    private static readonly IddpmSchedule Full = IddpmSchedule.Linear();

    public static TheoryData<string> Samplers => ["iddpm", "iddpm fixed", "ddim", "ddim eta", "dpm"];

    private static ISampler Make(string name, int steps) =>
        name switch
        {
            "iddpm" => new Iddpm(steps),
            "iddpm fixed" => new Iddpm(Full.Respace(steps), variance: Variance.FixedSmall),
            "ddim" => new Ddim(new Iddpm(Full.Respace(steps), variance: Variance.FixedLarge)),
            "ddim eta" => new Ddim(new Iddpm(Full.Respace(steps), variance: Variance.FixedLarge), eta: 0.7),
            "dpm" => new DpmSolver(steps),
            _ => throw new ArgumentException($"No sampler '{name}'.", nameof(name)),
        };

    // Something cheap and not linear in t: predicts noise, and a variance where the sampler wants one.
    private static Denoiser Toy(string sampler) =>
        (x, t) =>
        {
            var noise = 0.3 * x + 0.0001 * t.reshape(-1, 1, 1, 1).to_type(x.dtype);
            return sampler is "iddpm" ? cat([noise, 0.1 * x], 1) : noise;
        };

    private static Tensor Noise(long seed, params long[] shape)
    {
        using var generator = new Generator((ulong)seed);
        return randn(shape, generator: generator);
    }

    // The exact answer for normally distributed data: E[noise | x] and, for the learned range, Var[x[t-1] | x[t]].
    private static Denoiser Gaussian(IddpmSchedule? learned = null) =>
        (x, t) =>
        {
            var time = (double)t[0].item<float>();
            var left = Math.Clamp((int)time, 0, 998);
            var (a0, a1) = (0.5 * Math.Log(Full.AlphasCumprod[left]), 0.5 * Math.Log(Full.AlphasCumprod[left + 1]));
            var alpha = Math.Exp(a0 + (time - left) * (a1 - a0));
            var variance = 1 - alpha * alpha;
            var total = alpha * alpha * Deviation * Deviation + variance;
            var noise = Math.Sqrt(variance) / total * (x - alpha * Mean);
            if (learned is null)
            {
                return noise;
            }

            var step = learned.TimestepMap.IndexOf((int)time);
            var coefficient = learned.PosteriorMeanCoef1[step];
            var logVariance = Math.Log(learned.PosteriorVariance[step] + coefficient * coefficient * Deviation * Deviation * variance / total);
            var (small, large) = (learned.PosteriorLogVarianceClipped[step], learned.LogBetas[step]);
            var value = step == 0 ? 0 : 2 * (logVariance - small) / (large - small) - 1;
            return cat([noise, full_like(x, value)], 1);
        };

    [Theory]
    [InlineData(5)]
    [InlineData(50)]
    public void Ancestral_sampling_with_the_right_variance_gives_the_data_distribution(int steps)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        var schedule = Full.Respace(steps);
        var sample = new Iddpm(schedule).Sample(Gaussian(schedule), Noise(3, 100, 4, 10, 10), generator);
        sample.mean().item<float>().ShouldBe((float)Mean, 0.01f); // five standard errors of 40,000 values
        sample.std().item<float>().ShouldBe((float)Deviation, 0.01f);
    }

    [Theory]
    [InlineData(Variance.FixedSmall)]
    [InlineData(Variance.FixedLarge)]
    public void Ancestral_sampling_with_a_fixed_variance_comes_close_in_many_steps(Variance variance)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        var process = new Iddpm(Full.Respace(500), variance: variance);
        var sample = process.Sample(Gaussian(), Noise(3, 100, 4, 10, 10), generator);
        sample.mean().item<float>().ShouldBe((float)Mean, 0.02f);
        sample.std().item<float>().ShouldBe((float)Deviation, 0.02f);
    }

    [Fact]
    public void Ddim_with_noise_gives_the_data_distribution()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        var sample = Make("ddim eta", 300).Sample(Gaussian(), Noise(3, 100, 4, 10, 10), generator);
        sample.mean().item<float>().ShouldBe((float)Mean, 0.02f);
        sample.std().item<float>().ShouldBe((float)Deviation, 0.02f);
    }

    [Theory]
    [InlineData("ddim", 1, 0.03)]
    [InlineData("dpm", 2, 0.02)]
    public void Deterministic_samplers_follow_the_flow_to_the_data_to_their_order(string name, int order, double tolerance)
    {
        var few = Error(100);
        few.ShouldBeLessThan(tolerance);
        (few / Error(200)).ShouldBeInRange(0.75 * (1 << order), 1.25 * (1 << order));

        // The flow keeps each value's place in the normal distribution of its time.
        double Error(int steps)
        {
            using var scope = NewDisposeScope();
            var noise = tensor(new double[] { -1, 0, 1, 2 }).reshape(4, 1, 1, 1);
            var alpha = Math.Sqrt(Full.AlphasCumprod[^1]);
            var total = Math.Sqrt(alpha * alpha * Deviation * Deviation + 1 - alpha * alpha);
            var expected = Mean + Deviation * (noise - alpha * Mean) / total;
            return (Make(name, steps).Sample(Gaussian(), noise) - expected).abs().max().item<double>();
        }
    }

    [Fact]
    public void Predicting_the_clean_sample_gives_the_same_samples_as_predicting_the_noise()
    {
        using var scope = NewDisposeScope();
        var noise = Noise(1, 2, 3, 4, 4).to_type(ScalarType.Float64);
        var sample = new Denoiser((x, t) => x.tanh());
        Denoiser asNoise(Func<double, double> alphaOf) =>
            (x, t) =>
            {
                var alpha = alphaOf(t[0].item<float>());
                return (x - alpha * x.tanh()) / Math.Sqrt(1 - alpha * alpha);
            };

        var schedule = Full.Respace(10);
        var predictsNoise = new Iddpm(schedule, variance: Variance.FixedSmall);
        var predictsSample = new Iddpm(schedule, Prediction.Sample, Variance.FixedSmall);
        var onSteps = asNoise(t => Math.Sqrt(Full.AlphasCumprod[(int)t]));
        Close(new Ddim(predictsSample).Sample(sample, noise), new Ddim(predictsNoise).Sample(onSteps, noise));
        Func<Tensor, Tensor> source = _ => noise;
        Close(Sampling.SampleWith(predictsSample, sample, noise, source), Sampling.SampleWith(predictsNoise, onSteps, noise, source));
        var solver = new DpmSolver(12);
        var continuous = asNoise(t => solver.Alpha((float)((t + 1) / 1000)));
        Close(new DpmSolver(12, prediction: Prediction.Sample).Sample(sample, noise), solver.Sample(continuous, noise), 1e-3);

        static void Close(Tensor left, Tensor right, double tolerance = 1e-6) =>
            (left - right).abs().max().item<double>().ShouldBeLessThan(tolerance);
    }

    [Fact]
    public void Clipping_keeps_the_prediction_in_range()
    {
        using var scope = NewDisposeScope();
        var clipped = new Ddim(new Iddpm(Full.Respace(10), variance: Variance.FixedSmall, clipDenoised: true));
        var noise = Noise(4, 1, 4, 8, 8);
        clipped.Sample(Toy("ddim"), noise).abs().max().item<float>().ShouldBeLessThanOrEqualTo(1);
        Make("ddim", 10).Sample(Toy("ddim"), noise).abs().max().item<float>().ShouldBeGreaterThan(2);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void The_seed_determines_the_result(string name)
    {
        using var scope = NewDisposeScope();
        var noise = Noise(9, 2, 4, 3, 3);
        var before = noise.clone();
        var sampler = Make(name, 6);
        using Generator first = new(1),
            again = new(1),
            other = new(2);
        var a = sampler.Sample(Toy(name), noise, first);
        var b = sampler.Sample(Toy(name), noise, again);
        var c = sampler.Sample(Toy(name), noise, other);
        a.data<float>().ToArray().ShouldBe(b.data<float>().ToArray());
        a.data<float>().ToArray().SequenceEqual(c.data<float>().ToArray()).ShouldBe(name is "ddim" or "dpm");
        noise.data<float>().ToArray().ShouldBe(before.data<float>().ToArray());
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Threads_share_a_sampler(string name)
    {
        var sampler = Make(name, 5);
        var results = new float[4][];
        Parallel.For(0, results.Length, i =>
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator(11);
            results[i] = sampler.Sample(Toy(name), Noise(10, 1, 4, 3, 3), generator).data<float>().ToArray();
        });
        results.ShouldAllBe(result => result.SequenceEqual(results[0]));
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Progress_counts_the_steps(string name)
    {
        using var scope = NewDisposeScope();
        var seen = new Log();
        Make(name, 3).Sample(Toy(name), Noise(1, 1, 4, 2, 2), progress: seen);
        seen.Steps.ShouldBe([1, 2, 3]);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Only_the_sample_remains_in_memory(string name)
    {
        using var noise = Noise(1, 2, 4, 3, 3);
        var live = TensorCount.Start();
        var sample = Make(name, 4).Sample(Toy(name), noise);
        live.More.ShouldBe(1);
        sample.Dispose();
        live.More.ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Canceling_leaves_no_tensor_behind(string name)
    {
        using var noise = Noise(1, 2, 4, 3, 3);
        foreach (var at in new[] { 0, 1, 3 })
        {
            using var cancel = new CancellationTokenSource();
            var seen = new Log(step => CancelAt(step, at, cancel));
            if (at == 0)
            {
                cancel.Cancel();
            }

            var live = TensorCount.Start();
            Should.Throw<OperationCanceledException>(() => Make(name, 5).Sample(Toy(name), noise, progress: seen, cancellationToken: cancel.Token));
            live.More.ShouldBe(0);
            seen.Steps.Count.ShouldBe(at);
        }

        static void CancelAt(int step, int at, CancellationTokenSource cancel)
        {
            if (step == at)
            {
                cancel.Cancel();
            }
        }
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void A_failing_denoiser_leaves_no_tensor_behind(string name)
    {
        using var noise = Noise(1, 2, 4, 3, 3);
        var calls = 0;
        var live = TensorCount.Start();
        Should
            .Throw<NotSupportedException>(() =>
                Make(name, 5).Sample((x, t) => ++calls == 3 ? throw new NotSupportedException("out of order") : Toy(name)(x, t), noise)
            )
            .Message.ShouldBe("out of order");
        live.More.ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Invalid_input_is_rejected(string name)
    {
        using var scope = NewDisposeScope();
        var sampler = Make(name, 5);
        var noise = Noise(1, 2, 4, 3, 3);
        Should.Throw<ArgumentException>(() => sampler.Sample(Toy(name), noise.to_type(ScalarType.Int64))).Message.ShouldContain("float32");
        Should.Throw<ArgumentException>(() => sampler.Sample(Toy(name), noise.reshape(-1))).Message.ShouldContain("[batch, channels, ...]");
        Should.Throw<ArgumentNullException>(() => sampler.Sample(null!, noise));
        Should.Throw<ArgumentNullException>(() => sampler.Sample(Toy(name), null!));
        var message = Should.Throw<InvalidOperationException>(() => sampler.Sample((x, t) => x.narrow(1, 0, 3), noise)).Message;
        message.ShouldContain("[2, 3, 3, 3]");
        message.ShouldContain("[2, 4, 3, 3]");
    }

    [Fact]
    public void Invalid_settings_are_rejected()
    {
        foreach (var steps in new[] { 25, 100, 4000 }) // processes of other lengths than the published one end at their own first step
        {
            var solver = new DpmSolver(20, IddpmSchedule.Linear(steps));
            solver.Time(20).ShouldBe(1f / steps);
            using var end = solver.Sample(Toy("dpm"), Noise(1, 1, 2, 3, 3));
            end.isfinite().all().item<bool>().ShouldBeTrue($"{steps} steps");
        }
        Should.Throw<ArgumentOutOfRangeException>(() => new DpmSolver(0));
        Should.Throw<ArgumentException>(() => new DpmSolver(10, Full.Respace(50))).Message.ShouldContain("full schedule");
        Should.Throw<ArgumentOutOfRangeException>(() => new Ddim(10, eta: -0.1));
        Should.Throw<ArgumentOutOfRangeException>(() => new Ddim(10, eta: double.NaN));
        Should.Throw<ArgumentOutOfRangeException>(() => new Iddpm(0));
        Should.Throw<ArgumentException>(() => new Iddpm(IddpmSchedule.Linear(), variance: (Variance)7));
    }

    private sealed class Log(Action<int>? then = null) : IProgress<int>
    {
        public List<int> Steps { get; } = [];

        public void Report(int value)
        {
            Steps.Add(value);
            then?.Invoke(value);
        }
    }
}
