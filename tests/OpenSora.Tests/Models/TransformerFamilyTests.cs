using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static OpenSora.Tests.Models.TransformerFamily;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Tests that apply to every architecture and attention order.</summary>
public class TransformerFamilyTests
{
    public static TheoryData<string> Names => TransformerFamily.Names;

    [Theory]
    [MemberData(nameof(Names))]
    public void Checkpointed_gradients_equal_plain_ones(string name)
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        using (var model = Make(name))
        {
            var module = (nn.Module)model;
            var (x, t, conditions) = Inputs(model);
            var (plainOutput, plain) = Gradients(on: false);
            var (output, checkpointed) = Gradients(on: true);
            Difference(output, plainOutput).ShouldBe(0);
            foreach (var (parameter, gradient) in plain)
            {
                gradient.abs().max().item<float>().ShouldBeGreaterThan(0, parameter);
                (Difference(checkpointed[parameter], gradient) / gradient.abs().max().item<float>()).ShouldBeLessThan(1e-6, parameter);
            }

            (Tensor Output, Dictionary<string, Tensor> Gradients) Gradients(bool on)
            {
                module.UseGradientCheckpointing(on);
                module.zero_grad();
                var runs = 0;
                var hooks = module
                    .named_modules()
                    .Where(part => part.name.Contains("blocks.", StringComparison.Ordinal))
                    .Select(part => part.module)
                    .OfType<Mlp>()
                    .Select(mlp =>
                        mlp.register_forward_hook(
                            (_, _, output) =>
                            {
                                runs++;
                                return output;
                            }
                        )
                    )
                    .ToList();
                var y = model.Denoise(x, t, conditions);
                y.square().mean().backward();
                hooks.ForEach(hook => hook.remove());
                runs.ShouldBe(on ? 4 : 2); // two blocks, which run again in the backward pass
                return (
                    y.detach(),
                    module.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad.ShouldNotBeNull(p.name).clone(), StringComparer.Ordinal)
                );
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Bfloat16_matrix_multiplications_stay_near_float32(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(name);
        var (x, t, conditions) = Inputs(model);
        var exact = model.Denoise(x, t, conditions);
        ((nn.Module)model).UseComputeType(ScalarType.BFloat16);
        var rough = model.Denoise(x, t, conditions);
        rough.dtype.ShouldBe(ScalarType.Float32);
        (Difference(rough, exact) / exact.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.1);
        ((nn.Module)model).UseComputeType(null);
        Difference(model.Denoise(x, t, conditions), exact).ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_call_leaves_one_tensor_whatever_the_size(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Make(name);
        foreach (var (frames, height, width) in new[] { (3, 4, 6), (1, 6, 2), (5, 8, 8) })
        {
            var (x, t, conditions) = Inputs(model, frames, height, width);
            var before = TensorCount.Now;
            var y = model.Denoise(x, t, conditions);
            TensorCount.ShouldBe(before + 1);
            y.shape.ShouldBe([2, 8, frames, height, width]);
            y.isfinite().all().item<bool>().ShouldBeTrue();
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Frames_see_each_other_and_their_order(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(name);
        var (x, t, conditions) = Inputs(model);
        var output = model.Denoise(x, t, conditions);

        var changed = x.clone();
        changed.narrow(2, 2, 1).add_(1);
        Difference(output.narrow(2, 0, 1), model.Denoise(changed, t, conditions).narrow(2, 0, 1)).ShouldBeGreaterThan(1e-4);

        var backwards = model.Denoise(x.flip(2), t, conditions).flip(2);
        Difference(backwards, output).ShouldBeGreaterThan(1e-4);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Dropped_captions_become_the_null_caption(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(name);
        var nothing = model.NullCaption(2);
        nothing.shape.ShouldBe([2, model.TextTokens, model.TextWidth]);
        var (x, t, conditions) = Inputs(model);
        var unconditional = model.Denoise(x, t, conditions with { Text = nothing });
        Difference(unconditional, model.Denoise(x, t, conditions)).ShouldBeGreaterThan(1e-4);
        var drop = tensor(new[] { true, true });
        var dropped = model switch
        {
            StdiT stdit => stdit.forward(x, t, conditions.Text, conditions.TextMask, drop),
            DiT dit => Training(dit, x, t, conditions),
            _ => throw new InvalidOperationException(name),
        };
        Difference(dropped, unconditional).ShouldBe(0);

        static Tensor Training(DiT dit, Tensor x, Tensor t, DenoiserConditions conditions)
        {
            using var always = Randomised(new DiT(dit.Config with { ClassDropoutProb = 1 }));
            foreach (var (key, value) in always.state_dict())
            {
                value.copy_(dit.state_dict()[key]);
            }

            always.train();
            return always.Denoise(x, t, conditions);
        }
    }

    [Theory]
    [InlineData("STDiT serial")]
    [InlineData("STDiT parallel")]
    [InlineData("STDiT interleaved")]
    [InlineData("STDiT full")]
    [InlineData("PixArtMS")]
    public void Conditioning_frames_are_at_time_zero_in_any_order(string name)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(name);
        var (x, t, conditions) = Inputs(model);
        var plain = model.Denoise(x, t, conditions);
        Tensor With(params bool[] noisy) => model.Denoise(x, t, conditions with { NoisyFrames = tensor([.. noisy, .. noisy], [2, 3]) });
        Difference(With(true, true, true), plain).ShouldBeLessThan(1e-5);
        var given = With(false, true, true);
        Difference(given.narrow(2, 1, 2), plain.narrow(2, 1, 2)).ShouldBeGreaterThan(1e-4);
        Difference(given.narrow(2, 1, 2), With(true, true, false).narrow(2, 1, 2)).ShouldBeGreaterThan(1e-4);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_seed_reproduces_the_initial_values(string name)
    {
        using var scope = NewDisposeScope();
        using var model = Make(name);
        List<Tensor> Values()
        {
            using var generator = new Generator(3);
            if (model is DiT dit)
            {
                dit.Initialize(generator);
            }
            else
            {
                ((StdiT)model).Initialize(generator);
            }

            return [.. ((nn.Module)model).state_dict().Values.Select(value => value.detach().clone())];
        }
        foreach (var (first, second) in Values().Zip(Values()))
        {
            Difference(first, second).ShouldBe(0);
        }

        using var noGradients = no_grad();
        var (x, t, conditions) = Inputs(model);
        model.Denoise(x, t, conditions).abs().max().item<float>().ShouldBe(0); // a new model predicts nothing
    }

    [Fact]
    public void Presets_have_the_sizes_that_their_names_say()
    {
        static (int, int, int, int) Sizes(TransformerConfig config) => (config.HiddenSize, config.Depth, config.NumHeads, config.PatchSize[0]);
        foreach (var (letter, channels, depth, heads) in new[] { ("S", 384, 12, 6), ("B", 768, 12, 12), ("L", 1024, 24, 16), ("XL", 1152, 28, 16) })
        {
            foreach (
                var config in new TransformerConfig[]
                {
                    DiTConfig.Preset($"DiT-{letter}/2"),
                    DiTConfig.Preset($"Latte-{letter}/2"),
                    StdiTConfig.Preset($"STDiT-{letter}/2"),
                }
            )
            {
                Sizes(config).ShouldBe((channels, depth, heads, 1));
            }
        }
        Sizes(DiTConfig.Preset("DiT-XL/2x2")).ShouldBe((1152, 28, 16, 2));
        Sizes(DiTConfig.Preset("Latte-XL/2x2")).ShouldBe((1152, 28, 16, 2));
        (DiTConfig.Preset("DiT-S/2").AttentionOrder, DiTConfig.Preset("DiT-S/2").CaptionChannels).ShouldBe((AttentionOrder.Full, 512));
        (DiTConfig.Preset("Latte-S/2").AttentionOrder, DiTConfig.Preset("Latte-S/2").CaptionChannels).ShouldBe((AttentionOrder.Interleaved, 512));
        var many = StdiTConfig.Preset("PixArtMS-XL/2");
        (many.SizeConditioning, many.StretchPositions, many.SpaceScale, many.AttentionOrder).ShouldBe((true, true, 2.0, AttentionOrder.Full));
        foreach (var name in DiTConfig.Presets)
        {
            DiTConfig.Preset(name).Validate();
        }

        foreach (var name in StdiTConfig.Presets)
        {
            StdiTConfig.Preset(name).Validate();
        }
    }

    [Fact]
    public void Latte_and_PixArt_reject_invalid_configurations()
    {
        var before = TensorCount.Now;
        Should
            .Throw<ArgumentException>(() => new DiT(DiTConfig.Latte with { NumHeads = 5 }))
            .Message.ShouldStartWith("The configuration DiTConfig is invalid: HiddenSize 1152");
        Should
            .Throw<ArgumentException>(() => new StdiT(StdiTConfig.PixArt with { Depth = 0 }))
            .Message.ShouldStartWith("The configuration StdiTConfig is invalid: Depth is 0");
        Should
            .Throw<ArgumentException>(() => new StdiT(StdiTConfig.PixArt with { HiddenSize = 32, NumHeads = 4, SizeConditioning = true }))
            .Message.ShouldContain("multiple of 3");
        Should
            .Throw<ArgumentException>(() => new StdiT(new StdiTConfig { AttentionOrder = (AttentionOrder)7 }))
            .Message.ShouldContain("the known orders are Serial, Parallel, Interleaved, Full");
        Should.Throw<ArgumentException>(() => DiTConfig.Preset("Latte")).Message.ShouldContain("Known presets: DiT-S/2");
        Should.Throw<ArgumentException>(() => StdiTConfig.Preset("PixArt")).Message.ShouldContain("PixArt-XL/2, PixArtMS-XL/2");
        TensorCount.ShouldBe(before);

        using var scope = NewDisposeScope();
        using var plain = (StdiT)Make("PixArt");
        using var sized = (StdiT)Make("PixArtMS");
        var (x, t, conditions) = Inputs(plain);
        var size = ones(2, 2);
        Should
            .Throw<ArgumentException>(() => plain.forward(x, t, conditions.Text, null, null, size: size))
            .Message.ShouldContain("not conditioned on the size");
        var one = ones(1, 2);
        Should
            .Throw<ArgumentException>(() => sized.forward(x, t, conditions.Text, null, null, size: one))
            .Message.ShouldContain("The sizes have shape [1, 2]; expected [2, 2]");
    }

    [Fact]
    public void PixArt_for_multiple_sizes_is_conditioned_on_the_size()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make("PixArtMS");
        var (x, t, conditions) = Inputs(model);
        var output = model.Denoise(x, t, conditions);
        Difference(output, model.Denoise(x, t, conditions with { Height = 64 })).ShouldBeGreaterThan(1e-4);
        Difference(output, ((StdiT)model).forward(x, t, conditions.Text, conditions.TextMask)).ShouldBe(0); // 8 pixels a latent
        Difference(output, model.Denoise(x, t, new DenoiserConditions(conditions.Text, conditions.TextMask))).ShouldBe(0);
    }
}
