using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>The parameters that a stage trains.</summary>
public enum TrainedParameters
{
    /// <summary>All parameters.</summary>
    All,

    /// <summary>All parameters except those of temporal attention, for training on images.</summary>
    NotTemporal,

    /// <summary>Only the parameters of temporal attention.</summary>
    Temporal,

    /// <summary>The parameters that process text: cross-attention, the caption projection, and the text encoder if it is trained.</summary>
    Text,
}

/// <summary>Decides which parameters a <see cref="TrainedParameters"/> value means.</summary>
internal static class ParameterSelection
{
    /// <summary>Determines whether a parameter is trained.</summary>
    /// <param name="selection">The selection.</param>
    /// <param name="part">The key of the module in the objective, such as <c>model</c> or <c>text</c>.</param>
    /// <param name="module">The module.</param>
    /// <param name="name">The name of the parameter in the module.</param>
    /// <exception cref="InvalidOperationException">The value is not defined.</exception>
    public static bool Includes(this TrainedParameters selection, string part, nn.Module module, string name) =>
        selection switch
        {
            TrainedParameters.All => true,
            TrainedParameters.NotTemporal => module is not IVideoTransformer transformer || !transformer.IsTemporal(name),
            TrainedParameters.Temporal => module is IVideoTransformer transformer && transformer.IsTemporal(name),
            TrainedParameters.Text => part is "text"
                || name.Contains("cross_attn.", StringComparison.Ordinal)
                || name.StartsWith("y_embedder.", StringComparison.Ordinal),
            _ => throw new InvalidOperationException(
                $"{selection} is not a valid value of TrainedParameters; use one of {string.Join(", ", Enum.GetNames<TrainedParameters>())}."
            ),
        };
}
