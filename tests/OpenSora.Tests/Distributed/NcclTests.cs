using OpenSora.Cuda;
using OpenSora.Distributed;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Distributed;

/// <summary>Tests of the calls of <see cref="NcclCollectives"/>, with a library that does nothing and tensors on the CPU.</summary>
public class NcclTests
{
    private static readonly LaunchEnvironment Alone = new()
    {
        Launcher = "torchrun",
        Rank = 0,
        Size = 1,
    };

    [Fact]
    public async Task Operations_run_on_a_stream_between_the_work_before_and_after_them()
    {
        var nccl = new FakeNccl();
        using var group = await CreateAsync(nccl);
        nccl.TakeCalls().ShouldBe(["GetUniqueId 128", "CommInitRank id 1..128 1 0 7", "CreateStream 5"]);
        using var scope = NewDisposeScope();
        var operation = group.AllReduce(zeros(12));
        nccl.TakeCalls().ShouldBe(["RecordEvent 101 0", "WaitForEvent 5 101", "AllReduce in place 12 7 0 7 5", "RecordEvent 101 5"]);
        operation.Wait();
        nccl.TakeCalls().ShouldBe(["WaitForEvent 0 101"]);
    }

    [Fact]
    public async Task Operations_have_the_types_and_numbers_of_NCCL()
    {
        var nccl = new FakeNccl();
        using var group = await CreateAsync(nccl);
        nccl.TakeCalls();
        using var scope = NewDisposeScope();
        group.AllReduce(zeros(3, ScalarType.BFloat16), ReduceOperation.Maximum).Wait();
        group.AllReduce(zeros(4, ScalarType.Int64)).Wait();
        group.Broadcast(zeros(5, ScalarType.Float64)).Wait();
        group.ReduceScatter(zeros(6), zeros(6)).Wait();
        group.AllGather(zeros(7), zeros(7)).Wait();
        using var whole = zeros(8);
        group.AllGather(whole, whole).Wait();
        var (output, input) = (zeros(9), zeros(9));
        group.AllToAll(output, input).Wait();
        nccl.TakeCalls()
            .Where(call => !call.Contains("Event", StringComparison.Ordinal))
            .Select(call =>
                call.StartsWith("AllGather at", StringComparison.Ordinal) && !call.Contains(" at 0 ", StringComparison.Ordinal) ? "AllGather" : call
            )
            .ShouldBe([
                "AllReduce in place 3 9 2 7 5",
                "AllReduce in place 4 4 0 7 5",
                "Broadcast in place 5 8 0 7 5",
                "ReduceScatter 6 7 0 7 5",
                "AllGather",
                "AllGather at 0 8 7 7 5",
                "GroupStart",
                "Send 9 7 0 7 5",
                "Receive 9 7 0 7 5",
                "GroupEnd",
            ]);
        nccl.Addresses.ShouldBe([CollectivesAddress(input), CollectivesAddress(output)]);
    }

    [Fact]
    public async Task Parts_are_groups_with_the_same_devices()
    {
        var nccl = new FakeNccl();
        using var group = await CreateAsync(nccl);
        using var part = group.Split(3);
        (part.Rank, part.Size, part.Name).ShouldBe((1, 2, "nccl"));
        nccl.TakeCalls().ShouldContain("CommSplit 7 3 0 8");
        using var scope = NewDisposeScope();
        part.AllToAll(zeros(4), zeros(4)).Wait();
        nccl.TakeCalls()
            .Where(call => !call.Contains("Event", StringComparison.Ordinal))
            .ShouldBe(["GroupStart", "Send 2 7 0 8 5", "Receive 2 7 0 8 5", "Send 2 7 1 8 5", "Receive 2 7 1 8 5", "GroupEnd"]);
        Should.Throw<ArgumentException>(() => part.AllToAll(zeros(5), zeros(5))).Message.ShouldContain("multiple of 2");
        Should.Throw<ArgumentException>(() => part.AllReduce(zeros(2, 3).t())).Message.ShouldContain("not contiguous");
        var whole = zeros(6);
        Should.Throw<ArgumentException>(() => part.ReduceScatter(whole.narrow(0, 0, 3), whole)).Message.ShouldContain("not the part of this process");
        part.ReduceScatter(whole.narrow(0, 3, 3), whole).Wait();
    }

    [Fact]
    public async Task An_operation_that_does_not_end_is_aborted_after_the_timeout()
    {
        var nccl = new FakeNccl { Hangs = true };
        using var group = await CreateAsync(nccl, TimeSpan.FromSeconds(0.3));
        using var values = zeros(12);
        var operation = group.AllReduce(values);
        var e = Should.Throw<CollectiveException>(group.Barrier);
        e.Message.ShouldContain("AllReduce of 12 Float32 values did not complete within 0.3 s on rank 0 of 1");
        Should.Throw<CollectiveException>(operation.Wait).Message.ShouldContain("did not complete");
        Should.Throw<CollectiveException>(() => group.AllReduce(values)).Message.ShouldContain("the group failed");
        nccl.TakeCalls().Count(call => string.Equals(call, "CommAbort 7", StringComparison.Ordinal)).ShouldBe(1);
    }

    [Fact]
    public async Task Errors_of_NCCL_are_reported()
    {
        var nccl = new FakeNccl();
        using var values = zeros(12);
        using (var group = await CreateAsync(nccl))
        {
            nccl.AsyncError = 6;
            Should.Throw<CollectiveException>(group.Barrier).Message.ShouldContain("NCCL failed on rank 0 of 1: NCCL's error 6");
        }

        nccl.TakeCalls().ShouldNotContain("CommDestroy 7");
        nccl = new FakeNccl { Failing = "AllReduce" };
        using (var group = await CreateAsync(nccl))
        {
            Should.Throw<CollectiveException>(() => group.AllReduce(values)).Message.ShouldContain("NCCL's error 3");
        }

        nccl = new FakeNccl { Failing = "CommInitRank" };
        (await Should.ThrowAsync<CollectiveException>(() => CreateAsync(nccl))).Message.ShouldContain("ncclCommInitRank failed: NCCL's error 3");
    }

    [Fact]
    public async Task The_group_is_destroyed_at_the_end()
    {
        var nccl = new FakeNccl();
        (await CreateAsync(nccl)).Dispose();
        nccl.TakeCalls()[^2..].ShouldBe(["CommDestroy 7", "DestroyStream 5"]);
    }

    [Fact]
    public void Missing_libraries_are_named()
    {
        Should
            .Throw<DllNotFoundException>(() => NcclNative.Find((_, out handle) => (handle = 0) != 0))
            .Message.ShouldContain("No NVIDIA driver was found");
        Should
            .Throw<DllNotFoundException>(() =>
                NcclNative.Find((name, out handle) => (handle = name.Contains("cuda", StringComparison.Ordinal) ? 1 : 0) != 0)
            )
            .Message.ShouldContain("NCCL is not installed");
    }

    [Fact]
    public async Task A_group_of_one_on_a_GPU_works()
    {
        Assert.SkipUnless(cuda.is_available(), "There is no CUDA device here.");
        using var group = await NcclCollectives.CreateAsync(TimeSpan.FromMinutes(1), TestContext.Current.CancellationToken);
        using var scope = NewDisposeScope();
        var values = ones(1000, ScalarType.BFloat16, group.Device) * 3;
        group.AllReduce(values).Wait();
        var gathered = zeros_like(values);
        group.AllGather(gathered, values).Wait();
        group.AllToAll(values, gathered).Wait();
        group.Barrier();
        values.cpu().equal(3).all().item<bool>().ShouldBeTrue();
    }

    private static nint CollectivesAddress(Tensor tensor)
    {
        unsafe
        {
            return (nint)System.Runtime.CompilerServices.Unsafe.AsPointer(ref tensor.bytes[0]);
        }
    }

    private static Task<NcclCollectives> CreateAsync(FakeNccl nccl, TimeSpan? timeout = null) =>
        NcclCollectives.CreateAsync(nccl, Alone, CPU, timeout ?? TimeSpan.FromMinutes(1), TestContext.Current.CancellationToken);
}
