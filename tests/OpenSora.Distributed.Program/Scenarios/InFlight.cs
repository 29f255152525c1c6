using OpenSora.Mpi;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>Many operations at once, also in parts of the group, waited for in another order; then invalid arguments, which the group
/// survives.</summary>
internal sealed class InFlight : IScenario
{
    public string Name => "in-flight";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        using var scope = NewDisposeScope();
        using var part = group.Split(group.Rank % 2);
        using var pair = part.Split(0);
        ScenarioException.Require(
            (part.Rank, part.Size) == (group.Rank / 2, (group.Size + 1 - group.Rank % 2) / 2) && (pair.Rank, pair.Size) == (part.Rank, part.Size),
            $"rank {part.Rank} of {part.Size} after Split"
        );
        var total = Enumerable.Range(0, group.Size).Sum();
        var partTotal = Enumerable.Range(0, group.Size).Where(rank => rank % 2 == group.Rank % 2).Sum();
        var started = new List<(CollectiveOperation Operation, Tensor Tensor, long Expected)>();
        for (var i = 0; i < 30; i++)
        {
            var (values, partValues) = (full(1 + 5000 * i, group.Rank + i, ScalarType.Int64), full(1 + 300 * i, group.Rank + i, ScalarType.Int64));
            started.Add((group.AllReduce(values), values, total + i * group.Size));
            started.Add((part.AllReduce(partValues), partValues, partTotal + i * part.Size));
        }

        foreach (var (operation, tensor, expected) in Enumerable.Reverse(started))
        {
            operation.Wait();
            operation.Wait();
            ScenarioException.Require((tensor == expected).all().item<bool>(), "a result is wrong");
        }

        Refuse(() => group.AllReduce(zeros(4, 6).t()), "is not contiguous");
        Refuse(() => group.AllReduce(zeros(4, ScalarType.Float16)), "Use float32, bfloat16, float64 or int64");
        Refuse(() => group.AllReduce(zeros(4, device: META)), "is on the device meta");
        Refuse(() => group.Broadcast(zeros(4), group.Size), "root");
        Refuse(() => group.ReduceScatter(zeros(4), zeros(4 * group.Size + 1)), $"must be {group.Size} times");
        Refuse(() => group.AllGather(zeros(4 * group.Size + 1), zeros(4)), $"must be {group.Size} times");
        Refuse(() => group.AllGather(zeros(4 * group.Size, ScalarType.Int64), zeros(4)), "must have the same type");
        Refuse(() => group.AllToAll(zeros(group.Size), zeros(2 * group.Size)), "The shapes must be equal");
        if (group.Size > 1)
        {
            Refuse(() => group.AllToAll(zeros(group.Size + 1), zeros(group.Size + 1)), $"multiple of {group.Size}");
            var whole = zeros(2 * group.Size);
            Refuse(() => group.AllGather(whole, whole.narrow(0, (group.Rank + 1) % group.Size * 2, 2)), "not that of this process");
        }

        Refuse(() => MpiCollectives.Create(), "only once");

        // .NET finds null references by a signal, which libraries of MPI might handle too.
        string? nothing = arguments.Length > 100 ? "" : null;
        var isRecognized = false;
        try
        {
            _ = nothing!.Length;
        }
        catch (NullReferenceException)
        {
            isRecognized = true;
        }

        ScenarioException.Require(isRecognized, "a null reference was not recognized");

        group.Barrier();
        output.WriteLine("done");
    }

    private static void Refuse(Action call, string message)
    {
        try
        {
            call();
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException)
        {
            ScenarioException.Require(e.Message.Contains(message, StringComparison.Ordinal), $"'{e.Message}' does not contain '{message}'");
            return;
        }

        throw new ScenarioException($"nothing refused what must fail with '{message}'");
    }
}
