// Runs a scenario in each process of a group: mpirun.mpich -np N dotnet OpenSora.Distributed.Program.dll SCENARIO [ARGUMENT...]
using System.Globalization;
using OpenSora.Distributed;
using OpenSora.Distributed.Program;
using OpenSora.Mpi;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.InvariantCulture;
var scenarios = typeof(IScenario)
    .Assembly.GetTypes()
    .Where(type => type is { IsClass: true, IsAbstract: false } && type.IsAssignableTo(typeof(IScenario)))
    .Select(type => (IScenario)Activator.CreateInstance(type)!)
    .ToDictionary(scenario => scenario.Name, StringComparer.Ordinal);
if (args.Length == 0 || !scenarios.TryGetValue(args[0], out var chosen))
{
    Console.Error.WriteLine($"Usage: SCENARIO [ARGUMENT...]. Scenarios: {string.Join(", ", scenarios.Keys.Order(StringComparer.Ordinal))}");
    return 2;
}

MpiCollectives? group = null;
try
{
    var seconds = double.Parse(Environment.GetEnvironmentVariable("OPENSORA_TEST_TIMEOUT") ?? "60", CultureInfo.InvariantCulture);
    group = MpiCollectives.Create(TimeSpan.FromSeconds(seconds));
    using var output = new ScenarioOutput(group.Rank);
    chosen.Run(group, args[1..], output);
    group.Dispose();
    return 0;
}
catch (Exception e) when (e is CollectiveException or ScenarioException or ArgumentException or InvalidOperationException or DllNotFoundException)
{
    // Hydra drops what the others write to standard error after the death of a process.
    using var output = new ScenarioOutput(LaunchEnvironment.Read().Rank);
    output.WriteLine($"{e.GetType().Name}: {e.Message}");
    if (e is CollectiveException && Environment.GetEnvironmentVariable("OPENSORA_TEST_ABORT") is { Length: > 0 })
    {
        group?.Abort(3);
    }

    return 1;
}
