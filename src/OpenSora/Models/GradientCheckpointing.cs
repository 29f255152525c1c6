using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Training with less memory: what a block computes is not kept for the way back, but computed again there.</summary>
public static class GradientCheckpointing
{
    /// <summary>
    /// Lets the blocks of a model keep only their inputs until the backward pass, which then runs each block again (Chen et al., "Training Deep Nets
    /// with Sublinear
    /// Memory Cost", 2016). Activations then take the memory of one block rather than of all; a step takes about a third longer. Gradients stay the
    /// same, and
    /// without gradients nothing changes.
    /// </summary>
    /// <param name="model">Any model of this library; one without such blocks is left as it is.</param>
    /// <param name="on">Whether activations are computed again.</param>
    /// <returns>The model.</returns>
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

    /// <summary>Runs a function that keeps its inputs only, and runs again in the backward pass.</summary>
    /// <param name="module">The module whose parameters the function uses.</param>
    /// <param name="function">The function; it gets the inputs in their order. It must compute the same each time: no dropout within.</param>
    /// <param name="inputs">All tensors, apart from the parameters, that the function depends on.</param>
    /// <returns>What the function returns.</returns>
    public static Tensor Checkpoint(this nn.Module module, Func<Tensor?[], Tensor> function, params Tensor?[] inputs) =>
        Checkpointed.Run(module, function, inputs);
}
