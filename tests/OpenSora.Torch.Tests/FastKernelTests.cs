using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Torch.Tests;

/// <summary>bfloat16 operators that have kernels of their own, against float64.</summary>
public class FastKernelTests
{
    private static readonly long[][] Shapes = [[7, 33], [4, 64, 256], [3, 5, 17]];

    [Fact]
    public void Gelu() => Check(x => nn.functional.gelu(x, TorchSharp.Modules.GELU.Approximate.tanh), Shapes, channelsLast: false);

    [Fact]
    public void Silu() => Check(x => nn.functional.silu(x), Shapes, channelsLast: false);

    [Fact]
    public void Silu_of_channels_last_images() => Check(x => nn.functional.silu(x), [[2, 6, 5, 5], [3, 24, 8, 4]], channelsLast: true);

    [Fact]
    public void Layer_norm() => Check(x => nn.functional.layer_norm(x, [x.shape[^1]], eps: 1e-6), Shapes, channelsLast: false);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Group_norm(bool channelsLast) => Check(x =>
    {
        using var generator = new Generator(3);
        var gain = (rand([x.shape[1]], generator: generator) + 0.5f).to(x.dtype);
        var shift = randn([x.shape[1]], generator: generator).to(x.dtype);
        return nn.functional.group_norm(x, 4, gain, shift, 1e-6);
    }, [[2, 8, 5, 7], [3, 24, 64, 64], [1, 128, 4, 4]], channelsLast);

    [Fact]
    public void Numbers_that_are_none_stay_so()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { float.NaN, float.PositiveInfinity, 100, -100, 0 }).to(ScalarType.BFloat16);
        foreach (var y in new[] { nn.functional.silu(x), nn.functional.gelu(x, TorchSharp.Modules.GELU.Approximate.tanh) })
        {
            var values = y.to(ScalarType.Float32).data<float>().ToArray();
            values[0].ShouldBe(float.NaN);
            values[1].ShouldBe(float.PositiveInfinity);
            values[2].ShouldBe(100);
            values[3].ShouldBe(0, 1e-30f);
            values[4].ShouldBe(0);
        }
    }

    private static void Check(Func<Tensor, Tensor> f, long[][] shapes, bool channelsLast)
    {
        using var scope = NewDisposeScope();
        foreach (var shape in shapes)
        {
            using var generator = new Generator(1);
            var input = (randn(shape, generator: generator) * 3 + 1).to(ScalarType.BFloat16);
            var weights = randn(shape, generator: generator).to(ScalarType.BFloat16);
            if (channelsLast)
                (input, weights) = (Reordered(input), Reordered(weights));
            var (y, gradient) = Run(input, weights);
            var (expected, expectedGradient) = Run(input.to(ScalarType.Float64), weights.to(ScalarType.Float64));
            Error(y, expected).ShouldBeLessThan(0.006);
            Error(gradient, expectedGradient).ShouldBeLessThan(0.012);
        }

        (Tensor Y, Tensor Gradient) Run(Tensor x, Tensor weights)
        {
            var leaf = x.detach().requires_grad_();
            var y = f(leaf);
            (y * weights).sum().backward();
            return (y.detach(), leaf.grad!);
        }

        static Tensor Reordered(Tensor x) => x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2);

        static double Error(Tensor a, Tensor b) => ((a.to(ScalarType.Float64) - b).square().sum().sqrt() / b.square().sum().sqrt()).item<double>();
    }
}
