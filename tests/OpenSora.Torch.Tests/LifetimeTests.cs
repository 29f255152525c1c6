using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using OpenSora.Torch;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed class LifetimeTests
{
    [Fact]
    public void Scopes_nest_and_hand_over()
    {
        var before = LiveTensors.Count;
        Tensor kept, detached;
        using (var outer = NewDisposeScope())
        {
            using (var inner = NewDisposeScope())
            {
                var gone = zeros(1);
                kept = zeros(1).MoveToOuterDisposeScope();
                detached = zeros(1).DetachFromDisposeScope();
                inner.DisposablesCount.ShouldBe(1);
                inner.Contains(gone).ShouldBeTrue();
            }

            outer.Contains(kept).ShouldBeTrue();
            LiveTensors.Count.ShouldBe(before + 2);
        }

        kept.IsInvalid.ShouldBeTrue();
        detached.IsInvalid.ShouldBeFalse();
        detached.Dispose();
        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void The_count_returns_after_training_steps()
    {
        var before = LiveTensors.Count;
        using (var net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 1)))
        using (var optimizer = optim.AdamW(net.parameters(), weight_decay: 0.1))
        {
            var during = LiveTensors.Count;
            for (var step = 0; step < 3; step++)
            {
                using var scope = NewDisposeScope();
                optimizer.zero_grad();
                nn.functional.mse_loss(net.call(randn(16, 4)), zeros(16, 1)).backward();
                nn.utils.clip_grad_norm_(net.parameters(), 1);
                optimizer.step();
                scope.Dispose();
                LiveTensors.Count.ShouldBe(during);
            }
        }

        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void The_finalizer_frees_what_was_forgotten_and_counts_it()
    {
        Collect();
        long before = LiveTensors.Count, finalized = LiveTensors.Finalized;
        Forget();
        Collect();
        LiveTensors.Count.ShouldBe(before);
        LiveTensors.Finalized.ShouldBeGreaterThanOrEqualTo(finalized + 3);

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Forget()
        {
            for (var i = 0; i < 3; i++) _ = zeros(10);
        }

        static void Collect()
        {
            for (var i = 0; i < 3; i++)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }
        }
    }

    [Fact]
    public void A_disposed_tensor_is_refused_by_everything()
    {
        using var other = ones(2);
        var x = ones(2);
        x.Dispose();
        x.Dispose();
        x.IsInvalid.ShouldBeTrue();
        Action[] uses =
        [
            () => _ = x + 1, () => _ = other + x, () => _ = x.shape, () => _ = x.dtype, () => x.backward(), () => _ = x.grad, () => cat([other, x]), () => x.item<float>(),
            () => _ = x[0], () => x.copy_(other), () => other.copy_(x), () => _ = x.data<float>(), () => nn.functional.linear(other, x), () => x.requires_grad = true,
            () => _ = new TorchSharp.Modules.Parameter(x), () => other.grad = x, () => autograd.grad([x], [other]), () => _ = x.bytes.Length,
        ];
        foreach (var use in uses) Should.Throw<ObjectDisposedException>(use);
        x.ToString().ShouldContain("disposed");
    }

    [Fact]
    public void Errors_of_libtorch_are_exceptions_with_its_message_and_leave_nothing()
    {
        var before = LiveTensors.Count;
        using (NewDisposeScope())
        {
            (Action Use, string Says)[] mistakes =
            [
                (() => (zeros(2, 3) + zeros(2, 4)).Dispose(), "must match the size"),
                (() => zeros(2).reshape(3), "invalid for input of size 2"),
                (() => zeros(2).index_select(0, tensor(new long[] { 5 })), "index out of range"),
                (() => nn.functional.conv2d(zeros(1, 3, 4, 4), zeros(1, 2, 3, 3)), "channels"),
                (() => zeros(2).backward(), "does not require grad"),
                (() => ones(2, requires_grad: true).add_(1), "leaf"),
                (() => Aten.Call("no_such_operator", zeros(1)), "no operator aten::no_such_operator"),
                (() => Aten.Call("add.Tensor", zeros(1)), "missing"),
            ];
            foreach (var (use, says) in mistakes) Should.Throw<ExternalException>(use).Message.ShouldContain(says);
        }

        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void Memory_of_others_is_shared_and_released_once()
    {
        var released = 0;
        var memory = Marshal.AllocHGlobal(16);
        Marshal.Copy(new float[] { 1, 2, 3, 4 }, 0, memory, 4);
        var x = TensorMemory.Over(memory, [2, 2], float32, () => released++);
        var row = x[1];
        row.data<float>().ToArray().ShouldBe([3, 4]);
        row.fill_(7);
        x.Dispose();
        released.ShouldBe(0);
        row.Dispose();
        released.ShouldBe(1);
        var seen = new float[4];
        Marshal.Copy(memory, seen, 0, 4);
        seen.ShouldBe([1, 2, 7, 7]);
        Marshal.FreeHGlobal(memory);
    }

    [Fact]
    public void Tensors_may_be_made_and_let_go_on_many_threads()
    {
        var before = LiveTensors.Count;
        Parallel.For(0, 8, i =>
        {
            for (var k = 0; k < 50; k++)
            {
                using var scope = NewDisposeScope();
                (full([4], (float)i) * 2).sum().item<float>().ShouldBe(8 * i);
            }
        });
        LiveTensors.Count.ShouldBe(before);
    }
}
