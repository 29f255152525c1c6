using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Reduces the memory that training needs by recomputing the activations of blocks in the backward pass instead of storing them.</summary>
public static class GradientCheckpointing
{
    /// <summary>
    /// Makes the blocks of a model keep only their inputs until the backward pass, which then runs each block again (Chen et al., "Training Deep Nets
    /// with Sublinear Memory Cost", 2016). Activations then need the memory of one block instead of all blocks, and a training step takes about a
    /// third longer. Gradients are unchanged, and nothing changes when gradients are disabled.
    /// </summary>
    /// <param name="model">A model of this library; a model without such blocks is left unchanged.</param>
    /// <param name="on">Whether to recompute activations in the backward pass.</param>
    /// <returns>The same model.</returns>
    public static TModel UseGradientCheckpointing<TModel>(this TModel model, bool on = true)
        where TModel : nn.Module
    {
        ArgumentNullException.ThrowIfNull(model);
        foreach (var block in model.modules().OfType<ICheckpointedBlock>())
        {
            block.GradientCheckpointing = on;
        }

        return model;
    }

    /// <summary>Runs a function so that only its inputs are kept and the function runs again in the backward pass.</summary>
    /// <param name="module">The module that owns the parameters the function uses.</param>
    /// <param name="function">The function, which receives the inputs in order. It must compute the same result each time, so it must not use
    /// dropout.</param>
    /// <param name="inputs">All tensors, other than the parameters, on which the function depends.</param>
    /// <returns>The result of the function.</returns>
    public static Tensor Checkpoint(this nn.Module module, Func<Tensor?[], Tensor> function, params Tensor?[] inputs) =>
        Checkpointed.Run(module, function, inputs);
}
