using System.Globalization;
using System.Runtime.InteropServices;
using OpenSora.Models;
using OpenSora.Training.Data;
using OpenSora.Training.Planning;
using OpenSora.Training.Stages;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Benchmarks;

/// <summary>A configuration of a training step, used to measure and estimate its memory.</summary>
internal sealed record MemoryCase(StdiTConfig Model, int Batch, int Frames, int Side, bool BFloat16, bool Checkpointing)
{
    /// <summary>Estimates the peak memory in bytes.</summary>
    public double Estimate()
    {
        var stage = new PlannedStage
        {
            Name = "memory",
            Steps = 1,
            BatchSize = Batch,
            Frames = Frames,
            Height = 8 * Side,
            Width = 8 * Side,
            GradientCheckpointing = Checkpointing,
            CachedLatents = true,
            CachedText = true,
        };
        var plan = new TrainingPlan
        {
            Model = Model,
            BFloat16 = BFloat16,
            Stages = [stage],
        };
        return plan.Estimate()[0].PeakMemory;
    }

    /// <summary>Trains a few steps and returns the peak growth of the process's resident memory in bytes. Linux only.</summary>
    public double Measure()
    {
        using var scope = NewDisposeScope();
        var before = ResidentMemory.Start();
        using var model = new StdiT(Model);
        model.UseComputeType(BFloat16 ? ScalarType.BFloat16 : null);
        using var trainer = new StagedTrainer(model);
        trainer.AddStage(
            new TrainingStage
            {
                Name = "memory",
                Data = new Noise(this),
                Steps = 3,
                BatchSize = Batch,
                EmaDecay = 0.99,
                GradientCheckpointing = Checkpointing,
            }
        );
        trainer.RunAsync().GetAwaiter().GetResult();
        return ResidentMemory.Peak() - before;
    }

    private sealed class Noise(MemoryCase size) : ITrainingData
    {
        public long Count => 1000;

        public string Fingerprint => "noise";

        public ValueTask<TrainingBatch> GetBatchAsync(long number, int count, int seed, CancellationToken cancellationToken = default)
        {
            using var scope = NewDisposeScope();
            var text = randn(count, size.Model.ModelMaxLength, size.Model.CaptionChannels);
            return ValueTask.FromResult(
                new TrainingBatch(
                    randn([count, size.Model.InChannels, size.Frames, size.Side, size.Side]).MoveToOuterDisposeScope(),
                    text.MoveToOuterDisposeScope()
                )
            );
        }
    }
}

/// <summary>Measures the current and peak resident memory of the process. Linux only.</summary>
internal static partial class ResidentMemory
{
    private const int TrimThreshold = -1,
        MapThreshold = -3;

    /// <summary>Resets the peak.</summary>
    /// <returns>The current resident memory in bytes.</returns>
    public static double Start()
    {
        // Give every tensor its own pages, which are released with it. Otherwise memory that malloc keeps for reuse would be counted.
        _ = Option(MapThreshold, 64 << 10);
        _ = Option(TrimThreshold, 64 << 10);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        _ = Trim(0);
        Reset();
        return Read("VmRSS:");
    }

    /// <summary>Resets the peak, and nothing else.</summary>
    public static void Reset() => File.WriteAllText("/proc/self/clear_refs", "5");

    /// <summary>Gets the peak resident memory since the last reset in bytes.</summary>
    public static double Peak() => Read("VmHWM:");

    private static double Read(string name)
    {
        var line = File.ReadLines("/proc/self/status").First(line => line.StartsWith(name, StringComparison.Ordinal));
        return 1024 * double.Parse(line[name.Length..].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture);
    }

    [LibraryImport("libc", EntryPoint = "mallopt")]
    private static partial int Option(int parameter, int value);

    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    private static partial int Trim(nint keep);
}
