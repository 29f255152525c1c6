using System.Runtime.InteropServices;
using OpenSora.Torch;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed class BindingTests
{
    [Fact]
    public void Operators_compute_and_scopes_dispose()
    {
        var before = LiveTensors.Count;
        using (NewDisposeScope())
        {
            var x = tensor(new float[] { 1, 2, 3 });
            ((x * 2 + 1).sum().item<float>()).ShouldBe(15);
            (1 / x)[2].item<float>().ShouldBe(1f / 3);
            x[1..].data<float>().ToArray().ShouldBe([2, 3]);
        }

        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void Backward_fills_gradients()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 2, 3 }, requires_grad: true);
        x.pow(3).sum().backward();
        x.grad!.data<double>().ToArray().ShouldBe([3, 12, 27]);
    }

    [Fact]
    public void A_function_written_in_managed_code_takes_part_in_autograd()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1, 2, 3 }, requires_grad: true);
        (Cube.apply(x, 2.0) * 5).sum().backward();
        x.grad!.data<double>().ToArray().ShouldBe([30, 120, 270]);
    }

    [Fact]
    public void What_a_managed_backward_throws_arrives_at_the_caller()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 1 }, requires_grad: true);
        var y = Failing.apply(x);
        var e = Should.Throw<ExternalException>(() => y.backward());
        e.InnerException.ShouldBeOfType<InvalidTimeZoneException>();
    }

    [Fact]
    public void Errors_of_libtorch_arrive_with_their_message()
        => Should.Throw<ExternalException>(() => zeros(2, 3).mm(zeros(2, 3))).Message.ShouldContain("mat1 and mat2 shapes cannot be multiplied");

    [Fact]
    public void A_disposed_tensor_is_refused()
    {
        var x = zeros(2);
        x.Dispose();
        Should.Throw<ObjectDisposedException>(() => x + 1);
    }

    [Fact]
    public void Generators_repeat_themselves()
    {
        using var a = new Generator(7);
        using var b = new Generator(7);
        using var x = randn(5, generator: a);
        using var y = randn(5, generator: b);
        x.allclose(y, 0, 0).ShouldBeTrue();
        using var state = a.get_state();
        using var next = randn(5, generator: a);
        a.set_state(state);
        using var again = randn(5, generator: a);
        next.allclose(again, 0, 0).ShouldBeTrue();
    }

    private sealed class Cube : autograd.SingleTensorFunction<Cube>
    {
        public override string Name => nameof(Cube);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_for_backward([(Tensor)vars[0]]);
            ctx.save_data("factor", vars[1]);
            return ((Tensor)vars[0]).pow(3) * (double)vars[1];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
            => [grad_output * 3 * (double)ctx.get_data("factor") * ctx.get_saved_variables()[0].square(), null!];
    }

    private sealed class Failing : autograd.SingleTensorFunction<Failing>
    {
        public override string Name => nameof(Failing);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars) => ((Tensor)vars[0]) * 2;

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) => throw new InvalidTimeZoneException("odd");
    }
}
