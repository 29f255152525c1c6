using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The number type in which a model multiplies matrices, apart from the type in which its parameters are kept.</summary>
public static class ComputeTypes
{
    /// <summary>
    /// Lets the linear layers, convolutions and attention products of a model compute in another type, such as bfloat16, while its parameters keep
    /// theirs
    /// (mixed precision, Micikevicius et al., 2018). What flows between them is of that type too; softmax, the time embedding and the last layer stay
    /// as they are.
    /// </summary>
    /// <param name="model">Any model of this library.</param>
    /// <param name="type">The type, or null for that of the parameters.</param>
    /// <returns>The model.</returns>
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
}
