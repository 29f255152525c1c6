using OpenSora.Mpi;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>Every operation with every type, compared bit by bit with the results computed in one process. The argument is the largest number of
/// values
/// in one call of MPI.</summary>
internal sealed class Operations : IScenario
{
    private static readonly ScalarType[] Types = [ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float64, ScalarType.Int64];

    public string Name => "operations";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        if (arguments.Length > 0)
        {
            group.LargestCount = long.Parse(arguments[0], System.Globalization.CultureInfo.InvariantCulture);
        }

        long before;
        using (NewDisposeScope())
        {
            Check(group, [3, 5], ScalarType.Float32);
        }

        before = Tensor.TotalCount;
        var cases = 0;
        foreach (var type in Types)
        {
            foreach (var shape in new long[][] { [1], [7, 3], [2, 3, 4], [20_011], [0, 4] })
            {
                using var scope = NewDisposeScope();
                Check(group, shape, type);
                cases++;
            }
        }

        ScenarioException.Require(Tensor.TotalCount == before, $"{Tensor.TotalCount - before} tensors were not disposed");
        output.WriteLine($"{cases} cases, rank {group.Rank} of {group.Size}");
    }

    // Whole numbers, so that sums are exact in every order, except for one case of fractions, for which all ranks must have the same bits.
    private static Tensor Values(long[] shape, ScalarType type, int rank)
    {
        var count = shape.Aggregate(1L, (a, b) => a * b);
        return (arange(count, dtype: ScalarType.Int64) * 7 + 3 * rank).remainder(31).to_type(type).view(shape);
    }

    private static void Check(MpiCollectives group, long[] shape, ScalarType type)
    {
        var (rank, size) = (group.Rank, group.Size);
        var all = Enumerable.Range(0, size).Select(other => Values(shape, type, other)).ToArray();
        var mine = Values(shape, type, rank);
        group.AllReduce(mine).Wait();
        Same(mine, stack(all).to_type(ScalarType.Float64).sum([0]).to_type(type), "AllReduce");

        mine = Values(shape, type, rank);
        group.AllReduce(mine, ReduceOperation.Maximum).Wait();
        Same(mine, stack(all).to_type(ScalarType.Float64).amax([0]).to_type(type), "AllReduce (maximum)");

        mine = Values(shape, type, rank);
        group.Broadcast(mine, size - 1).Wait();
        Same(mine, all[size - 1], "Broadcast");

        var gathered = empty([size * shape[0], .. shape[1..]], type);
        group.AllGather(gathered, all[rank]).Wait();
        Same(gathered, cat(all), "AllGather");
        gathered = zeros([size * shape[0], .. shape[1..]], type);
        var part = gathered.narrow(0, rank * shape[0], shape[0]);
        part.copy_(all[rank]);
        group.AllGather(gathered, part).Wait();
        Same(gathered, cat(all), "AllGather in place");

        long[] large = [size * shape[0], .. shape[1..]];
        var inputs = Enumerable.Range(0, size).Select(other => Values(large, type, other)).ToArray();
        var sum = stack(inputs).to_type(ScalarType.Float64).sum([0]).to_type(type).narrow(0, rank * shape[0], shape[0]);
        var reduced = empty(shape, type);
        var input = inputs[rank].clone();
        group.ReduceScatter(reduced, input).Wait();
        Same(reduced, sum, "ReduceScatter");
        Same(input, inputs[rank], "the input of ReduceScatter");
        part = input.narrow(0, rank * shape[0], shape[0]);
        group.ReduceScatter(part, input).Wait();
        Same(part, sum, "ReduceScatter in place");

        var exchanged = empty(large, type);
        group.AllToAll(exchanged, inputs[rank]).Wait();
        Same(exchanged, cat(inputs.Select(one => one.narrow(0, rank * shape[0], shape[0])).ToArray()), "AllToAll");
        group.Barrier();
        if (type == ScalarType.Int64)
        {
            return;
        }

        // Fractions: every process must receive the same bits.
        using var random = new Generator(7 + (ulong)rank);
        mine = randn(shape, generator: random).to_type(type);
        group.AllReduce(mine).Wait();
        var copies = empty([size * shape[0], .. shape[1..]], type);
        group.AllGather(copies, mine).Wait();
        Same(copies, cat(Enumerable.Repeat(mine, size).ToArray()), "the same bits");
    }

    private static void Same(Tensor actual, Tensor expected, string what) =>
        ScenarioException.Require(
            actual.dtype == expected.dtype && actual.shape.SequenceEqual(expected.shape) && actual.equal(expected).all().item<bool>(),
            $"{what} of {expected.dtype} [{string.Join(", ", expected.shape)}] has a wrong result"
        );
}
