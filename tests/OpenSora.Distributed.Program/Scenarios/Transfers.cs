using System.Globalization;
using OpenSora.Mpi;
using static TorchSharp.torch;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>All-reduces of one million float32 values. The argument is their number; without one, the scenario only starts and ends.</summary>
internal sealed class Transfers : IScenario
{
    public string Name => "transfers";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        var count = arguments.Length > 0 ? int.Parse(arguments[0], CultureInfo.InvariantCulture) : 0;
        using var scope = NewDisposeScope();
        var values = ones(1_000_000);
        for (var i = 0; i < count; i++)
        {
            group.AllReduce(values).Wait();
        }

        var sum = values[0].item<float>();
        ScenarioException.Require(sum == MathF.Pow(group.Size, count), $"the sum is {sum}");
        output.WriteLine($"on {Environment.MachineName}");
    }
}
