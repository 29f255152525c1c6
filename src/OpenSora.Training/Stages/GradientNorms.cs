using OpenSora.Runtime;
using OpenSora.Training.Distributed;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Norms of the gradients of all trained parameters. If each process has a part of the gradients (<see cref="Sharding.Gradients"/>), the
/// parameters are those parts, and all processes must call the same methods.</summary>
internal static class GradientNorms
{
    /// <summary>Scales all gradients so that their total norm is at most <paramref name="most"/>, and returns the norm before scaling.</summary>
    /// <remarks>If the norm is not finite, the gradients are unchanged, so that the affected parameter can be identified (TorchSharp's
    /// nn.utils.clip_grad_norm_ makes all gradients NaN in this case).</remarks>
    /// <param name="parameters">The parameters.</param>
    /// <param name="most">The maximum norm.</param>
    /// <param name="group">The processes that have the other parts of the gradients; null if this one has all.</param>
    public static double Clip(IEnumerable<Parameter> parameters, double most, TrainingGroup? group = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var gradients = parameters.Select(parameter => parameter.grad).OfType<Tensor>().ToArray();
        var norm =
            gradients.Length == 0 ? 0 : stack(gradients.Select(gradient => gradient.norm())).to_type(ScalarType.Float64).norm().cpu().item<double>();
        norm = group is null ? norm : Math.Sqrt(group.Sum(norm * norm)[0]);
        var factor = most / (norm + 1e-6);
        if (factor < 1)
        {
            foreach (var gradient in gradients)
            {
                gradient.MultiplyInPlace(factor);
            }
        }
        return norm;
    }

    /// <summary>Describes a loss or gradient that is not finite.</summary>
    /// <param name="names">The names of all parameters.</param>
    /// <param name="parameters">The parameters, or the parts of this process.</param>
    /// <param name="loss">The loss.</param>
    /// <param name="norm">The norm of the gradients.</param>
    /// <param name="group">The processes that have the other parts of the gradients; null if this one has all.</param>
    public static string NotFinite(
        IReadOnlyList<string> names,
        IReadOnlyList<OwnedParameter> parameters,
        double loss,
        double norm,
        TrainingGroup? group = null
    )
    {
        using var scope = NewDisposeScope();
        var found = parameters.FirstOrDefault(one => one.Values.grad is { } grad && !grad.isfinite().all().item<bool>())?.Index ?? names.Count;
        found = group is null ? found : -(int)group.Maximum(-found)[0];
        var first = found < names.Count ? names[found] : null;
        return $"the loss is {loss}, the gradient norm is {norm}"
            + (first is null ? "" : $", the first gradient that is not finite belongs to '{first}'");
    }

    /// <summary>Returns the parameter with the largest gradient and its fraction of the sum of all squared gradients.</summary>
    /// <param name="names">The names of all parameters.</param>
    /// <param name="parameters">The parameters, or the parts of this process.</param>
    /// <param name="group">The processes that have the other parts of the gradients; null if this one has all.</param>
    public static (string Name, double Share) Largest(
        IReadOnlyList<string> names,
        IReadOnlyList<OwnedParameter> parameters,
        TrainingGroup? group = null
    )
    {
        using var scope = NewDisposeScope();
        var squares = new double[names.Count];
        foreach (var one in parameters)
        {
            squares[one.Index] += one.Values.grad is { } grad ? grad.to_type(ScalarType.Float64).Squared().sum().cpu().item<double>() : 0;
        }

        squares = group?.Sum(squares) ?? squares;
        var largest = Array.IndexOf(squares, squares.Max());
        return (names[largest], squares.Sum() is var all and > 0 ? squares[largest] / all : 0);
    }
}
