using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Extension methods that load and save the weights of a network, count its parameters, and set how it computes: its data type, and the
/// activations that it keeps for the backward pass.</summary>
public static partial class ModelExtensions
{
    /// <summary>
    /// Sets the data type in which the linear layers, convolutions and attention of a model compute, such as bfloat16, while its parameters keep
    /// their type (mixed precision, Micikevicius et al., 2018). Activations between these layers also have that type; softmax, the time embedding and
    /// the last layer are unaffected.
    /// </summary>
    /// <param name="model">A model of this library.</param>
    /// <param name="type">The data type, or null for the type of the parameters.</param>
    /// <returns>The same model.</returns>
    public static TModel UseComputeType<TModel>(this TModel model, ScalarType? type)
        where TModel : nn.Module
    {
        ArgumentNullException.ThrowIfNull(model);
        foreach (var layer in model.modules().OfType<IComputeLayer>())
        {
            layer.ComputeType = type;
        }

        return model;
    }

    /// <summary>
    /// Makes the blocks of a model keep only their inputs until the backward pass, which then runs each block again (Chen et al., "Training Deep Nets
    /// with Sublinear Memory Cost", 2016). Activations then need the memory of one block instead of all blocks, and a training step takes about a
    /// third longer. Gradients are unchanged, and nothing changes when gradients are disabled.
    /// </summary>
    /// <param name="model">A model of this library, or one with blocks that call <see cref="Checkpoint"/>; other models compute as before.</param>
    /// <param name="on">Whether to recompute activations in the backward pass.</param>
    /// <param name="slices">The number of slices of the tokens in which the parts of an <see cref="StdiT"/> block run one after the other. While a
    /// block is recomputed, it then needs the memory of one slice of one of its parts, and runs a second time. Sums are rounded differently. Other
    /// models ignore this value.</param>
    /// <returns>The same model.</returns>
    public static TModel UseGradientCheckpointing<TModel>(this TModel model, bool on = true, int slices = 1)
        where TModel : nn.Module
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentOutOfRangeException.ThrowIfLessThan(slices, 1);
        foreach (var module in model.modules())
        {
            Checkpointed.Set(module, on, slices);
        }

        return model;
    }

    /// <summary>Enables gradient checkpointing, and controls where the blocks keep their weights and inputs during a training step.</summary>
    /// <param name="model">A model of this library, or one with blocks that call <see cref="Checkpoint"/>; other models compute as before.</param>
    /// <param name="memory">The memory. It is used until <see cref="UseGradientCheckpointing"/> is called again.</param>
    /// <returns>The same model.</returns>
    public static TModel UseBlockMemory<TModel>(this TModel model, IBlockMemory memory)
        where TModel : nn.Module
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(memory);
        foreach (var module in model.modules())
        {
            Checkpointed.Set(module, memory);
        }

        return model;
    }

    /// <summary>Watches the blocks of a model: calls a function when a forward pass with gradients comes to a block, and calls what it returns when
    /// the backward pass has completed the block. The gradients of its parameters can then be used while the pass continues with the blocks before
    /// it, as data parallel training does.</summary>
    /// <remarks>Gradients of parameters that are also used elsewhere may be incomplete. Both passes wait until the functions return.</remarks>
    /// <param name="model">A model of this library, or one with blocks that call <see cref="Checkpoint"/>; other models have no blocks.</param>
    /// <param name="entered">The function, which receives the block. A model can have only one at a time.</param>
    /// <returns>An object that ends the calls in forward passes when it is disposed of.</returns>
    /// <exception cref="ArgumentException">The model has a function already.</exception>
    public static IDisposable WatchBlocks(this nn.Module model, Func<nn.Module, Action> entered)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(entered);
        return GradientMark.Watch(model, entered);
    }

    /// <summary>Counts the trainable parameters of a network by part, in the order of the network. The parts of a transformer are those of
    /// <see cref="IVideoTransformer.ParameterGroup"/>; those of another network are its modules.</summary>
    /// <param name="network">A network, such as a transformer.</param>
    public static IReadOnlyDictionary<string, long> CountParameters(this nn.Module network)
    {
        ArgumentNullException.ThrowIfNull(network);
        var transformer = network as IVideoTransformer;
        var parts = new OrderedDictionary<string, long>(StringComparer.Ordinal);
        foreach (var (name, parameter) in network.named_parameters())
        {
            if (parameter.requires_grad)
            {
                var part = transformer?.ParameterGroup(name) ?? name.Split('.')[0];
                parts[part] = parts.GetValueOrDefault(part) + parameter.numel();
            }
        }

        return parts;
    }

    /// <summary>Runs a function of a block. If gradient checkpointing is on (<see cref="UseGradientCheckpointing"/>), only its inputs are kept, and
    /// the function runs again in the backward pass.</summary>
    /// <param name="module">The block, which owns the parameters that the function uses.</param>
    /// <param name="function">The function, which receives the inputs in order. It must compute the same result each time, so it must not use
    /// dropout.</param>
    /// <param name="inputs">All tensors, other than the parameters, on which the function depends.</param>
    /// <returns>The result of the function.</returns>
    public static Tensor Checkpoint(this nn.Module module, Func<Tensor?[], Tensor> function, params Tensor?[] inputs) =>
        Checkpointed.Run(module, function, inputs);
}
