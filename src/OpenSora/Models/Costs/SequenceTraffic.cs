using OpenSora.Models.Layers;
using TorchSharp;

namespace OpenSora.Models;

/// <summary>The data that a process sends if the tokens of a transformer are divided among processes
/// (<see cref="ModelExtensions.UseSequenceParallel"/>), computed from the configuration.</summary>
/// <param name="Exchanges">The number of all-to-all operations in a forward pass.</param>
/// <param name="Forward">The bytes that a process sends in a forward pass.</param>
/// <param name="Backward">The bytes that a process sends in a backward pass.</param>
internal readonly record struct SequenceTraffic(int Exchanges, double Forward, double Backward)
{
    /// <summary>Computes the data of one call.</summary>
    /// <remarks>An exchange sends (N - 1) / N of the tokens of a process, where shares count with the size of the largest one. There are two
    /// exchanges for each attention along time. The output is sent to all other processes. With gradient checkpointing, the backward pass repeats the
    /// exchanges of the forward pass.</remarks>
    /// <param name="model">The transformer.</param>
    /// <param name="size">The size of the latents.</param>
    /// <param name="processes">The number of processes.</param>
    /// <param name="checkpointing">Whether the blocks use gradient checkpointing.</param>
    public static SequenceTraffic Of(IVideoTransformer model, CallSize size, int processes, bool checkpointing = false)
    {
        var divisible = (IDivisible)model;
        var (config, patch) = (divisible.Config, divisible.Config.PatchSize);
        if (!SequenceParallel.Divides(processes, [size.Batch, config.InChannels, size.Frames, size.Height, size.Width], patch))
        {
            return default;
        }

        long Tokens(long length, int axis) => (length + patch[axis] - 1) / patch[axis];
        var frames = SequenceParallel.Largest(Tokens(size.Frames, 0), processes);
        var places = SequenceParallel.Largest(Tokens(size.Height, 1) * Tokens(size.Width, 2), processes);
        var exchanges = 2 * divisible.TemporalAttentions;
        var part = (double)size.Batch * frames * places * config.HiddenSize * NetworkCost.BytesOf((torch.nn.Module)model);
        var output = (double)size.Batch * config.OutChannels * frames * patch[0] * size.Height * size.Width * sizeof(float);
        var tokens = exchanges * part * (processes - 1);
        return new(exchanges, tokens + output * (processes - 1), checkpointing ? 2 * tokens : tokens);
    }
}
