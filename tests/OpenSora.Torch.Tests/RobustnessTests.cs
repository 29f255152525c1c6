using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using OpenSora.Torch;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed partial class RobustnessTests
{
    [Fact]
    public void OpenBlas_does_not_take_a_processor_for_one_of_2004()
    {
        _ = zeros(1);
        Assert.SkipUnless(Avx2.IsSupported && Fma.IsSupported && Environment.GetEnvironmentVariable("OPENBLAS_CORETYPE") is null, "The processor is older, or the kernels were chosen.");
        Assert.SkipUnless(NativeLibrary.TryLoad("libopenblas.so.0", out var library) && NativeLibrary.TryGetExport(library, "openblas_get_corename", out _), "This libtorch has another BLAS.");
        Marshal.PtrToStringUTF8(CoreName()).ShouldBeOneOf("Cooperlake", "SkylakeX", "Haswell");
    }

    [LibraryImport("libopenblas.so.0", EntryPoint = "openblas_get_corename")]
    private static partial IntPtr CoreName();

    [Fact]
    public void A_scope_moves_and_detaches_only_what_it_holds()
    {
        using var outer = NewDisposeScope();
        var x = zeros(1);
        var free = zeros(1).DetachFromDisposeScope();
        using (var middle = NewDisposeScope())
        using (var inner = NewDisposeScope())
        {
            inner.MoveToOuter(x);
            inner.Detach(x);
            inner.MoveToOuter(free);
            middle.DisposablesCount.ShouldBe(0);
        }

        x.IsInvalid.ShouldBeFalse();
        free.IsInvalid.ShouldBeFalse();
        free.Dispose();
        outer.Dispose();
        x.IsInvalid.ShouldBeTrue();
    }

    [Fact]
    public void A_scope_that_another_thread_closed_takes_nothing_more()
    {
        using var outer = NewDisposeScope();
        var closed = NewDisposeScope();
        OnAnotherThread(closed.Dispose);
        _ = zeros(1);
        closed.DisposablesCount.ShouldBe(0);
        outer.DisposablesCount.ShouldBe(1);
        using var next = NewDisposeScope();
        zeros(1).MoveToOuterDisposeScope();
        outer.DisposablesCount.ShouldBe(2);
    }

    [Fact]
    public void A_function_frees_what_it_saved_when_backward_is_done_with_it()
    {
        using var scope = NewDisposeScope();
        var x = ones(4, requires_grad: true);
        var y = Square.apply(x);
        y.sum().backward(retain_graph: true);
        y.sum().backward();
        x.grad!.data<float>().ToArray().ShouldBe([4, 4, 4, 4]);
        Should.Throw<ExternalException>(() => y.sum().backward()).InnerException.ShouldBeOfType<InvalidOperationException>().Message.ShouldContain("retain_graph");
        Square.Saved!.IsInvalid.ShouldBeTrue();
    }

    [Fact]
    public void A_function_can_be_differentiated_twice()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new double[] { 3 }, requires_grad: true);
        var first = autograd.grad([Square.apply(x.pow(2))], [x], retain_graph: true, create_graph: true)[0]; // d x^4 = 4 x^3
        first.item<double>().ShouldBe(108);
        autograd.grad([first], [x])[0].item<double>().ShouldBe(108); // 12 x^2
    }

    [Fact]
    public void Whole_numbers_that_a_function_gives_take_no_gradient()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new float[] { 1, 5, 2 }, requires_grad: true);
        var outputs = Largest.apply(x);
        outputs[0].requires_grad.ShouldBeFalse();
        (outputs[1] * outputs[0]).backward();
        x.grad!.data<float>().ToArray().ShouldBe([1, 1, 1]);
    }

    [Fact]
    public void A_forward_that_fails_leaves_nothing()
    {
        using var scope = NewDisposeScope();
        var x = ones(1, requires_grad: true);
        Should.Throw<InvalidTimeZoneException>(() => Broken.apply(x));
        Broken.Saved!.IsInvalid.ShouldBeTrue();
    }

    [Fact]
    public void Numbers_come_from_tensors_of_one_element_only()
    {
        using var scope = NewDisposeScope();
        Should.Throw<ArgumentException>(() => zeros(0).ToScalar()).Message.ShouldContain("[0]");
        Should.Throw<ArgumentException>(() => (float)zeros(2)).Message.ShouldContain("[2]");
        Should.Throw<ArgumentException>(() => zeros(2).item<float>());
        Should.Throw<ArgumentException>(() => zeros(1).item<double>()).Message.ShouldContain("Float32");
        Should.Throw<ArgumentException>(() => zeros(1, dtype: ScalarType.Bool).data<byte>());
        ((int)tensor(2.75f)).ShouldBe(2);
        ((double)tensor(2)).ShouldBe(2);
        ((bool)tensor(0.5)).ShouldBeTrue();
        tensor(true).item<bool>().ShouldBeTrue();
        ones(1, 1, 1).item<float>().ShouldBe(1);
    }

    [Fact]
    public void Elements_are_read_by_indices_or_by_number()
    {
        using var scope = NewDisposeScope();
        var x = arange(6).reshape(2, 3).t();
        var elements = x.data<long>();
        elements[2, 1].ShouldBe(5);
        elements[3].ShouldBe(4);
        elements[3] = 40;
        x[1, 1].item<long>().ShouldBe(40);
        Should.Throw<IndexOutOfRangeException>(() => elements[6]);
        Should.Throw<IndexOutOfRangeException>(() => elements[-1]);
        Should.Throw<IndexOutOfRangeException>(() => elements[0, 2]);
        Should.Throw<ArgumentOutOfRangeException>(() => elements.CopyTo(new long[1], tensorIndex: -1));
        Should.Throw<ArgumentOutOfRangeException>(() => elements.CopyTo(new long[1], tensorIndex: 7));
        Should.Throw<ArgumentOutOfRangeException>(() => arange(2).data<long>().CopyFrom(new long[1], tensorIndex: -1));
    }

    [Fact]
    public void Settings_that_libtorch_refuses_are_exceptions()
    {
        Should.Throw<ExternalException>(() => set_num_threads(0)).Message.ShouldContain("positive");
        Should.Throw<ExternalException>(() => set_num_threads(-3));
    }

    [Fact]
    public unsafe void Memory_that_cannot_be_a_tensor_is_refused_and_not_released()
    {
        var released = 0;
        var memory = stackalloc float[4];
        var here = (IntPtr)memory;
        Should.Throw<ArgumentException>(() => TensorMemory.Over(IntPtr.Zero, [4], float32, () => released++));
        Should.Throw<ArgumentException>(() => TensorMemory.Over(here, [-4], float32, () => released++));
        Should.Throw<ArgumentException>(() => TensorMemory.Over(here, [long.MaxValue, long.MaxValue, long.MaxValue], float32, () => released++));
        Should.Throw<ArgumentException>(() => TensorMemory.Over(here, [4], (ScalarType)99, () => released++));
        released.ShouldBe(0);
        TensorMemory.Over(here, [0, 4], float32, () => released++).Dispose();
        released.ShouldBe(1);
    }

    [Fact]
    public void Nonzero_elements_are_counted_over_all_or_some_dimensions()
    {
        using var scope = NewDisposeScope();
        var x = tensor(new float[,] { { 1, 0 }, { 2, 3 } });
        x.count_nonzero().item<long>().ShouldBe(3);
        count_nonzero(x, [1]).data<long>().ToArray().ShouldBe([1, 2]);
    }

    [Fact]
    public void A_sequence_keeps_what_a_module_hands_through()
    {
        using var scope = NewDisposeScope();
        using var net = nn.Sequential(new HandThrough(), nn.ReLU(), new HandThrough());
        net.call(tensor(new float[] { -1, 2 })).data<float>().ToArray().ShouldBe([0, 2]);
    }

    private static void OnAnotherThread(Action action)
    {
        var thread = new Thread(() => action());
        thread.Start();
        thread.Join();
    }

    private sealed class HandThrough() : nn.Module<Tensor, Tensor>(nameof(HandThrough))
    {
        public override Tensor forward(Tensor input) => input;
    }

    private sealed class Square : autograd.SingleTensorFunction<Square>
    {
        public static Tensor? Saved { get; private set; }

        public override string Name => nameof(Square);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_for_backward([(Tensor)vars[0]]);
            Saved = ctx.get_saved_variables()[0];
            return ((Tensor)vars[0]).square();
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) => [grad_output * 2 * ctx.get_saved_variables()[0]];
    }

    private sealed class Largest : autograd.MultiTensorFunction<Largest>
    {
        public override string Name => nameof(Largest);

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (values, indices) = ((Tensor)vars[0]).max(0);
            return [indices, values * 1];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs) => [grad_outputs[1].expand(3)];
    }

    private sealed class Broken : autograd.SingleTensorFunction<Broken>
    {
        public static Tensor? Saved { get; private set; }

        public override string Name => nameof(Broken);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_for_backward([(Tensor)vars[0]]);
            Saved = ctx.get_saved_variables()[0];
            throw new InvalidTimeZoneException("odd");
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) => [grad_output];
    }
}
