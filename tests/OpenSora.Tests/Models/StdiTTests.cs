using System.Text.Json;
using OpenSora.Models;
using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class StdiTTests
{
    private static readonly StdiTConfig Small = new()
    {
        InputSize = [3, 4, 6],
        HiddenSize = 32,
        Depth = 2,
        NumHeads = 4,
        CaptionChannels = 12,
        ModelMaxLength = 5,
    };

    private static StdiT Make(StdiTConfig config, bool random = true, long seed = 1)
    {
        var model = new StdiT(config, initialize: false);
        using var generator = new Generator((ulong)seed);
        model.Initialize(generator);
        if (random)
        {
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            foreach (var parameter in model.parameters())
            {
                parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
            }
        }
        model.eval();
        return model;
    }

    private static (Tensor X, Tensor T, Tensor Y) Inputs(
        StdiTConfig config,
        int batch = 2,
        int frames = 3,
        int height = 4,
        int width = 6,
        int tokens = 5
    )
    {
        using var generator = new Generator(7);
        return (
            randn([batch, config.InChannels, frames, height, width], generator: generator),
            arange(1, batch + 1, ScalarType.Float32) * 100,
            randn([batch, 1, tokens, config.CaptionChannels], generator: generator)
        );
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().to(ScalarType.Float64).item<double>();

    [Fact]
    public void The_published_model_has_the_published_parameter_count()
    {
        using var model = new StdiT(StdiTConfig.Preset("STDiT-XL/2"), initialize: false);
        var parameters = model.named_parameters().ToList();
        parameters.Sum(parameter => parameter.parameter.numel()).ShouldBe(759_620_768);
        parameters.ShouldAllBe(parameter => parameter.parameter.requires_grad);
        parameters
            .Where(parameter => !parameter.name.Contains("attn_temp", StringComparison.Ordinal))
            .Sum(parameter => parameter.parameter.numel())
            .ShouldBe(610_856_096);
        model
            .named_buffers()
            .Select(buffer => buffer.name)
            .Order(StringComparer.Ordinal)
            .ShouldBe(["pos_embed", "pos_embed_temporal", "y_embedder.y_embedding"]);
    }

    [Fact]
    public void A_new_model_predicts_zero_and_its_temporal_branch_has_no_effect()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small, random: false);
        var (x, t, y) = Inputs(Small);
        model.forward(x, t, y, null).abs().max().item<float>().ShouldBe(0);

        foreach (var block in model.modules().OfType<StdiTBlock>())
        {
            var tokens = randn(2, 3, 6, 32);
            block.attn_temp!.AttendAlong(SelfAttention.Time, tokens).abs().max().item<float>().ShouldBe(0);
            block.cross_attn.call(randn(2, 18, 32), randn(2, 5, 32), null).abs().max().item<float>().ShouldBe(0);
            block.attn.AttendAlong(SelfAttention.Space, tokens).abs().max().item<float>().ShouldBeGreaterThan(0);
        }
    }

    [Fact]
    public void Frames_see_each_other_only_once_the_temporal_output_is_not_zero()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var zero in new[] { true, false })
        {
            using var model = Make(Small with { ZeroInitTemporal = zero }, random: false);
            foreach (var (name, parameter) in model.named_parameters())
            {
                if (name.StartsWith("final_layer.linear", StringComparison.Ordinal))
                {
                    parameter.normal_(0, 1);
                }
            }

            var (x, t, y) = Inputs(Small);
            var changed = x.clone();
            changed.select(2, 2).add_(1);
            var difference = model.forward(x, t, y, null) - model.forward(changed, t, y, null);
            difference.narrow(2, 2, 1).abs().max().item<float>().ShouldBeGreaterThan(1e-3f);
            var others = difference.narrow(2, 0, 2).abs().max().item<float>();
            if (zero)
            {
                others.ShouldBe(0);
            }
            else
            {
                others.ShouldBeGreaterThan(0);
            }
        }
    }

    [Fact]
    public void Without_temporal_attention_frames_are_independent_images()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var (x, t, y) = Inputs(Small);
        var moving = model.forward(x, t, y, null);
        model.TemporalAttention = false;
        var still = model.forward(x, t, y, null);
        Difference(moving, still).ShouldBeGreaterThan(1e-4);
        Difference(still.narrow(2, 1, 1), model.forward(x.narrow(2, 1, 1), t, y, null)).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void The_same_seed_makes_the_same_model()
    {
        using var scope = NewDisposeScope();
        using var a = Make(Small, seed: 3);
        using var b = Make(Small, seed: 3);
        using var c = Make(Small, seed: 4);
        var (x, t, y) = Inputs(Small);
        using var noGradients = no_grad();
        Difference(a.forward(x, t, y, null), b.forward(x, t, y, null)).ShouldBe(0);
        Difference(a.forward(x, t, y, null), c.forward(x, t, y, null)).ShouldBeGreaterThan(1e-3);
    }

    [Fact]
    public void A_masked_text_counts_as_its_packed_tokens()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var (x, t, y) = Inputs(Small);
        var mask = tensor(new long[] { 0, 1, 0, 1, 0, 1, 1, 1, 0, 0 }, [2, 5]);
        var masked = model.forward(x, t, y, mask);
        var first = cat([y.narrow(0, 0, 1).narrow(2, 1, 1), y.narrow(0, 0, 1).narrow(2, 3, 1)], 2);
        Difference(masked.narrow(0, 0, 1), model.forward(x.narrow(0, 0, 1), t.narrow(0, 0, 1), first, null)).ShouldBeLessThan(1e-5);
        Difference(masked.narrow(0, 1, 1), model.forward(x.narrow(0, 1, 1), t.narrow(0, 1, 1), y.narrow(0, 1, 1).narrow(2, 0, 3), null))
            .ShouldBeLessThan(1e-5);
        Difference(model.forward(x, t, y.squeeze(1), mask.to(ScalarType.Bool)), masked).ShouldBe(0);
        Difference(model.forward(x, t, y, ones(2, 5)), model.forward(x, t, y, null)).ShouldBe(0);
    }

    [Fact]
    public void Other_sizes_get_position_tables_of_their_own()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        using var other = new StdiT(Small with { InputSize = [5, 6, 2] }, initialize: false);
        foreach (var (name, value) in other.state_dict())
        {
            if (!name.StartsWith("pos_embed", StringComparison.Ordinal))
            {
                value.copy_(model.state_dict()[name]);
            }
        }

        other.eval();
        var (x, t, y) = Inputs(Small, frames: 5, height: 6, width: 2);
        var output = model.forward(x, t, y, null);
        output.shape.ShouldBe([2, 8, 5, 6, 2]);
        Difference(output, other.forward(x, t, y, null)).ShouldBe(0);
    }

    [Fact]
    public void Dropped_captions_become_the_null_caption()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var (x, t, y) = Inputs(Small);
        var drop = tensor(new[] { true, false });
        var dropped = model.forward(x, t, y, null, drop);
        var byHand = cat([model.NullCaption().unsqueeze(1), y.narrow(0, 1, 1)], 0);
        Difference(dropped, model.forward(x, t, byHand, null)).ShouldBe(0);
        Difference(dropped, model.forward(x, t, y, null)).ShouldBeGreaterThan(1e-6);
    }

    [Fact]
    public void Training_drops_captions_as_often_as_configured()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var (x, t, y) = Inputs(Small);
        foreach (var (share, expected) in new[] { (1.0, 20), (0.0, 0) })
        {
            using var model = Make(Small with { ClassDropoutProb = share });
            var (kept, none) = (model.forward(x, t, y, null), model.forward(x, t, model.NullCaption(2), null));
            model.train();
            var dropped = Enumerable.Range(0, 20).Count(_ => Difference(model.forward(x, t, y, null), none) == 0);
            dropped.ShouldBe(expected);
            Difference(kept, none).ShouldBeGreaterThan(0);
        }

        using var half = Make(Small with { ClassDropoutProb = 0.5 });
        half.train();
        List<float> Run()
        {
            using var generator = new Generator(5);
            half.DropoutGenerator = generator;
            return Enumerable.Range(0, 12).Select(_ => half.forward(x, t, y, null).sum().item<float>()).ToList();
        }
        var run = Run();
        run.ShouldBe(Run());
        run.Distinct().Count().ShouldBeGreaterThan(1);
    }

    [Theory]
    [InlineData(AttentionOrder.Serial)]
    [InlineData(AttentionOrder.Parallel)]
    public void Normalized_temporal_attention_sees_positions_in_every_block_and_not_the_size_of_tokens(AttentionOrder order)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var attention = new SpaceTimeAttention(order, Block: 1, TemporalNorm: true);
        attention.TakesFramePositions.ShouldBeTrue();
        (attention with { TemporalNorm = false }).TakesFramePositions.ShouldBeFalse();
        new SpaceTimeAttention(AttentionOrder.Full, Block: 1, TemporalNorm: true).TakesFramePositions.ShouldBeFalse();

        using var model = Make(Small with { AttentionOrder = order, TemporalNorm = true });
        var block = model.modules().OfType<StdiTBlock>().Last();
        var (x, frames, one, none) = (randn(2, 3, 6, 32), randn(1, 3, 32), ones(1), zeros(1));
        // Without the spatial branch only the temporal one is left: what it adds does not grow with the tokens, and follows the positions.
        Tensor Added(Tensor tokens, Tensor? positions) =>
            attention.Run(block, tokens, block.attn, block.attn_temp, none, none, none, one, positions) - tokens;
        Difference(Added(x * 1000, frames), Added(x, frames)).ShouldBeLessThan(1e-3);
        Difference(Added(x, frames), Added(x, null)).ShouldBeGreaterThan(1e-2);
        var normed = nn.functional.layer_norm(x, [32]);
        Difference(Added(x, frames), block.attn_temp!.AttendAlong(SelfAttention.Time, normed + frames.unsqueeze(2))).ShouldBeLessThan(1e-4);
    }

    [Fact]
    public void Every_parameter_gets_a_gradient_and_no_tensor_is_left()
    {
        var before = TensorCount.Now;
        using (var scope = NewDisposeScope())
        {
            using var model = Make(Small with { QkNorm = true });
            var (x, t, y) = Inputs(Small);
            model.forward(x, t, y, tensor(new long[] { 1, 1, 1, 0, 0, 1, 1, 1, 1, 1 }, [2, 5])).square().mean().backward();
            foreach (var (name, parameter) in model.named_parameters())
            {
                parameter.grad.ShouldNotBeNull(name).abs().max().item<float>().ShouldBeGreaterThan(0, name);
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void A_call_leaves_one_tensor()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var (x, t, y) = Inputs(Small);
        var mask = ones(1, 5);
        foreach (var gradients in new[] { false, true })
        {
            using var mode = set_grad_enabled(gradients);
            var before = TensorCount.Now;
            model.forward(x, t, y, mask).Dispose();
            TensorCount.ShouldBe(before);
        }
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small with { QkNorm = true });
        var (x, t, y) = Inputs(Small);
        var mask = tensor(new long[] { 1, 1, 1, 0, 0, 1, 1, 1, 1, 1 }, [2, 5]);
        Tensor exact;
        using (no_grad())
        {
            exact = model.forward(x, t, y, mask);
        }

        model.UseComputeType(ScalarType.BFloat16);
        var rough = model.forward(x, t, y, mask);
        rough.dtype.ShouldBe(ScalarType.Float32);
        var error = Difference(rough.detach(), exact) / exact.abs().max().item<float>();
        error.ShouldBeInRange(1e-6, 0.05);
        rough.square().mean().backward();
        foreach (var (name, parameter) in model.named_parameters())
        {
            parameter.dtype.ShouldBe(ScalarType.Float32);
            parameter.grad.ShouldNotBeNull(name).dtype.ShouldBe(ScalarType.Float32);
        }
        using var noGradients = no_grad();
        Difference(model.UseComputeType(null).forward(x, t, y, mask), exact).ShouldBe(0);
    }

    [Theory]
    [InlineData(ScalarType.Float64, 1e-12)]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.BFloat16, 2e-2)]
    public void Attention_is_the_softmax_of_products(ScalarType type, double tolerance)
    {
        using var scope = NewDisposeScope();
        var (q, k, v, bias) = (
            randn(2, 30, 3, 4).to(type).transpose(1, 2),
            randn(2, 3, 70, 4).to(type),
            randn(2, 3, 70, 4).to(type),
            randn(2, 3, 1, 70).to(type)
        );
        Tensor Exact(Tensor tensor) => tensor.to(ScalarType.Float64);

        var expected = (0.7 * Exact(q).matmul(Exact(k).transpose(2, 3)) + Exact(bias)).softmax(-1).matmul(Exact(v));

        Difference(Exact(DotProduct.Attend(q, k, v, 0.7, bias)), expected).ShouldBeLessThan(tolerance);
        Difference(Exact(DotProduct.Attend(q[0], k[0], v[0], 0.7, bias[0])), expected[0]).ShouldBeLessThan(tolerance);
    }

    public static TheoryData<StdiTConfig, string> BadConfigurations =>
        new()
        {
            { Small with { InputSize = [3, 4] }, "InputSize is [3, 4]; it must be three positive numbers" },
            { Small with { PatchSize = [1, 2, 0] }, "PatchSize is [1, 2, 0]" },
            { Small with { InputSize = [3, 5, 6] }, "not a multiple of PatchSize" },
            { Small with { NumHeads = 5 }, "HiddenSize 32 is not a multiple of NumHeads 5" },
            { Small with { HiddenSize = 6, NumHeads = 2 }, "multiple of 4" },
            { Small with { Depth = 0 }, "Depth is 0; it must be positive" },
            { Small with { TimeScale = 0 }, "TimeScale is 0" },
            { Small with { ClassDropoutProb = 1.5 }, "between 0 and 1" },
        };

    [Theory]
    [MemberData(nameof(BadConfigurations), DisableDiscoveryEnumeration = true)]
    public void Bad_configurations_are_rejected(StdiTConfig config, string message)
    {
        var before = TensorCount.Now;
        Should.Throw<ArgumentException>(() => new StdiT(config)).Message.ShouldContain(message);
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Unknown_presets_are_rejected() =>
        Should.Throw<ArgumentException>(() => StdiTConfig.Preset("STDiT-XXL/1")).Message.ShouldContain("Known presets: STDiT-S/2");

    [Fact]
    public void Bad_shapes_are_rejected()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var (x, t, y) = Inputs(Small);
        void Refused(string message, Func<Tensor> call)
        {
            var before = TensorCount.Now;
            Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
            TensorCount.Now.ShouldBeLessThanOrEqualTo(before + 1);
        }
        var narrow = x.narrow(4, 0, 5);
        Refused("The latents have shape [2, 4, 3, 4, 5]", () => model.forward(narrow, t, y, null));
        var channels = x.narrow(1, 0, 3);
        Refused("expected [batch, 4, frames, height, width]", () => model.forward(channels, t, y, null));
        var one = t.narrow(0, 0, 1);
        Refused("The timesteps have shape [1]; expected [2]", () => model.forward(x, one, y, null));
        var wide = cat([y, y], 2);
        Refused("at most 5 tokens", () => model.forward(x, t, wide, null));
        var mask = ones(2, 4);
        Refused("The text mask has shape [2, 4]; expected [rows, 5]", () => model.forward(x, t, y, mask));
        var rows = ones(3, 5);
        Refused("number of rows that divides the batch size", () => model.forward(x, t, y, rows));
        var empty = zeros(2, 5);
        Refused("has no token", () => model.forward(x, t, y, empty));
    }

    [Fact]
    public void A_configuration_survives_json()
    {
        var options = new JsonSerializerOptions { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };
        var json = JsonSerializer.Serialize(Small with { TimeScale = 2.0 / 3 }, options);
        json.ShouldContain("\"input_size\":[3,4,6]");
        json.ShouldNotContain("presets");
        var read = JsonSerializer.Deserialize<StdiTConfig>(json, options)!;
        read.InputSize.ShouldBe([3, 4, 6]);
        (read with { InputSize = Small.InputSize, PatchSize = Small.PatchSize }).ShouldBe(Small with { TimeScale = 2.0 / 3 });
    }

    [Fact]
    public void The_builder_sets_every_option()
    {
        var builder = new StdiTBuilder()
            .Preset("STDiT-S/2")
            .Latents(frames: 2, height: 4, width: 8, channels: 3)
            .Patch(2, 2, 2)
            .Text(width: 20, tokens: 7, dropout: 0.25)
            .Positions(spaceScale: 0.5, timeScale: 0.75)
            .TemporalAttention(startAtZero: false, positions: false, norm: true)
            .QueryKeyNorm()
            .LearnedVariance(false);
        var config = builder.Config;
        config.InputSize.ShouldBe([2, 4, 8]);
        config.PatchSize.ShouldBe([2, 2, 2]);
        (config.InChannels, config.HiddenSize, config.Depth, config.NumHeads).ShouldBe((3, 384, 12, 6));
        (config.CaptionChannels, config.ModelMaxLength, config.ClassDropoutProb).ShouldBe((20, 7, 0.25));
        (config.SpaceScale, config.TimeScale).ShouldBe((0.5, 0.75));
        (config.ZeroInitTemporal, config.NoTemporalPosEmb, config.TemporalNorm, config.QkNorm, config.PredSigma).ShouldBe(
            (false, true, true, true, false)
        );

        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        builder = builder.Transformer(16, depth: 1, heads: 2).Seed(9);
        using var first = builder.Build();
        using var second = builder.Build();
        first.OutChannels.ShouldBe(3);
        foreach (var (name, value) in first.state_dict())
        {
            Difference(value, second.state_dict()[name]).ShouldBe(0, name);
        }

        Should.Throw<ArgumentException>(() => new StdiTBuilder().Patch(3, 2, 2).Build()).Message.ShouldContain("not a multiple of PatchSize");
    }
}
