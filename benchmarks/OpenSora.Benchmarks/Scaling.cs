using System.Diagnostics;
using System.Globalization;
using OpenSora.Mpi;
using OpenSora.Training.Distributed;

namespace OpenSora.Benchmarks;

/// <summary>A training step over 1 and 2 processes, each with one thread on its own core: time, bytes sent and memory compared with the
/// plan.</summary>
internal static class Scaling
{
    /// <summary>The argument of a process of the benchmark.</summary>
    public const string Child = "scaling-process";

    public static void Run()
    {
        Console.WriteLine("time of a step, 8 samples of 4x32x32 latents, hidden size 192");
        var one = Measure(1, Sharding.None, "time").Single();
        Console.WriteLine(FormattableString.Invariant($"  1 process                 {one[0]:F3} s"));
        foreach (var sharding in Enum.GetValues<Sharding>())
        {
            var two = Measure(2, sharding, "time");
            Console.WriteLine(
                FormattableString.Invariant($"  2 processes, {sharding, -14} {two[0][0]:F3} s, efficiency {one[0] / (2 * two[0][0]):P0}, ")
                    + FormattableString.Invariant($"{two[0][2] / 1e6:F2} MB for each step, plan {two[0][4] / 1e6:F2} MB")
            );
        }

        Console.WriteLine("memory of a process, hidden size 512, small activations");
        foreach (var (processes, sharding) in new[] { (1, Sharding.None), (2, Sharding.None), (2, Sharding.OptimizerState), (2, Sharding.Gradients) })
        {
            foreach (var process in Measure(processes, sharding, "memory"))
            {
                Console.WriteLine(
                    FormattableString.Invariant($"  of {processes}, {sharding, -14} {process[1] / 1e6:F0} MB, plan {process[3] / 1e6:F0} MB, ")
                        + FormattableString.Invariant($"{process[1] / process[3] - 1:+0.0%;-0.0%}")
                );
            }
        }
    }

    /// <summary>Measures in one process and prints the numbers.</summary>
    public static int Measure(string kind, string sharding)
    {
        using var group = MpiCollectives.Create(TimeSpan.FromMinutes(2));
        var chosen = Enum.Parse<Sharding>(sharding);
        var scale = string.Equals(kind, "time", StringComparison.Ordinal)
            ? TrainingScale.Measure(group, TrainingScale.Narrow, chosen, batch: 8, side: 32)
            : TrainingScale.Measure(group, TrainingScale.Wide, chosen, batch: 2, side: 4);
        double[] numbers = [scale.StepTime, scale.Memory, scale.BytesPerStep, scale.Plan.Memory, scale.Plan.BytesPerStep];
        Console.WriteLine($"{Child} {group.Rank} {string.Join(' ', numbers.Select(number => number.ToString("R", CultureInfo.InvariantCulture)))}");
        return 0;
    }

    // The numbers of each process, in the order of the processes.
    private static List<double[]> Measure(int processes, Sharding sharding, string kind)
    {
        var program = Path.Combine(AppContext.BaseDirectory, "OpenSora.Benchmarks.dll");
        string[] arguments =
        [
            "-np",
            processes.ToString(CultureInfo.InvariantCulture),
            "-bind-to",
            "core",
            "dotnet",
            program,
            Child,
            kind,
            sharding.ToString(),
        ];
        var start = new ProcessStartInfo("mpirun.mpich", arguments) { UseShellExecute = false, RedirectStandardOutput = true };
        start.Environment["OMP_NUM_THREADS"] = "1";
        using var process = Process.Start(start)!;
        var lines = process.StandardOutput.ReadToEnd().Split('\n');
        process.WaitForExit();
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException($"mpirun.mpich ended with the exit code {process.ExitCode}.");
        }

        return
        [
            .. lines
                .Where(line => line.StartsWith(Child, StringComparison.Ordinal))
                .Select(line => line.Split(' ')[1..].Select(number => double.Parse(number, CultureInfo.InvariantCulture)).ToArray())
                .OrderBy(numbers => numbers[0])
                .Select(numbers => numbers[1..]),
        ];
    }
}
