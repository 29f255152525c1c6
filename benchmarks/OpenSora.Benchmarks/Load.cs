using System.Diagnostics;
using System.Globalization;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>Measures the cost of loading STDiT-XL/2, before and after its weights are first used.</summary>
internal static class Load
{
    public static void Run()
    {
        var folder = Directory.CreateTempSubdirectory("opensora-load-");
        try
        {
            var path = Path.Combine(folder.FullName, "stdit-xl-2.safetensors");
            MakeFile(path);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"file: {new FileInfo(path).Length / 1e9:F2} GB\n"));
            Console.WriteLine("| step | CPU s | wall s | growth of resident memory since the start, MB |\n|---|---|---|---|");
            Measure(path);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static void Measure(string path)
    {
        // Load a tiny model first, so that the code and native libraries are already in memory.
        var tiny = Path.ChangeExtension(path, ".tiny.safetensors");
        using (
            var model = new StdiT(
                new StdiTConfig
                {
                    HiddenSize = 48,
                    Depth = 1,
                    NumHeads = 2,
                    CaptionChannels = 16,
                    InputSize = [1, 4, 4],
                }
            )
        )
        {
            model.SaveWeights(tiny);
            model.LoadWeights(tiny);
        }

        var before = Resident();
        StdiT? stdit = null;
        Step("create the model without initializing parameters", () => stdit = new StdiT(StdiTConfig.Preset("STDiT-XL/2"), initialize: false));
        Step("load", () => stdit!.LoadWeights(path));
        Step("use every weight once", () =>
        {
            using var scope = NewDisposeScope();
            using var noGradients = no_grad();
            foreach (var parameter in stdit!.parameters())
            {
                parameter.sum();
            }
        });
        Step("dispose of the model", () => stdit!.Dispose());

        void Step(string what, Action run)
        {
            var (cpu, wall) = (Process.GetCurrentProcess().TotalProcessorTime, Stopwatch.GetTimestamp());
            run();
            var seconds = (Process.GetCurrentProcess().TotalProcessorTime - cpu).TotalSeconds;
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"| {what} | {seconds:F2} | {Stopwatch.GetElapsedTime(wall).TotalSeconds:F2} | {(Resident() - before) / 1e6:F0} |"
                )
            );
        }
    }

    /// <summary>Writes a file of random weights with the published size.</summary>
    private static void MakeFile(string path)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var model = new StdiT(StdiTConfig.Preset("STDiT-XL/2"), initialize: false);
        using var generator = new Generator(1);
        foreach (var (_, tensor) in model.state_dict())
        {
            tensor.uniform_(-0.02, 0.02, generator);
        }

        model.SaveWeights(path);
    }

    /// <summary>Gets the resident memory of the process in bytes, including memory-mapped files.</summary>
    private static long Resident() => Environment.WorkingSet;
}
