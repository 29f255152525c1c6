using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class T5EncoderTests
{
    private static readonly T5Config Small = new()
    {
        VocabSize = 50,
        DModel = 16,
        DKv = 4,
        DFf = 24,
        NumLayers = 2,
        NumHeads = 2,
    };

    private static T5TextEncoder Make(T5Config config)
    {
        var model = new T5TextEncoder(config, initialize: false);
        using var generator = new Generator(1);
        model.Initialize(generator);
        return model;
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void The_published_encoder_has_its_parameters()
    {
        using var model = new T5TextEncoder(new T5Config(), initialize: false);
        model.parameters().Sum(parameter => parameter.numel()).ShouldBe(4_762_310_656);
    }

    [Theory]
    [InlineData("gated-gelu")]
    [InlineData("relu")]
    public void Padding_does_not_change_the_text(string feedForward)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small with { FeedForwardProj = feedForward });
        var ids = tensor(new long[] { 3, 9, 1, 0, 0, 7, 8, 9, 10, 1 }, [2, 5]);
        var states = model.call(ids, ids.ne(0));
        states.shape.ShouldBe([2, 5, 16]);
        Difference(states.narrow(0, 0, 1).narrow(1, 0, 3), model.call(ids.narrow(0, 0, 1).narrow(1, 0, 3), null)).ShouldBeLessThan(1e-5);
        Difference(states.narrow(0, 1, 1), model.call(ids.narrow(0, 1, 1), null)).ShouldBeLessThan(1e-5);
        Difference(states, model.call(ids, null)).ShouldBeGreaterThan(1e-3);
    }

    [Fact]
    public void Every_parameter_gets_a_gradient_and_no_tensor_is_left()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            foreach (var type in new ScalarType?[] { null, ScalarType.BFloat16 })
            {
                model.UseComputeType(type);
                model.zero_grad();
                model.call(tensor(new long[] { 3, 9, 1, 2 }, [2, 2]), null).square().mean().backward();
                foreach (var (name, parameter) in model.named_parameters())
                {
                    parameter.grad.ShouldNotBeNull(name).abs().max().item<float>().ShouldBeGreaterThan(0, name);
                }
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = Make(Small);
        var ids = tensor(new long[] { 3, 9, 1, 0, 0, 7, 8, 9, 10, 1 }, [2, 5]);
        var exact = model.call(ids, ids.ne(0));
        var rough = model.UseComputeType(ScalarType.BFloat16).call(ids, ids.ne(0));
        rough.dtype.ShouldBe(ScalarType.Float32);
        (Difference(rough, exact) / exact.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.05);
    }

    [Fact]
    public void Bad_input_is_rejected()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        void Refused(string message, Action call) => Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
        Refused("Token ids range from 1 to 50; valid ids are 0 to 49", () => model.call(tensor(new long[] { 50, 1 }, [1, 2]), null));
        Refused("Token ids range from -1", () => model.call(tensor(new long[] { -1, 1 }, [1, 2]), null));
        Refused("expected Int64 of shape [batch, tokens]", () => model.call(zeros(2, 3), null));
        Refused("The mask has shape [1, 2]; expected [1, 3]", () => model.call(zeros(1, 3, dtype: ScalarType.Int64), ones(1, 2)));
        Refused("known are 'relu' and 'gated-gelu'", () => new T5TextEncoder(Small with { FeedForwardProj = "gated-silu" }));
        Refused("DKv is 0", () => new T5TextEncoder(Small with { DKv = 0 }));
    }
}
