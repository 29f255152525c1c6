using OpenSora.Models.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>Sets the data type of a model's matrix multiplications independently of the type of its parameters.</summary>
public static class ComputeTypes
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
}
