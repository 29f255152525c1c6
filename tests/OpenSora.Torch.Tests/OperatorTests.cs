using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

/// <summary>Values of the operators that have no gradient to check them by.</summary>
public sealed class OperatorTests
{
    [Fact]
    public void Comparisons()
    {
        using var scope = NewDisposeScope();
        Tensor a = tensor(new[] { 1.0, 2, 3 }), b = tensor(new[] { 3.0, 2, 1 });
        Bools(a.eq(b)).ShouldBe("010");
        Bools(a.ne(b)).ShouldBe("101");
        Bools(a.lt(b)).ShouldBe("100");
        Bools(a.le(b)).ShouldBe("110");
        Bools(a.gt(b)).ShouldBe("001");
        Bools(a.ge(b)).ShouldBe("011");
        Bools(a.eq(2)).ShouldBe("010");
        Bools(a.ne(2)).ShouldBe("101");
        Bools(a.lt(2)).ShouldBe("100");
        Bools(a.le(2)).ShouldBe("110");
        Bools(a.gt(2)).ShouldBe("001");
        Bools(a.ge(2)).ShouldBe("011");
        Bools(a == b).ShouldBe("010");
        Bools(a != b).ShouldBe("101");
        Bools(a < b).ShouldBe("100");
        Bools(a <= b).ShouldBe("110");
        Bools(a > b).ShouldBe("001");
        Bools(a >= b).ShouldBe("011");
        Bools((Scalar)2 < a).ShouldBe("001");
        Bools((Scalar)2 <= a).ShouldBe("011");
        Bools((Scalar)2 > a).ShouldBe("100");
        Bools((Scalar)2 >= a).ShouldBe("110");
    }

    [Fact]
    public void Kinds_of_numbers()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1, double.NaN, double.PositiveInfinity, double.NegativeInfinity });
        Bools(x.isnan()).ShouldBe("0100");
        Bools(x.isinf()).ShouldBe("0011");
        Bools(x.isfinite()).ShouldBe("1000");
        Bools(x.isclose(x, nanEqual: true)).ShouldBe("1111");
        Bools(x.isclose(x)).ShouldBe("1011");
        x.nan_to_num(7, 8, 9).data<double>().ToArray().ShouldBe([1, 7, 8, 9]);
    }

    [Fact]
    public void Logic_and_bits()
    {
        using var scope = NewDisposeScope();
        Tensor a = tensor(new[] { true, true, false, false }), b = tensor(new[] { true, false, true, false });
        Bools(a.logical_and(b)).ShouldBe("1000");
        Bools(a.logical_or(b)).ShouldBe("1110");
        Bools(a.logical_xor(b)).ShouldBe("0110");
        Bools(a.logical_not()).ShouldBe("0011");
        Bools(a & b).ShouldBe("1000");
        Bools(a | b).ShouldBe("1110");
        Bools(a ^ b).ShouldBe("0110");
        Bools(~a).ShouldBe("0011");
        a.any().item<bool>().ShouldBeTrue();
        a.all().item<bool>().ShouldBeFalse();
        var grid = a.reshape(2, 2);
        Bools(grid.any(1)).ShouldBe("10");
        Bools(grid.all(1)).ShouldBe("10");
        Bools(grid.all(0)).ShouldBe("00");
        Tensor p = tensor(new[] { 12, 10 }), q = tensor(new[] { 10, 6 });
        (p & q).data<int>().ToArray().ShouldBe([8, 2]);
        (p | q).data<int>().ToArray().ShouldBe([14, 14]);
        (p ^ q).data<int>().ToArray().ShouldBe([6, 12]);
        (~p).data<int>().ToArray().ShouldBe([-13, -11]);
    }

    [Fact]
    public void Positions_and_counts()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 3.0, 1, 2, 0, 5, 4 }).reshape(2, 3);
        x.argmax().item<long>().ShouldBe(4);
        x.argmin().item<long>().ShouldBe(3);
        Longs(x.argmax(1)).ShouldBe([0, 1]);
        Longs(x.argmin(0)).ShouldBe([1, 0, 0]);
        Longs(x.argsort()).ShouldBe([1, 2, 0, 0, 2, 1]);
        Longs(x.argsort(0, descending: true)).ShouldBe([0, 1, 1, 1, 0, 0]);
        Longs(x.nonzero()).ShouldBe([0, 0, 0, 1, 0, 2, 1, 1, 1, 2]);
        x.count_nonzero([1]).data<long>().ToArray().ShouldBe([3, 2]);
        Longs(tensor(new long[] { 0, 2, 2 }).bincount(null!, 4)).ShouldBe([1, 0, 2, 0]);
        var (values, at) = x.topk(2);
        values.data<double>().ToArray().ShouldBe([3, 2, 5, 4]);
        Longs(at).ShouldBe([0, 2, 1, 2]);
        var (sorted, order) = x.sort(1, descending: true);
        sorted.data<double>().ToArray().ShouldBe([3, 2, 1, 5, 4, 0]);
        Longs(order).ShouldBe([0, 2, 1, 1, 2, 0]);
        Longs(nn.functional.one_hot(tensor(new long[] { 1, 0 }), 3)).ShouldBe([0, 1, 0, 1, 0, 0]);
        Longs(nn.functional.one_hot(tensor(new long[] { 1, 0 }))).ShouldBe([0, 1, 1, 0]);
        (tensor(new[] { 7.0, -7 }).floor_divide(2)).data<double>().ToArray().ShouldBe([3, -4]);
        (tensor(new[] { 7.0, -7 }).div(2, RoundingMode.trunc)).data<double>().ToArray().ShouldBe([3, -3]);
        (tensor(new[] { 7.0, -7 }).div(2, RoundingMode.floor)).data<double>().ToArray().ShouldBe([3, -4]);
    }

    [Fact]
    public void New_tensors_take_shape_type_and_values()
    {
        using var scope = NewDisposeScope();
        var x = zeros([2, 3], ScalarType.BFloat16);
        foreach (var made in new[] { x.zeros_like(), x.ones_like(), x.empty_like(), x.full_like(2), x.rand_like(), x.randn_like() })
        {
            made.shape.ShouldBe([2, 3]);
            made.dtype.ShouldBe(ScalarType.BFloat16);
        }

        x.new_zeros([4]).dtype.ShouldBe(ScalarType.BFloat16);
        x.new_full([4], 3, ScalarType.Float32).data<float>().ToArray().ShouldBe([3, 3, 3, 3]);
        x.new_empty([4, 1]).shape.ShouldBe([4, 1]);
        x.ones_like(ScalarType.Float32).sum().item<float>().ShouldBe(6);
        arange(1, 7, 2, ScalarType.Float32).data<float>().ToArray().ShouldBe([1, 3, 5]);
        linspace(0, 1, 3).data<float>().ToArray().ShouldBe([0, 0.5f, 1]);
        eye(2, 3).data<float>().ToArray().ShouldBe([1, 0, 0, 0, 1, 0]);
        full([2], 3, ScalarType.Int64).data<long>().ToArray().ShouldBe([3, 3]);
        randperm(5).sort().Values.data<long>().ToArray().ShouldBe([0, 1, 2, 3, 4]);
        var dice = randint(3, 5, [100]);
        dice.min().item<long>().ShouldBe(3);
        dice.max().item<long>().ShouldBe(4);
    }

    [Fact]
    public void Random_fills_have_their_moments_and_follow_their_generator()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        var x = empty([20000], float64);
        x.normal_(2, 3, generator).mean().item<double>().ShouldBe(2, 0.1);
        x.std().item<double>().ShouldBe(3, 0.1);
        x.uniform_(1, 3, generator).mean().item<double>().ShouldBe(2, 0.05);
        x.min().item<double>().ShouldBeGreaterThanOrEqualTo(1);
        x.max().item<double>().ShouldBeLessThan(3);
        x.exponential_(4, generator).mean().item<double>().ShouldBe(0.25, 0.02);
        x.bernoulli_(0.3, generator).mean().item<double>().ShouldBe(0.3, 0.02);
        full([20000], 0.7).bernoulli(generator).mean().item<float>().ShouldBe(0.7f, 0.02f);
        Longs(tensor(new[] { 0.0, 1, 0 }).multinomial(4, replacement: true, generator)).ShouldBe([1, 1, 1, 1]);
        Func<Generator, Tensor>[] draws =
        [
            g => rand(6, generator: g), g => randn([2, 3], generator: g), g => randint(10, [6], generator: g), g => randperm(6, generator: g),
            g => normal(0, 1, [6], generator: g), g => zeros(6).uniform_(0, 1, g), g => zeros(6).normal_(0, 1, g), g => full(6, 0.5).bernoulli(g),
            g => ones(6).multinomial(3, generator: g), g => nn.init.trunc_normal_(zeros(6), generator: g),
        ];
        foreach (var draw in draws)
        {
            using Generator a = new(9), b = new(9);
            var first = draw(a).to(float64);
            draw(b).to(float64).allclose(first, 0, 0).ShouldBeTrue();
        }

        manual_seed(4);
        var drawn = randn(5);
        manual_seed(4);
        randn(5).allclose(drawn, 0, 0).ShouldBeTrue();
        manual_seed(5);
        randn(5).allclose(drawn, 0, 0).ShouldBeFalse();
    }

    [Fact]
    public void Cut_off_tensors_have_no_history()
    {
        using var scope = NewDisposeScope();
        var x = ones(2, requires_grad: true);
        x.detach().requires_grad.ShouldBeFalse();
        (x * 2).requires_grad.ShouldBeTrue();
        using (no_grad())
        {
            (x * 2).requires_grad.ShouldBeFalse();
            using (enable_grad()) (x * 2).requires_grad.ShouldBeTrue();
            is_grad_enabled().ShouldBeFalse();
        }

        is_grad_enabled().ShouldBeTrue();
        using (inference_mode())
        {
            is_inference_mode_enabled().ShouldBeTrue();
            (x * 2).requires_grad.ShouldBeFalse();
        }

        is_inference_mode_enabled().ShouldBeFalse();
        zeros(3).set_(ones(2)).sum().item<float>().ShouldBe(2);
        var gradients = autograd.grad([(x * x).sum()], [x]);
        gradients[0].data<float>().ToArray().ShouldBe([2, 2]);
    }

    private static string Bools(Tensor tensor)
    {
        tensor.dtype.ShouldBe(ScalarType.Bool);
        return string.Concat(tensor.data<bool>().ToArray().Select(b => b ? '1' : '0'));
    }

    private static long[] Longs(Tensor tensor) => tensor.contiguous().data<long>().ToArray();
}
