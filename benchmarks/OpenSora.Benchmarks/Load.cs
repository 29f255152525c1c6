using System.Diagnostics;
using System.Globalization;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>What loading STDiT-XL/2 costs before, and after, its weights are first used.</summary>
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
            Console.WriteLine("| step | CPU s | wall s | resident MB, growth since before the model |\n|---|---|---|---|");
            Measure(path);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static void Measure(string path)
    {
        // The library's own code and libraries are loaded by a tiny model.
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
        Step("make the model, parameters unset", () => stdit = new StdiT(StdiTConfig.Preset("STDiT-XL/2"), initialize: false));
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

    /// <summary>Writes random weights of the published size.</summary>
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

    /// <summary>Bytes of memory that the process has in RAM, those of mapped files included.</summary>
    private static long Resident() => Environment.WorkingSet;
}
