using OpenSora.Training.Distributed;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Planning;

/// <summary>A stage of a training plan, for which the cost is estimated.</summary>
public sealed record PlannedStage
{
    /// <summary>The name of the stage, which the table shows.</summary>
    public required string Name { get; init; }

    /// <summary>The number of optimizer steps.</summary>
    public required long Steps { get; init; }

    /// <summary>The number of samples that one device processes at a time.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>The number of batches that a device processes for one optimizer step.</summary>
    public int Accumulation { get; init; } = 1;

    /// <summary>The number of frames of a clip.</summary>
    public int Frames { get; init; } = 16;

    /// <summary>The height of a clip in pixels.</summary>
    public int Height { get; init; } = 256;

    /// <summary>The width of a clip in pixels.</summary>
    public int Width { get; init; } = 256;

    /// <summary>Recomputes blocks in the backward pass, which takes a third more work and keeps far fewer activations.</summary>
    public bool GradientCheckpointing { get; init; }

    /// <summary>The number of slices in which blocks are recomputed (see <see cref="Stages.TrainingStage.CheckpointSlices"/>).</summary>
    public int CheckpointSlices { get; init; } = 1;

    /// <summary>What is in host memory; null for nothing.</summary>
    public OffloadOptions? Offload { get; init; }

    /// <summary>The state that each device holds only a part of.</summary>
    public Sharding Sharding { get; init; }

    /// <summary>The number of devices among which the tokens of a clip are divided.</summary>
    public int SequenceParallel { get; init; } = 1;

    /// <summary>Encodes clips once, before training. If false, clips are encoded every time they are used.</summary>
    public bool CachedLatents { get; init; }

    /// <summary>Encodes captions once, before training. If false, captions are encoded every time they are used.</summary>
    public bool CachedText { get; init; }
}
