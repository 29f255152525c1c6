using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using OpenSora.Generation;
using OpenSora.Models;
using OpenSora.Training.Stages;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Measures the main computations of the library in float32 and bfloat16: time, speed as a fraction of the speed of a matrix multiplication,
/// and peak memory. The transformer has the size at which the original code is timed: depth 12, width 384, 6 heads, latents of 16x32x32, batch size
/// 2, 120 text tokens.</summary>
internal static class Performance
{
    /// <summary>The environment variable with the path of a folder that contains bench_reference.py and the original source code in ref/. If it is
    /// not set, the original code is not run.</summary>
    private const string ReferenceVariable = "OPENSORA_REFERENCE";

    private const int Runs = 3;

    private static readonly StdiTConfig Size = new()
    {
        InputSize = [16, 32, 32],
        HiddenSize = 384,
        Depth = 12,
        NumHeads = 6,
        CaptionChannels = 4096,
        ModelMaxLength = 120,
        ClassDropoutProb = 0,
    };

    /// <summary>Runs the benchmark and prints a table.</summary>
    /// <param name="rows">Text that selects the rows to measure by name, or null to measure all rows.</param>
    public static void Run(string? rows)
    {
        var last = 0.0;
        var product = new Dictionary<ScalarType, double>();
        Console.WriteLine("| operation | type | seconds | GFLOP/s | fraction of matrix multiplication | peak MB |\n|---|---|---|---|---|---|");
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            const double Operations = 2.0 * 8192 * 1152 * 1152;
            using var scope = NewDisposeScope();
            using var mode = no_grad();
            var (a, b) = (randn(8192, 1152).to(type), randn(1152, 1152).to(type));
            var seconds = Best(() => a.mm(b).Dispose());
            product[type] = Operations / seconds / 1e9;
            Row("matrix multiplication 8192x1152x1152", type, seconds, Operations, 0);
        }
        foreach (var type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            var operations = 2e9 * FlopEstimate.Of(Size, 16, 32, 32).Total / 1e9;
            Measure("STDiT forward, 16x32x32", type, operations, () => Forward(new StdiT(Size), type, 16, Size.CaptionChannels, 120));
            Original("STDiT forward", "fwd");
            Measure("STDiT training step, 16x32x32", type, 3 * operations, () => TrainingStep(type));
            Original("STDiT training step", "fwdbwd");
            foreach (var frames in new[] { 8, 16, 32, 64 })
            {
                var (serial, full) = (
                    Size with
                    {
                        InputSize = [frames, 32, 32],
                    },
                    new DiTConfig
                    {
                        InputSize = [frames, 32, 32],
                        HiddenSize = 384,
                        Depth = 12,
                        NumHeads = 6,
                        ClassDropoutProb = 0,
                    }
                );
                Measure(
                    $"STDiT forward, {frames}x32x32",
                    type,
                    2 * FlopEstimate.Of(serial, frames, 32, 32).Total,
                    () => Forward(new StdiT(serial), type, frames, 4096, 120),
                    runs: 1
                );
                Measure(
                    $"full attention (DiT) forward, {frames}x32x32",
                    type,
                    2 * FlopEstimate.Of(full, frames, 32, 32).Total,
                    () => Forward(new DiT(full), type, frames, 512, 1),
                    runs: 1
                );
            }
            Measure("VAE decode, 4x32x32", type, double.NaN, () => Decode(type));
            var t5 = new T5Config
            {
                DModel = 1024,
                DFf = 2816,
                NumLayers = 24,
                NumHeads = 16,
            };
            Measure("T5 encode (large), 2x120 tokens", type, 2 * FlopEstimate.OfEncoding(t5, 120).Total, () => Encode(t5, type));
            Measure("generation with the bundled model, 24 frames", type, double.NaN, () => Generation(type));
        }

        void Measure(string name, ScalarType type, double operations, Func<(Action Run, IDisposable Owned)> prepare, int runs = Runs)
        {
            if (rows is not null && !$"{name}, {type}".Contains(rows, StringComparison.OrdinalIgnoreCase))
            {
                return;
            }

            using var scope = NewDisposeScope();
            var before = ResidentMemory.Start();
            var (run, owned) = prepare();
            using (owned)
            {
                var seconds = last = Best(run, runs);
                Row(name, type, seconds, operations, ResidentMemory.Peak() - before);
            }
        }

        // Run the original code right after each of our rows, because the speed of a shared machine changes within minutes.
        void Original(string name, string mode)
        {
            var folder = Environment.GetEnvironmentVariable(ReferenceVariable);
            if (folder is null || (rows is not null && !name.Contains(rows, StringComparison.OrdinalIgnoreCase)))
            {
                return;
            }

            using var process = Process.Start(
                new ProcessStartInfo("/usr/bin/python3", ["bench_reference.py", "ONE", "stdit", "16", "2", mode, $"{Runs}"])
                {
                    WorkingDirectory = folder,
                    RedirectStandardOutput = true,
                    UseShellExecute = false,
                }
            )!;
            var output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            if (process.ExitCode != 0)
            {
                throw new InvalidOperationException($"The original code failed with exit code {process.ExitCode}.");
            }

            using var json = JsonDocument.Parse(output);
            var seconds = json.RootElement.GetProperty("min_s").GetDouble();
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"| original {name}, 16x32x32 (ours is {seconds / last:F2} times as fast) | float32 | {seconds:F3} | | | "
                        + $"{json.RootElement.GetProperty("peak_rss_mib").GetDouble() * 1.048576:F0} (whole process) |"
                )
            );
        }

        void Row(string name, ScalarType type, double seconds, double operations, double bytes)
        {
            var speed = operations / seconds / 1e9;
            Console.WriteLine(
                string.Create(CultureInfo.InvariantCulture, $"| {name} | {(type == ScalarType.Float32 ? "float32" : "bfloat16")} | {seconds:F3} | ")
                    + (double.IsNaN(speed) ? "| | " : string.Create(CultureInfo.InvariantCulture, $"{speed:F0} | {speed / product[type]:P0} | "))
                    + string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:F0} |")
            );
        }
    }

    private static double Best(Action run, int runs = Runs)
    {
        run();
        return Enumerable
            .Range(0, runs)
            .Min(_ =>
            {
                var start = Stopwatch.GetTimestamp();
                run();
                return Stopwatch.GetElapsedTime(start).TotalSeconds;
            });
    }

    private static (Action, IDisposable) Forward(IVideoTransformer model, ScalarType type, int frames, int width, int tokens)
    {
        var module = (nn.Module)model;
        module.UseComputeType(type == ScalarType.Float32 ? null : type);
        module.eval();
        var (x, t, conditions) = (randn([2, 4, frames, 32, 32]), full([2], 500f), new DenoiserConditions(randn(2, tokens, width), null));
        return (
            () =>
            {
                using var mode = no_grad();
                using var scope = NewDisposeScope();
                model.Denoise(x, t, conditions);
            },
            model
        );
    }

    private static (Action, IDisposable) TrainingStep(ScalarType type)
    {
        var model = new StdiT(Size);
        model.UseComputeType(type == ScalarType.Float32 ? null : type);
        var (x, t, y) = (randn([2, 4, 16, 32, 32]), full([2], 500f), randn(2, 1, 120, 4096));
        return (
            () =>
            {
                using var scope = NewDisposeScope();
                model.zero_grad();
                model.forward(x, t, y, null).square().mean().backward();
            },
            model
        );
    }

    private static (Action, IDisposable) Decode(ScalarType type)
    {
        var model = new AutoencoderKL(new AutoencoderKLConfig());
        model.UseComputeType(type == ScalarType.Float32 ? null : type);
        var latents = randn([1, 4, 4, 32, 32]);
        return (
            () =>
            {
                using var mode = no_grad();
                model.Decode(latents).Dispose();
            },
            model
        );
    }

    private static (Action, IDisposable) Encode(T5Config config, ScalarType type)
    {
        var model = new T5TextEncoder(config);
        model.UseComputeType(type == ScalarType.Float32 ? null : type);
        var ids = randint(1, 1000, [2, 120], ScalarType.Int64);
        return (
            () =>
            {
                using var mode = no_grad();
                model.call(ids, null).Dispose();
            },
            model
        );
    }

    private static (Action, IDisposable) Generation(ScalarType type)
    {
        var generator = VideoGenerator.Create().UseModel("stickers").UseBackend("cpu").Configure(options => options.Precision = type).Build();
        return (() => generator.Request("a goat").Seed(7).GenerateAsync().GetAwaiter().GetResult(), generator);
    }
}
