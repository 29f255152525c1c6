using OpenSora.Benchmarks;
using OpenSora.Mpi;
using OpenSora.Training.Distributed;

namespace OpenSora.Distributed.Program.Scenarios;

/// <summary>Measures the memory and the bytes of a training step and compares them with the plan: memory SHARDING.</summary>
internal sealed class Memory : IScenario
{
    public string Name => "memory";

    public void Run(MpiCollectives group, string[] arguments, ScenarioOutput output)
    {
        var scale = TrainingScale.Measure(group, TrainingScale.Wide, Enum.Parse<Sharding>(arguments[0]), batch: 2, side: 4);
        output.WriteLine(FormattableString.Invariant($"{scale.Memory} {scale.Plan.Memory} {scale.BytesPerStep} {scale.Plan.BytesPerStep}"));
    }
}
