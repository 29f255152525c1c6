using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Controls where the blocks of a model keep their weights and inputs during a training step with gradient checkpointing (see
/// <see cref="ModelExtensions.UseBlockMemory"/>).</summary>
/// <remarks>Blocks that run on several threads at the same time call the members at the same time.</remarks>
public interface IBlockMemory
{
    /// <summary>Makes the weights of a block available until the returned object is disposed.</summary>
    /// <param name="block">The block that runs.</param>
    /// <param name="isBackward">Whether the block runs again in the backward pass.</param>
    /// <returns>An object that releases the weights; null if there is nothing to release.</returns>
    IDisposable? Use(nn.Module block, bool isBackward);

    /// <summary>Moves the first input of a block to other memory after the forward pass of the block.</summary>
    /// <param name="input">The input. It is released after this call.</param>
    /// <returns>A function that returns the values of the input, in the backward pass, on the device of the input; null to keep the input where it
    /// is. The caller disposes the tensor.</returns>
    Func<Tensor>? Keep(Tensor input);
}
