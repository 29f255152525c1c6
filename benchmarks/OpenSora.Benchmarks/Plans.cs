using System.Diagnostics;
using System.Globalization;
using OpenSora.Models;
using OpenSora.Training.Planning;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Compares the step time and the peak memory that a plan predicts from the speeds of single operations with measurements. Each
/// configuration is measured in a process of its own, in processor time of one thread. Linux only.</summary>
internal static class Plans
{
    /// <summary>The first argument of a process that measures a configuration.</summary>
    public const string Child = "plan-row";

    private static readonly StdiTConfig Model = new()
    {
        HiddenSize = 384,
        Depth = 6,
        NumHeads = 6,
        CaptionChannels = 128,
        ModelMaxLength = 20,
    };

    private static readonly OffloadOptions Optimizer = new() { Optimizer = true },
        Activations = new() { Activations = true },
        Everything =
            new()
            {
                Optimizer = true,
                Activations = true,
                Parameters = true,
            };

    private static readonly (string Name, MemoryCase Case)[] Rows =
    [
        ("plain", Case(false)),
        ("plain, bfloat16", Case(false) with { BFloat16 = true }),
        ("checkpointing", Case(true)),
        ("checkpointing, bfloat16", Case(true) with { BFloat16 = true }),
        ("checkpointing, 4 slices", Case(true) with { Slices = 4 }),
        ("optimizer on the host", Case(true) with { Offload = Optimizer }),
        ("activations on the host", Case(true) with { Offload = Activations }),
        ("everything on the host", Case(true) with { Offload = Everything }),
        ("everything on the host, 4 slices", Case(true) with { Offload = Everything, Slices = 4 }),
        ("more frames, checkpointing", Case(true) with { Frames = 32, Batch = 1 }),
        ("more frames, everything on the host, 8 slices", Case(true) with { Frames = 32, Batch = 1, Offload = Everything, Slices = 8 }),
    ];

    private static MemoryCase Case(bool checkpointing) => new(Model, 2, 8, 32, BFloat16: false, checkpointing);

    /// <summary>Prints a table with a row for each configuration.</summary>
    public static void Run()
    {
        var measured = Speeds();
        foreach (var (name, value) in measured)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {name}: {value / 1e9:F1} G/s"));
        }

        Console.WriteLine(
            "\n| configuration | predicted MB | measured MB | ratio | predicted s | measured s | ratio |\n|---|---|---|---|---|---|---|"
        );
        var chosen = Environment.GetEnvironmentVariable("OPENSORA_BENCH_ROWS");
        foreach (var (i, (name, one)) in Rows.Index().Where(row => chosen is null || row.Item.Name.Contains(chosen, StringComparison.Ordinal)))
        {
            if (InProcess(i, "memory") is not { } bytes || InProcess(i, "time") is not { } seconds)
            {
                Console.WriteLine($"| {name} | failed | | | | | |");
                continue;
            }

            var (memory, time) = (one.Estimate(), one.Plan(Machine(measured, one.BFloat16)).Estimate()[0].StepTime.TotalSeconds);
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"| {name} | {memory / 1e6:F0} | {bytes / 1e6:F0} | {memory / bytes:F2} | {time:F2} | {seconds:F2} | {time / seconds:F2} |"
                )
            );
        }
    }

    private static double? InProcess(int number, string what)
    {
        using var process = Process.Start(
            new ProcessStartInfo(Environment.ProcessPath!, [typeof(Plans).Assembly.Location, Child, $"{number}", what])
            {
                UseShellExecute = false,
                RedirectStandardOutput = true,
            }
        )!;
        var result = process.StandardOutput.ReadToEnd().Trim();
        process.WaitForExit();
        return process.ExitCode == 0 ? double.Parse(result, CultureInfo.InvariantCulture) : null;
    }

    /// <summary>Measures one configuration in this process, and prints the bytes or the seconds.</summary>
    /// <returns>The exit code of the process.</returns>
    public static int Measure(int number, string what)
    {
        set_num_threads(1);
        var one = Rows[number].Case;
        if (string.Equals(what, "memory", StringComparison.Ordinal))
        {
            (one with { Model = Model with { Depth = 1 }, Frames = 2, Side = 8, Batch = 1 }).Measure(); // maps what the libraries need for themselves
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{one.Measure():F0}"));
            return 0;
        }

        // The plan does not count the time in which the operating system clears pages, which is no part of a step on a GPU either.
        ResidentMemory.KeepFreed();
        var seconds = new List<double>();
        one.Train(() => seconds.Add(Environment.CpuUsage.TotalTime.TotalSeconds), steps: 5);
        var steps = seconds.Zip(seconds.Skip(1), (from, to) => to - from).ToList(); // without the first step
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{steps.Min():F4}"));
        return 0;
    }

    private static Hardware Machine(Dictionary<string, double> measured, bool bfloat16)
    {
        var type = bfloat16 ? "bfloat16" : "float32";
        return Hardware.ThisMachine(measured["linear float32"], measured["linear bfloat16"]) with
        {
            AttentionSpeed = measured[$"attention {type}"] / measured[$"linear {type}"],
            MemoryBandwidth = measured[$"memory {type}"],
            HostBandwidth = measured["copy"],
            HostMemoryBandwidth = measured["memory float32"],
            DevicesPerServer = 1,
        };
    }

    // The speeds of matrix multiplications and attention in operations per second, those of element-wise operations and copies in bytes per second.
    private static Dictionary<string, double> Speeds()
    {
        set_num_threads(1);
        var speeds = new Dictionary<string, double>(StringComparer.Ordinal);
        long c = Model.HiddenSize,
            places = 256,
            n = 2 * 8 * places;
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            using var scope = NewDisposeScope();
            var name = type == ScalarType.Float32 ? "float32" : "bfloat16";
            // The mix of a block: the MLP, queries, keys and values, and projections. A backward pass has twice the operations of a forward pass.
            // Weights are float32 and converted to the type of the tokens, as in the models.
            Tensor Random(params long[] shape) => randn(shape).to(type).requires_grad_(true);
            Tensor Weight(long outputs) => randn(outputs, c).requires_grad_(true);
            var (x, w, w2, v) = (Random(n, c), Weight(4 * c), Weight(3 * c), Weight(c));
            Tensor Product(Tensor weight) => nn.functional.linear(x, weight.to(type)).square().sum();
            speeds[$"linear {name}"] = Passes(2.0 * n * c * c * (4 + 3 + 1), () => Product(w) + Product(w2) + Product(v));
            var (q, k, values) = (Heads(), Heads(), Heads());
            Tensor Heads() => Random(16, places, Model.NumHeads, c / Model.NumHeads);
            speeds[$"attention {name}"] = Passes(4.0 * 16 * places * places * c, () =>
                nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), values.transpose(1, 2)).sum()
            );
        }

        // Forward and backward.
        double Passes(double operations, Func<Tensor> forward) =>
            3
            * operations
            / Typical(() =>
            {
                using var pass = NewDisposeScope();
                forward().backward();
            });

        using var outer = NewDisposeScope();
        var (a, b, gate) = (randn(n, c), randn(n, c), randn(1, c));
        speeds["memory float32"] = 3.0 * 4 * n * c / Typical(() => a.addcmul(gate, b, 1).Dispose());
        speeds["copy"] = 4.0 * n * c / Typical(() => a.copy_(b));
        var (a16, b16, gate16) = (a.bfloat16(), b.bfloat16(), gate.bfloat16());
        speeds["memory bfloat16"] = 3.0 * 2 * n * c / Typical(() => a16.addcmul(gate16, b16, 1).Dispose());
        return speeds;
    }

    // The median processor time of several runs, in seconds.
    private static double Typical(Action action)
    {
        action();
        var times = new List<double>();
        for (var run = 0; run < 15; run++)
        {
            var start = Environment.CpuUsage.TotalTime;
            for (var i = 0; i < 4; i++)
            {
                action();
            }

            times.Add((Environment.CpuUsage.TotalTime - start).TotalSeconds / 4);
        }

        return times.Order().ElementAt(times.Count / 2);
    }
}
