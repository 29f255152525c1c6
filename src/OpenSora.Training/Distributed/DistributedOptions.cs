using OpenSora.Models;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Distributed;

/// <summary>The state of training that each process of a group holds only a part of (ZeRO; Rajbhandari et al., "ZeRO: Memory Optimizations Toward
/// Training Trillion Parameter Models", 2020). Losses and weights are the same, apart from rounding.</summary>
public enum Sharding
{
    /// <summary>Every process holds everything.</summary>
    None,

    /// <summary>Each process holds its part of the optimizer state and of the moving averages (ZeRO stage 1).</summary>
    OptimizerState,

    /// <summary>Each process also holds only its part of the gradients (ZeRO stage 2). With <see cref="TrainingStage.Accumulation"/>, gradients are
    /// sent after every batch instead of once for each step.</summary>
    Gradients,
}

/// <summary>The settings of training with several processes.</summary>
internal sealed class DistributedOptions
{
    /// <summary>The default of <see cref="BucketBytes"/>.</summary>
    public const int DefaultBucketBytes = 25_000_000;

    /// <summary>The state that each process holds only a part of.</summary>
    public Sharding Sharding { get; init; }

    /// <summary>The number of processes that compute a sample together, each with some of the frames
    /// (<see cref="ModelExtensions.UseSequenceParallel"/>).</summary>
    public int SequenceProcesses { get; init; } = 1;

    /// <summary>The size of a bucket in bytes.</summary>
    public int BucketBytes { get; init; } = DefaultBucketBytes;

    /// <summary>Gets the errors in the options, one sentence each.</summary>
    public IEnumerable<string> Problems()
    {
        if (!Enum.IsDefined(Sharding))
        {
            yield return $"{nameof(Sharding)} is {Sharding}; it must be one of {string.Join(", ", Enum.GetNames<Sharding>())}.";
        }

        if (SequenceProcesses < 1)
        {
            yield return $"{nameof(SequenceProcesses)} is {SequenceProcesses}; it must be at least 1.";
        }

        if (BucketBytes < 1)
        {
            yield return $"{nameof(BucketBytes)} is {BucketBytes}; it must be above 0.";
        }
    }
}
