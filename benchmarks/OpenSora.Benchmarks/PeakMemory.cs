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
    /// <summary>What is offloaded; null for nothing.</summary>
    public OffloadOptions? Offload { get; init; }

    /// <summary>The number of slices of blocks that are recomputed.</summary>
    public int Slices { get; init; } = 1;

    /// <summary>Estimates the peak memory in bytes.</summary>
    public double Estimate() => Plan(Hardware.H800).Estimate()[0].PeakMemory;

    /// <summary>Creates a plan of the step.</summary>
    public TrainingPlan Plan(Hardware hardware)
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
            CheckpointSlices = Slices,
            Offload = Offload,
            CachedLatents = true,
            CachedText = true,
        };
        return new TrainingPlan
        {
            Model = Model,
            Hardware = hardware,
            BFloat16 = BFloat16,
            Stages = [stage],
        };
    }

    /// <summary>Trains two steps, of which the second one has all of the optimizer's state, and returns the peak growth of the process's resident
    /// memory in bytes. Linux only.</summary>
    public double Measure()
    {
        var before = ResidentMemory.Start();
        try
        {
            Train(null, steps: 2);
            return ResidentMemory.Peak() - before;
        }
        finally
        {
            ResidentMemory.Stop();
        }
    }

    /// <summary>Measures twice, and up to twice more if the estimate is less than a share of what was measured. Other memory of the process only
    /// adds to a measurement, so the least one counts.</summary>
    public double MeasureLeast(double share)
    {
        var least = double.PositiveInfinity;
        for (var i = 0; i < 2 || (i < 4 && Estimate() < share * least); i++)
        {
            least = Math.Min(least, Measure());
        }

        return least;
    }

    /// <summary>Trains a few steps.</summary>
    /// <param name="stepDone">Called after each step; null for nothing.</param>
    /// <param name="steps">The number of steps.</param>
    public void Train(Action? stepDone, int steps)
    {
        using var scope = NewDisposeScope();
        using var model = new StdiT(Model);
        model.UseComputeType(BFloat16 ? ScalarType.BFloat16 : null);
        using var trainer = new StagedTrainer(model);
        trainer.AddStage(
            new TrainingStage
            {
                Name = "memory",
                Data = new Noise(this),
                Steps = steps,
                BatchSize = Batch,
                EmaDecay = 0.99,
                GradientCheckpointing = Checkpointing,
                CheckpointSlices = Slices,
                Offload = Offload,
            }
        );
        trainer.RunAsync(stepDone is null ? null : new StepDone(stepDone)).GetAwaiter().GetResult();
    }

    private sealed class StepDone(Action action) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => action();
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
        MapThreshold = -3,
        MaxMaps = -4,
        MaxArenas = -8;

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

    /// <summary>Lets malloc reuse the memory of tensors again, as it does by default. Without this, the process would stay slower.</summary>
    public static void Stop()
    {
        // The largest thresholds that malloc chooses by itself.
        _ = Option(MapThreshold, 32 << 20);
        _ = Option(TrimThreshold, 64 << 20);
    }

    /// <summary>Lets the process keep memory that tensors no longer use, for the next ones.</summary>
    public static void KeepFreed()
    {
        _ = Option(MaxMaps, 0);
        _ = Option(MaxArenas, 1);
        _ = Option(TrimThreshold, int.MaxValue);
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
