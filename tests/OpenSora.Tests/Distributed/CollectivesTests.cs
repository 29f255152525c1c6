using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Distributed;

/// <summary>Tests of the operations on groups of threads, with which other tests work, and on the group of one process.</summary>
public class CollectivesTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Operations_do_what_their_names_say(int size)
    {
        static long[] Of(Tensor tensor) => tensor.data<long>().ToArray();
        var ranks = Enumerable.Range(0, size).Select(rank => (long)rank).ToArray();
        InProcessCollectives.Run(size, group =>
        {
            using var scope = NewDisposeScope();
            var mine = full([2L * size, 2], group.Rank, ScalarType.Int64);
            group.AllReduce(mine).Wait();
            Of(mine).ShouldAllBe(value => value == ranks.Sum());
            mine = full(2, group.Rank, ScalarType.Int64);
            group.AllReduce(mine, ReduceOperation.Maximum).Wait();
            Of(mine).ShouldAllBe(value => value == size - 1);

            var part = zeros(1, ScalarType.Int64);
            group.ReduceScatter(part, arange(size, dtype: ScalarType.Int64) + group.Rank).Wait();
            Of(part).ShouldBe([group.Rank * size + ranks.Sum()]);

            var all = zeros(size, ScalarType.Int64);
            group.AllGather(all, full(1, group.Rank, ScalarType.Int64)).Wait();
            Of(all).ShouldBe(ranks);
            group.AllToAll(all, arange(size, dtype: ScalarType.Int64) * 10 + group.Rank).Wait();
            Of(all).ShouldBe(ranks.Select(rank => group.Rank * 10 + rank));
            var root = full(1, group.Rank + 7, ScalarType.Int64);
            group.Broadcast(root, size - 1).Wait();
            Of(root).ShouldBe([size + 6]);
            group.Barrier();
        });
    }

    [Fact]
    public void A_group_can_be_divided() => InProcessCollectives.Run(4, group =>
        {
            using var scope = NewDisposeScope();
            using var part = group.Split(group.Rank % 2);
            (part.Rank, part.Size).ShouldBe((group.Rank / 2, 2));
            var mine = full(1, group.Rank, ScalarType.Int64);
            part.AllReduce(mine).Wait();
            mine.item<long>().ShouldBe(group.Rank % 2 == 0 ? 2 : 4);
        });

    [Fact]
    public void Members_must_call_the_same_operation() =>
        Should
            .Throw<CollectiveException>(() => InProcessCollectives.Run(2, group =>
                {
                    using var one = zeros(1);
                    (group.Rank == 0 ? group.AllReduce(one) : group.Broadcast(one)).Wait();
                }))
            .Message.ShouldContain("different operations");

    [Fact]
    public void One_process_needs_no_others()
    {
        using var scope = NewDisposeScope();
        using var group = new SingleProcess();
        var (input, output) = (rand(4), zeros(4));
        group.AllToAll(output, input).Wait();
        output.equal(input).all().item<bool>().ShouldBeTrue();
        group.ReduceScatter(output.zero_(), input).Wait();
        output.equal(input).all().item<bool>().ShouldBeTrue();
        group.AllReduce(output).Wait();
        output.equal(input).all().item<bool>().ShouldBeTrue();
        using var same = group.Split(3);
        (same.Rank, same.Size, same.Name).ShouldBe((0, 1, "none"));
    }
}
