using OpenSora.Diffusion;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>STDiT2 and STDiT3.</summary>
public class MultiResolutionTests
{
    private static readonly StdiT2Config Small2 = new()
    {
        InputSqSize = 32,
        HiddenSize = 48,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 6,
    };
    private static readonly StdiT3Config Small3 = new()
    {
        InputSqSize = 32,
        HiddenSize = 32,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 6,
    };

    /// <summary>A small model of either kind whose parameters are all different from zero.</summary>
    private static (nn.Module Module, IVideoTransformer Model) Make(string kind, double dropout = 0)
    {
        nn.Module module = kind is "stdit2"
            ? new StdiT2(Small2 with { ClassDropoutProb = dropout })
            : new StdiT3(Small3 with { ClassDropoutProb = dropout });
        using var generator = new Generator(1);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var parameter in module.parameters().Where(parameter => parameter.requires_grad))
        {
            parameter.normal_(0, 0.2, generator);
        }

        module.eval();
        return (module, (IVideoTransformer)module);
    }

    private static (Tensor X, Tensor T, DenoiserConditions Conditions) Inputs(int frames = 3, int height = 4, int width = 6)
    {
        using var generator = new Generator(7);
        return (
            randn([2, 4, frames, height, width], generator: generator),
            arange(1, 3, ScalarType.Float32) * 100,
            new(randn([2, 6, 12], generator: generator))
            {
                Frames = frames,
                Height = 8 * height,
                Width = 8 * width,
                FramesPerSecond = 8,
            }
        );
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Theory]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public void A_new_model_predicts_nothing_and_turns_by_the_published_frequencies(string kind)
    {
        using var scope = NewDisposeScope();
        using nn.Module model = kind is "stdit2" ? new StdiT2(Small2) : new StdiT3(Small3);
        model.eval();
        var (x, t, conditions) = Inputs();
        ((IVideoTransformer)model).Denoise(x, t, conditions).abs().max().item<float>().ShouldBe(0);
        var pairs = (kind is "stdit2" ? 12 : 8) / 2;
        var frequencies = model.state_dict()["rope.freqs"].data<float>().ToArray();
        frequencies
            .Zip(Enumerable.Range(0, pairs), (actual, i) => Math.Abs(actual - Math.Pow(10000, -(double)i / pairs)))
            .Max()
            .ShouldBeLessThan(1e-7);
        model.parameters().Count(parameter => !parameter.requires_grad).ShouldBe(1);
    }

    [Theory]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public void Every_size_runs_and_bfloat16_stays_near(string kind)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (module, model) = Make(kind);
        using var owned = module;
        var (x, t, conditions) = Inputs(frames: 5, height: 3, width: 7);
        var exact = model.Denoise(x, t, conditions);
        exact.shape.ShouldBe([2, 8, 5, 3, 7]);
        var rough = module.UseComputeType(ScalarType.BFloat16);
        var output = model.Denoise(x, t, conditions);
        output.dtype.ShouldBe(ScalarType.Float32);
        (Difference(output, exact) / exact.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.1);
    }

    [Theory]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public void What_the_model_is_told_counts(string kind)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (module, model) = Make(kind);
        using var owned = module;
        var (x, t, conditions) = Inputs();
        var plain = model.Denoise(x, t, conditions);
        Difference(model.Denoise(x, t, conditions with { FramesPerSecond = 24 }), plain).ShouldBeGreaterThan(1e-4);
        Difference(model.Denoise(x, t, conditions with { Height = 64, Width = 96 }), plain).ShouldBeGreaterThan(1e-4);
        Difference(model.Denoise(x, t, conditions with { Text = conditions.Text + 1 }), plain).ShouldBeGreaterThan(1e-4);
        var rates = model.Denoise(x, t, conditions with { FrameRates = tensor(new[] { 8f, 24f }) });
        Difference(rates[0], plain[0]).ShouldBeLessThan(1e-5);
        Difference(rates[1], plain[1]).ShouldBeGreaterThan(1e-4);
        Difference(rates[1], model.Denoise(x, t, conditions with { FrameRates = tensor(new[] { 24f }) })[1]).ShouldBeLessThan(1e-5);
        var dropped = model.Denoise(x, t, conditions with { DroppedText = tensor(new[] { true, false }) });
        Difference(dropped[0], model.Denoise(x, t, conditions with { Text = model.NullCaption(2) })[0]).ShouldBeLessThan(1e-5);
        Difference(dropped[1], plain[1]).ShouldBeLessThan(1e-5);
        if (kind is "stdit2")
        {
            Difference(model.Denoise(x, t, conditions with { Frames = 6 }), plain).ShouldBeGreaterThan(1e-4);
        }
    }

    [Theory]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public void Given_frames_are_modulated_as_at_time_zero(string kind)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (module, model) = Make(kind);
        using var owned = module;
        var (x, t, conditions) = Inputs();
        var plain = model.Denoise(x, t, conditions);
        var all = ones(2, 3, dtype: ScalarType.Bool);
        Difference(model.Denoise(x, t, conditions with { NoisyFrames = all }), plain).ShouldBeLessThan(1e-5);
        var some = all.clone();
        some[0, 1] = false;
        var output = model.Denoise(x, t, conditions with { NoisyFrames = some });
        Difference(output[0], plain[0]).ShouldBeGreaterThan(1e-3);
        Difference(output[1], plain[1]).ShouldBeLessThan(1e-5);
    }

    [Theory]
    [InlineData("stdit2", false)]
    [InlineData("stdit2", true)]
    [InlineData("stdit3", false)]
    [InlineData("stdit3", true)]
    public void Every_parameter_gets_the_same_gradient_with_checkpointing_and_no_tensor_is_left(string kind, bool frames)
    {
        var before = TensorCount.Now;
        using (var scope = NewDisposeScope())
        {
            var (plain, checkpointed) = (Gradients(checkpointing: false), Gradients(checkpointing: true));
            plain.Keys.ShouldContain(name => name.EndsWith("k_norm.weight", StringComparison.Ordinal));
            foreach (var (name, gradient) in plain)
            {
                gradient.abs().max().item<float>().ShouldBeGreaterThan(0, name);
                (Difference(gradient, checkpointed[name]) / gradient.abs().max().item<float>()).ShouldBeLessThan(1e-4, name);
            }
        }
        TensorCount.ShouldBe(before);

        Dictionary<string, Tensor> Gradients(bool checkpointing)
        {
            var (module, model) = Make(kind);
            using var owned = module.UseGradientCheckpointing(checkpointing);
            var (x, t, conditions) = Inputs();
            if (frames)
            {
                conditions = conditions with { NoisyFrames = tensor([true, false, true, true, true, false], [2, 3]) };
            }

            model.Denoise(x, t, conditions).square().mean().backward();
            return module
                .named_parameters()
                .Where(pair => pair.parameter.requires_grad)
                .ToDictionary(pair => pair.name, pair => pair.parameter.grad.ShouldNotBeNull(pair.name).clone(), StringComparer.Ordinal);
        }
    }

    [Theory]
    [InlineData("stdit2")]
    [InlineData("stdit3")]
    public void Training_drops_captions(string kind)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (module, model) = Make(kind, dropout: 1);
        using var owned = module;
        var (x, t, conditions) = Inputs();
        var other = conditions with { Text = conditions.Text + 1 };
        Difference(model.Denoise(x, t, conditions), model.Denoise(x, t, other)).ShouldBeGreaterThan(0);
        module.train();
        Difference(model.Denoise(x, t, conditions), model.Denoise(x, t, other)).ShouldBe(0);
        module.eval();
        Difference(model.Denoise(x, t, conditions with { Text = model.NullCaption(2) }), Trained()).ShouldBeLessThan(1e-5);

        Tensor Trained()
        {
            module.train();
            return model.Denoise(x, t, conditions);
        }
    }

    [Fact]
    public void The_order_of_norm_and_rotation_counts()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var first = new StdiT2(Small2);
        using var second = new StdiT2(Small2 with { QkNormLegacy = false });
        using var generator = new Generator(3);
        foreach (var (a, b) in first.parameters().Zip(second.parameters()))
        {
            b.copy_(a.requires_grad ? a.normal_(0, 0.3, generator) : a);
        }

        var (x, t, conditions) = Inputs();
        first.eval();
        second.eval();
        Difference(first.call(x, t, conditions), second.call(x, t, conditions)).ShouldBeGreaterThan(1e-5);
    }

    [Fact]
    public void Rotation_makes_products_depend_on_the_distance_alone()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var rope = new Rope(8);
        rope.Initialize();
        using var generator = new Generator(5);
        var (q, k) = (
            rope.call(randn([1, 1, 8], generator: generator).expand(1, 9, 8)),
            rope.call(randn([1, 1, 8], generator: generator).expand(1, 9, 8))
        );
        var products = q.matmul(k.transpose(1, 2))[0];
        for (var distance = -3; distance <= 3; distance++)
        {
            Difference(
                    products[1 + Math.Max(0, -distance), 1 + Math.Max(0, distance)],
                    products[5 + Math.Max(0, -distance), 5 + Math.Max(0, distance)]
                )
                .ShouldBeLessThan(1e-4);
        }

        Difference(products[0, 0], products[0, 5]).ShouldBeGreaterThan(1e-2);
        (q.square().sum(-1).max() - q.square().sum(-1).min()).item<float>().ShouldBeLessThan(1e-4f);
    }

    [Fact]
    public void Bad_configurations_and_shapes_are_refused()
    {
        var before = TensorCount.Now;
        foreach (
            var (config, message) in new (TransformerConfig, string)[]
            {
                (Small2 with { HiddenSize = 32 }, "HiddenSize 32 is not a multiple of 3"),
                (Small2 with { NumHeads = 16 }, "not an even multiple of NumHeads 16"),
                (Small3 with { HiddenSize = 36, NumHeads = 4 }, "not an even multiple of NumHeads 4"),
                (Small3 with { PatchSize = [1, 2] }, "PatchSize is [1, 2]"),
                (Small3 with { Depth = 0 }, "Depth is 0"),
                (Small3 with { InputSqSize = -1 }, "InputSqSize is -1"),
            }
        )
        {
            Should
                .Throw<ArgumentException>(() => config is StdiT2Config two ? (nn.Module)new StdiT2(two) : new StdiT3((StdiT3Config)config))
                .Message.ShouldContain(message);
        }

        TensorCount.ShouldBe(before);
        Should.Throw<ArgumentException>(() => StdiT2Config.Preset("STDiT2-S/2")).Message.ShouldContain("Known presets: STDiT2-XL/2");
        Should.Throw<ArgumentException>(() => StdiT3Config.Preset("STDiT2-XL/2")).Message.ShouldContain("Known presets: STDiT3-XL/2");

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (module, model) = Make("stdit3");
        using var owned = module;
        var (x, t, conditions) = Inputs();
        foreach (
            var (call, message) in new (Action, string)[]
            {
                (() => model.Denoise(x.narrow(1, 0, 3), t, conditions), "The latents have shape [2, 3, 3, 4, 6]; expected [batch, 4"),
                (() => model.Denoise(x, t.narrow(0, 0, 1), conditions), "The timesteps have shape [1]; expected [2]"),
                (() => model.Denoise(x, t, conditions with { Text = zeros(2, 7, 12) }), "with at most 6 tokens"),
                (() => model.Denoise(x, t, conditions with { TextMask = ones(2, 5) }), "expected [rows, 6]"),
                (() => model.Denoise(x, t, conditions with { TextMask = zeros(2, 6) }), "A row of the text mask has no token"),
                (() => model.Denoise(x, t, conditions with { NoisyFrames = ones(2, 3) }), "expected booleans [2, 3]"),
                (() => model.Denoise(x, t, conditions with { FrameRates = ones(3) }), "The frame rates have shape [3]"),
                (() => model.Denoise(x, t, conditions with { DroppedText = ones(2) }), "The mask of dropped texts is Float32"),
                (() => model.Denoise(x, t, new DenoiserConditions(conditions.Text)), "1 frames of 0x0 pixels"),
            }
        )
        {
            Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
        }
    }
}
