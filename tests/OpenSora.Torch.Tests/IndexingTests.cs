using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed class IndexingTests
{
    [Fact]
    public void Numbers_ranges_and_steps_select()
    {
        using var scope = NewDisposeScope();
        var x = arange(24, int64).reshape(2, 3, 4);
        Longs(x[1, 2, 3]).ShouldBe([23]);
        Longs(x[-1, -1, -1]).ShouldBe([23]);
        Longs(x[0, 1]).ShouldBe([4, 5, 6, 7]);
        Longs(x[1, .., 0]).ShouldBe([12, 16, 20]);
        Longs(x[0, 1.., ..2]).ShouldBe([4, 5, 8, 9]);
        Longs(x[0, 0, ^2..]).ShouldBe([2, 3]);
        Longs(x[0, 0, TensorIndex.Slice(0, 4, 2)]).ShouldBe([0, 2]);
        Longs(x[TensorIndex.Ellipsis, 3]).ShouldBe([3, 7, 11, 15, 19, 23]);
        Longs(x[TensorIndex.Colon, 0, 0]).ShouldBe([0, 12]);
        x[TensorIndex.None].shape.ShouldBe([1, 2, 3, 4]);
        x[TensorIndex.Ellipsis, TensorIndex.None].shape.ShouldBe([2, 3, 4, 1]);
        x[.., TensorIndex.None, 1..2].shape.ShouldBe([2, 1, 1, 4]);
        x[0..0].shape.ShouldBe([0, 3, 4]);
    }

    [Fact]
    public void Tensors_gather_and_masks_filter()
    {
        using var scope = NewDisposeScope();
        var x = arange(12, int64).reshape(3, 4);
        Longs(x[TensorIndex.Tensor(tensor(new long[] { 2, 0 }))]).ShouldBe([8, 9, 10, 11, 0, 1, 2, 3]);
        Longs(x[TensorIndex.Colon, TensorIndex.Tensor(tensor(new long[] { 3, 3 }))]).ShouldBe([3, 3, 7, 7, 11, 11]);
        Longs(x[TensorIndex.Tensor(tensor(new long[] { 0, 2 })), TensorIndex.Tensor(tensor(new long[] { 1, 3 }))]).ShouldBe([1, 11]);
        Longs(x[TensorIndex.Tensor(x > 9)]).ShouldBe([10, 11]);
        Longs(x[TensorIndex.Tensor(tensor(new[] { false, true, false }))]).ShouldBe([4, 5, 6, 7]);
    }

    [Fact]
    public void Assignment_writes_through()
    {
        using var scope = NewDisposeScope();
        var x = zeros([2, 3], int64);
        x[0, 1] = tensor(5L);
        x[1] = tensor(new long[] { 7, 8, 9 });
        x[.., 0] = tensor(4L);
        Longs(x).ShouldBe([4, 5, 0, 4, 8, 9]);
        x[TensorIndex.Tensor(x > 5)] = tensor(1L);
        Longs(x).ShouldBe([4, 5, 0, 4, 1, 1]);
        x[TensorIndex.Tensor(tensor(new long[] { 0 })), TensorIndex.Slice(1)] = tensor(new long[] { 2, 3 });
        Longs(x).ShouldBe([4, 2, 3, 4, 1, 1]);
    }

    [Fact]
    public void Views_share_their_memory()
    {
        using var scope = NewDisposeScope();
        var x = zeros([2, 2], int64);
        x[1].fill_(3);
        x.t()[0].add_(1);
        Longs(x).ShouldBe([1, 0, 4, 3]);
    }

    [Fact]
    public void Places_outside_are_refused()
    {
        using var scope = NewDisposeScope();
        var x = zeros(2, 3);
        Should.Throw<Exception>(() => x[2]).Message.ShouldContain("out of range");
        Should.Throw<Exception>(() => x[0, 3]).Message.ShouldContain("out of range");
        Should.Throw<Exception>(() => x[0, 0, 0]);
    }

    private static long[] Longs(Tensor tensor) => tensor.contiguous().data<long>().ToArray();
}
