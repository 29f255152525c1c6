using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class DiTTests
{
    private static readonly DiTConfig Small = new()
    {
        InputSize = [3, 4, 6],
        HiddenSize = 32,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
    };

    private static DiT Make(DiTConfig config)
    {
        var model = new DiT(config, initialize: false);
        using var generator = new Generator(1);
        model.Initialize(generator);
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var parameter in model.parameters())
        {
            parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
        }

        model.eval();
        return model;
    }

    private static (Tensor X, Tensor T, Tensor Y) Inputs(int frames = 3, int height = 4, int width = 6)
    {
        using var generator = new Generator(7);
        return (
            randn([2, 4, frames, height, width], generator: generator),
            arange(1, 3, ScalarType.Float32) * 100,
            randn([2, 1, 1, 12], generator: generator)
        );
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void The_published_size_has_its_parameters()
    {
        using var model = new DiT(DiTConfig.Preset("DiT-XL/2") with { InputSize = [1, 32, 32], Condition = "label_1000" }, initialize: false);
        // DiT-XL/2 of the paper, 675,129,632, less the position table of 256 x 1152 that the official model counts.
        model.parameters().Sum(parameter => parameter.numel()).ShouldBe(674_834_720);
        model.named_buffers().Select(buffer => buffer.name).ShouldBe(["pos_embed_spatial", "pos_embed_temporal"], ignoreOrder: true);
    }

    [Fact]
    public void A_new_model_predicts_nothing()
    {
        using var scope = NewDisposeScope();
        using var model = new DiT(Small);
        var (x, t, y) = Inputs();
        model.forward(x, t, y).abs().max().item<float>().ShouldBe(0);
    }

    [Fact]
    public void Every_frame_sees_every_other_one()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var (x, t, y) = Inputs();
        var changed = x.clone();
        changed.narrow(2, 2, 1).narrow(3, 3, 1).narrow(4, 5, 1).add_(1);
        var difference = (model.forward(x, t, y) - model.forward(changed, t, y)).abs();
        for (var frame = 0; frame < 3; frame++)
        {
            difference.narrow(2, frame, 1).narrow(3, 0, 1).narrow(4, 0, 1).max().item<float>().ShouldBeGreaterThan(0, $"frame {frame}");
        }
    }

    [Fact]
    public void Other_sizes_run_and_bfloat16_stays_near()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var (x, t, y) = Inputs(frames: 5, height: 6, width: 2);
        var exact = model.forward(x, t, y);
        exact.shape.ShouldBe([2, 8, 5, 6, 2]);
        var rough = model.UseComputeType(ScalarType.BFloat16).forward(x, t, y);
        rough.dtype.ShouldBe(ScalarType.Float32);
        (Difference(rough, exact) / exact.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.05);
    }

    [Theory]
    [InlineData("text")]
    [InlineData("label_7")]
    public void Every_parameter_gets_a_gradient_and_no_tensor_is_left(string condition)
    {
        var before = TensorCount.Now;
        using (var scope = NewDisposeScope())
        {
            using var model = Make(Small with { Condition = condition });
            var (x, t, y) = Inputs();
            model
                .forward(x, t, model.Config.Condition.StartsWith("text", StringComparison.Ordinal) ? y : tensor(new long[] { 0, 6 }))
                .square()
                .mean()
                .backward();
            foreach (var (name, parameter) in model.named_parameters())
            {
                parameter.grad.ShouldNotBeNull(name).abs().max().item<float>().ShouldBeGreaterThan(0, name);
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Training_drops_conditions()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small with { ClassDropoutProb = 1 });
        var (x, t, y) = Inputs();
        var other = y + 1;
        Difference(model.forward(x, t, y), model.forward(x, t, other)).ShouldBeGreaterThan(0);
        model.train();
        Difference(model.forward(x, t, y), model.forward(x, t, other)).ShouldBe(0);
    }

    [Fact]
    public void Bad_configurations_and_shapes_are_refused()
    {
        var before = TensorCount.Now;
        foreach (
            var (config, message) in new[]
            {
                (Small with { InputSize = [3, 5, 6] }, "not a multiple of PatchSize"),
                (Small with { NumHeads = 5 }, "not a multiple of NumHeads 5"),
                (Small with { Condition = "label_x" }, "it must be 'text', or 'label_'"),
                (Small with { Depth = 0 }, "Depth is 0"),
            }
        )
        {
            Should.Throw<ArgumentException>(() => new DiT(config)).Message.ShouldContain(message);
        }

        TensorCount.ShouldBe(before);

        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var (x, t, y) = Inputs();
        Should
            .Throw<ArgumentException>(() => model.forward(x, t, y.squeeze(1)))
            .Message.ShouldContain("The condition has shape [2, 1, 12]; expected [2, 1, 1, 12]");
        Should.Throw<ArgumentException>(() => model.forward(x.narrow(4, 0, 5), t, y)).Message.ShouldContain("The latents have shape");
        Should.Throw<ArgumentException>(() => DiTConfig.Preset("DiT-XXL")).Message.ShouldContain("Known presets: DiT-S/2");
    }
}
