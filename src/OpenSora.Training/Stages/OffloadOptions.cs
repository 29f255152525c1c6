using System.Text.Json.Serialization;

namespace OpenSora.Training.Stages;

/// <summary>What a stage keeps in host memory instead of the memory of the training device, so that larger models and longer videos fit.</summary>
/// <remarks>
/// <para>If the model is on the CPU, host memory and device memory are the same. What is offloaded is then in temporary files that are mapped into
/// memory, so that the operating system can write it to disk. The results are the same, bit for bit.</para>
/// <para>Offloading requires <see cref="TrainingStage.Workers"/> 1. With several processes, only <see cref="Activations"/> is supported.</para>
/// <para>Offloading does not change what is computed, so a resumed run can use other options.</para>
/// </remarks>
public class OffloadOptions
{
    /// <summary>Keeps the state of the optimizer and the moving averages in host memory, where the CPU updates them. The weights of blocks with
    /// gradient checkpointing are updated while the next step computes earlier blocks. A callback or <see cref="IProgress{T}"/> that reads weights
    /// while the stage runs must do so in <see cref="Callbacks.TrainingRun.Evaluate"/>.</summary>
    public bool Optimizer { get; set; }

    /// <summary>Moves the inputs of blocks to host memory after the forward pass of the block, and back before its backward pass. This requires
    /// <see cref="TrainingStage.GradientCheckpointing"/>.</summary>
    public bool Activations { get; set; }

    /// <summary>Keeps the weights of blocks in host memory, except while a block computes. This requires
    /// <see cref="TrainingStage.GradientCheckpointing"/> and <see cref="Optimizer"/>.</summary>
    public bool Parameters { get; set; }

    /// <summary>The folder for the temporary files of a model on the CPU; empty for the system's folder for temporary files. For a model on another
    /// device, host memory is used if this is empty, and temporary files in this folder otherwise.</summary>
    public string Folder { get; set; } = "";

    /// <summary>Whether the CPU is treated as another device, with its own copies of everything. This is for tests.</summary>
    [JsonIgnore]
    internal bool Copies { get; set; }
}
