using OpenSora.Diffusion;
using static TorchSharp.torch;

namespace OpenSora.Tests.Diffusion;

public sealed class GuidanceTests
{
    private static Tensor Conditional(Tensor x) => cat([x, x + 10], 1);

    private static Tensor Unconditional(Tensor x) => cat([-x, x - 10], 1);

    private static Tensor Doubled(Tensor x, Tensor t)
    {
        t.shape.ShouldBe([x.shape[0]]);
        var n = x.shape[0] / 2;
        return cat([Conditional(x.narrow(0, 0, n)), Unconditional(x.narrow(0, n, n))]);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(1)]
    [InlineData(null)]
    public void Guidance_changes_the_guided_channels_only(int? channels)
    {
        using var scope = NewDisposeScope();
        var (x, t) = (ones(2, 4, 2, 2), ones(2));
        foreach (
            var guided in new[]
            {
                Sampling.ClassifierFreeGuidance(Doubled, 4, channels),
                Sampling.ClassifierFreeGuidance((a, _) => Conditional(a), (a, _) => Unconditional(a), 4, channels),
            }
        )
        {
            var output = guided(x, t);
            output.shape.ShouldBe([2, 8, 2, 2]);
            for (var c = 0; c < 8; c++)
            {
                var expected =
                    c < (channels ?? 4) ? -1f + 4 * 2
                    : c < 4 ? 1f
                    : 11f;
                output[1, c, 0, 1].item<float>().ShouldBe(expected);
            }
        }
    }

    [Fact]
    public void A_model_without_learned_variance_can_be_guided()
    {
        using var scope = NewDisposeScope();
        var guided = Sampling.ClassifierFreeGuidance((x, _) => x, (x, _) => -x, 2);
        guided(ones(1, 4, 2), ones(1)).sum().item<float>().ShouldBe(3 * 8);
    }

    [Fact]
    public void A_scale_of_1_skips_the_unconditional_call()
    {
        Denoiser conditional = (x, _) => x;
        Sampling.ClassifierFreeGuidance(conditional, (_, _) => throw new InvalidOperationException("called"), 1).ShouldBeSameAs(conditional);
    }

    [Fact]
    public void Samplers_name_the_published_channels()
    {
        new Iddpm(10).GuidedChannels.ShouldBe(3);
        new Ddim(10).GuidedChannels.ShouldBe(3);
        new DpmSolver(10).GuidedChannels.ShouldBeNull();
    }

    [Fact]
    public void Invalid_input_is_rejected()
    {
        using var scope = NewDisposeScope();
        Should.Throw<ArgumentOutOfRangeException>(() => Sampling.ClassifierFreeGuidance(Doubled, double.NaN));
        Should.Throw<ArgumentOutOfRangeException>(() => Sampling.ClassifierFreeGuidance(Doubled, 4, 0));
        Should
            .Throw<InvalidOperationException>(() => Sampling.ClassifierFreeGuidance(Doubled, 4, 5)(ones(2, 4, 2, 2), ones(2)))
            .Message.ShouldContain("5 channels");
        Should
            .Throw<InvalidOperationException>(() => Sampling.ClassifierFreeGuidance((x, _) => x.narrow(0, 0, 2), 4)(ones(2, 4, 2, 2), ones(2)))
            .Message.ShouldContain("doubled the batch to 4");
    }
}
