using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

/// <summary>Tests sampling that begins with an existing sample.</summary>
public sealed class SampleFromTests
{
    public static TheoryData<string> Samplers => ["iddpm", "ddim", "dpm", "flow"];

    private static ISampler Make(string name, int steps) =>
        name switch
        {
            "iddpm" => new Iddpm(IddpmSchedule.Linear().Respace(steps), variance: Variance.FixedSmall),
            "ddim" => new Ddim(new Iddpm(IddpmSchedule.Linear().Respace(steps), variance: Variance.FixedSmall)),
            "dpm" => new DpmSolver(steps),
            _ => new RectifiedFlow(steps),
        };

    // A perfect model of data that is one known sample: the noise, or the velocity, that leads to it.
    private static Denoiser Toward(Tensor target, string sampler) =>
        (x, t) =>
        {
            var time = t[0].item<float>();
            if (sampler is "flow")
            {
                return (target - x) / (time / 1000);
            }

            var alpha = Math.Exp(new DpmSolver(20).LogAlpha((time + 1) / 1000));
            return (x - alpha * target) / Math.Sqrt(1 - alpha * alpha);
        };

    private static Tensor Random(long seed)
    {
        using var generator = new Generator((ulong)seed);
        return randn([1, 2, 3, 4, 4], generator: generator);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void The_noise_of_a_step_is_that_of_its_time(string name)
    {
        using var scope = NewDisposeScope();
        var sampler = Make(name, 10);
        var state = new SamplingState(sampler.Timesteps([1, 2, 3, 4, 4]), like => like) { Step = 4 };
        var (clean, noise) = (Random(1), Random(2));
        var noisy = sampler.AddNoise(state, clean, noise);
        var time = state.Timesteps[4];
        var alpha = name is "flow" ? 1 - time / 1000 : Math.Exp(new DpmSolver(20).LogAlpha((float)(time + 1) / 1000));
        var sigma = name is "flow" ? time / 1000 : Math.Sqrt(1 - alpha * alpha);
        (noisy - (alpha * clean + sigma * noise)).abs().max().item<float>().ShouldBeLessThan(1e-4f);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void The_strength_is_the_fraction_of_the_steps(string name)
    {
        using var scope = NewDisposeScope();
        var sampler = Make(name, 10);
        foreach (var (strength, expected) in new[] { (0.01, 1), (0.1, 1), (0.3, 3), (0.55, 6), (1.0, 10) })
        {
            var calls = 0;
            List<int> reports = [];
            using var generator = new Generator(3);
            sampler.SampleFrom(
                (x, t) =>
                {
                    calls++;
                    return Toward(Random(1), name)(x, t);
                },
                Random(2),
                strength,
                generator: generator,
                progress: new Reports(reports)
            );
            calls.ShouldBe(expected);
            reports[0].ShouldBe(10 - expected + 1);
            reports[^1].ShouldBe(10);
        }

        Should.Throw<ArgumentOutOfRangeException>(() => sampler.SampleFrom(Toward(Random(1), name), Random(2), 0));
        Should.Throw<ArgumentOutOfRangeException>(() => sampler.SampleFrom(Toward(Random(1), name), Random(2), 1.01));
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void A_mask_keeps_the_rest_exactly(string name)
    {
        using var scope = NewDisposeScope();
        var (sampler, original, target) = (Make(name, 8), Random(1), Random(2));
        var mask = zeros([1, 1, 3, 4, 4], ScalarType.Bool);
        mask[.., .., 1, ..2] = true;
        using var generator = new Generator(3);
        var sample = sampler.SampleFrom(Toward(target, name), original, 1, mask, generator);
        var difference = (sample - original).abs();
        (difference * ~mask).max().item<float>().ShouldBe(0);
        ((sample - target).abs() * mask).max().item<float>().ShouldBeLessThan(0.05f);

        // While it is denoised, the kept part has the noise of each step, not of another one.
        List<double> noise = [];
        sampler.SampleFrom(
            (x, t) =>
            {
                noise.Add(((x - original) * ~mask).square().mean().item<float>());
                return Toward(target, name)(x, t);
            },
            original,
            1,
            mask,
            generator
        );
        noise.ShouldBe(noise.OrderDescending());
    }

    [Fact]
    public void A_sampler_that_adds_no_noise_is_refused()
    {
        using var scope = NewDisposeScope();
        ISampler sampler = new Plain();
        sampler.SupportsEditing.ShouldBeFalse();
        Should.Throw<NotSupportedException>(() => sampler.SampleFrom((x, _) => x, Random(1), 0.5)).Message.ShouldContain("Plain");
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Samplers_report_the_sample_that_they_predict(string name)
    {
        using var scope = NewDisposeScope();
        var (sampler, target) = (Make(name, 6), Random(2));
        var steps = 0;
        Sampling.Run(
            sampler,
            (x, t, _) => Toward(target, name)(x, t),
            Random(1),
            null,
            Sampling.Gaussian(null),
            sampler.Timesteps([1, 2, 3, 4, 4]),
            predicted: (step, predicted) =>
            {
                step.ShouldBe(++steps);
                (predicted - target).abs().max().item<float>().ShouldBeLessThan(0.05f);
            }
        );
        steps.ShouldBe(6);
    }

    private sealed class Reports(List<int> reports) : IProgress<int>
    {
        public void Report(int value) => reports.Add(value);
    }

    private sealed class Plain : ISampler
    {
        public int? GuidedChannels => null;

        public IReadOnlyList<double> Timesteps(long[] shape) => [1, 0];

        public Tensor Step(SamplingState state, Tensor x, Tensor output) => output;
    }
}
