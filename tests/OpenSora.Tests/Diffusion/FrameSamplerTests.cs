using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

/// <summary>Tests that apply to every sampler with conditioning frames.</summary>
public class FrameSamplerTests
{
    public static TheoryData<string> Samplers => ["iddpm", "flow"];

    private static ISampler Make(string name, int steps) => name is "iddpm" ? new Iddpm(steps) : new RectifiedFlow(samplingSteps: steps);

    // A model that knows all: conditioning frames are 2, and so should the others be.
    private static Tensor Toy(string name, Tensor x, Tensor t)
    {
        if (name is "flow")
        {
            return (2 - x) / (t[0].item<float>() / 1000);
        }

        var alpha = Math.Sqrt(IddpmSchedule.Linear().AlphasCumprod[(int)t[0].item<float>()]);
        return cat([(x - alpha * 2) / Math.Sqrt(1 - alpha * alpha), zeros_like(x)], 1);
    }

    private static (Tensor Latents, Tensor Share) Video(params float[] share)
    {
        using var generator = new Generator(1);
        var latents = randn([1, 4, share.Length, 2, 2], generator: generator);
        latents.narrow(2, 0, 1).fill_(2);
        return (latents, tensor(share).reshape(1, -1));
    }

    [Fact]
    public void A_sampler_without_support_for_conditioning_frames_refuses_them()
    {
        using var scope = NewDisposeScope();
        var (latents, share) = Video(0, 1);
        ISampler sampler = new Ddim(5);
        sampler.SupportsConditioningFrames.ShouldBeFalse();
        Should
            .Throw<NotSupportedException>(() => sampler.SampleFrames((x, _, _) => x, latents, share))
            .Message.ShouldContain("Ddim does not support conditioning frames; use a sampler");
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Conditioning_frames_stay_and_the_others_are_generated(string name)
    {
        using var scope = NewDisposeScope();
        var (latents, share) = Video(0, 0.5f, 1);
        var before = latents.clone();
        var reported = new List<bool[]>();
        using var generator = new Generator(2);
        var sample = Make(name, 10)
            .SampleFrames(
                (x, t, noisy) =>
                {
                    reported.Add(noisy.data<bool>().ToArray());
                    return Toy(name, x, t);
                },
                latents,
                share,
                generator
            );
        (sample - 2).abs().max().item<float>().ShouldBeLessThan(0.05f);
        (latents - before).abs().max().item<float>().ShouldBe(0);
        reported.ShouldAllBe(noisy => !noisy[0] && noisy[2]);
        var turn = reported.FindIndex(noisy => noisy[1]);
        turn.ShouldBeInRange(4, 6);
        reported.Skip(turn).ShouldAllBe(noisy => noisy[1]);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Generating_all_frames_again_equals_sampling(string name)
    {
        using var scope = NewDisposeScope();
        var (latents, share) = Video(1, 1);
        var sampler = Make(name, 6);
        var all = sampler.SampleFrames((x, t, _) => Toy(name, x, t), latents, share);
        (all - sampler.Sample((x, t) => Toy(name, x, t), latents)).abs().max().item<float>().ShouldBeLessThan(name is "flow" ? 1e-5f : 0.05f);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Only_the_sample_remains_in_memory(string name)
    {
        using var inputs = NewDisposeScope();
        var (latents, share) = Video(0, 0.3f, 1, 1);
        var live = TensorCount.Start();
        var sample = Make(name, 5).SampleFrames((x, t, _) => Toy(name, x, t), latents, share);
        live.More.ShouldBe(1);
        sample.Dispose();

        using var cancel = new CancellationTokenSource();
        var calls = 0;
        Should.Throw<OperationCanceledException>(() =>
            Make(name, 5)
                .SampleFrames(
                    (x, t, _) =>
                    {
                        if (++calls == 3)
                        {
                            cancel.Cancel();
                        }

                        return Toy(name, x, t);
                    },
                    latents,
                    share,
                    cancellationToken: cancel.Token
                )
        );
        Should.Throw<NotSupportedException>(() =>
            Make(name, 5).SampleFrames((_, _, _) => throw new NotSupportedException("out of order"), latents, share)
        );
        live.More.ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Samplers))]
    public void Invalid_fractions_are_rejected(string name)
    {
        using var scope = NewDisposeScope();
        var (latents, share) = Video(0, 1, 1);
        Should
            .Throw<ArgumentException>(() => Make(name, 3).SampleFrames((x, t, _) => Toy(name, x, t), latents, share.narrow(1, 0, 2)))
            .Message.ShouldContain("[1, 2]");
        Should.Throw<ArgumentNullException>(() => Make(name, 3).SampleFrames((x, t, _) => Toy(name, x, t), latents, null!));
        Should.Throw<ArgumentNullException>(() => Make(name, 3).SampleFrames(null!, latents, share));
    }
}
