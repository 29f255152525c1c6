using OpenSora.Models.Layers;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class DotProductTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Gradients_of_many_queries_are_exact_in_bfloat16(bool biasOfEachQuery)
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        const int Queries = 60_000;
        var (q, k, v) = (randn(1, 2, Queries, 16), randn(1, 2, 20, 16), randn(1, 2, 20, 16));
        var bias = randn(1, 2, biasOfEachQuery ? Queries : 1, 20);
        var direction = randn(1, 2, Queries, 16) + 1;
        var exact = Run(ScalarType.Float64);
        var found = Run(ScalarType.BFloat16);
        foreach (var (values, expected) in found.Zip(exact))
        {
            ((values.to(ScalarType.Float64) - expected).norm() / expected.norm()).item<double>().ShouldBeLessThan(1e-2);
        }

        Tensor[] Run(ScalarType type)
        {
            Tensor[] inputs = [.. new[] { q, k, v }.Select(input => input.to(type).requires_grad_(true))];
            var y = DotProduct.Attend(inputs[0], inputs[1], inputs[2], 0.25, bias.to(type));
            y.backward([direction.to(type)]);
            return [y, .. inputs.Select(input => input.grad!)];
        }
    }
}
