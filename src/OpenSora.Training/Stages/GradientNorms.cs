using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>Norms of the gradients of all trained parameters.</summary>
internal static class GradientNorms
{
    /// <summary>Scales all gradients so that their total norm is at most <paramref name="most"/>, and returns the norm before scaling.</summary>
    /// <remarks>If the norm is not finite, the gradients are unchanged, so that the affected parameter can be identified (TorchSharp's
    /// nn.utils.clip_grad_norm_ makes all gradients NaN in this case).</remarks>
    public static double Clip(List<(string Name, Parameter Parameter)> trained, double most)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var gradients = trained.Select(pair => pair.Parameter.grad).OfType<Tensor>().ToArray();
        if (gradients.Length == 0)
        {
            return 0;
        }

        var norm = stack(gradients.Select(gradient => gradient.norm())).to_type(ScalarType.Float64).norm().cpu().item<double>();
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
    public static string NotFinite(List<(string Name, Parameter Parameter)> trained, double loss, double norm)
    {
        using var scope = NewDisposeScope();
        var first = trained.FirstOrDefault(pair => pair.Parameter.grad is { } grad && !grad.isfinite().all().item<bool>()).Name;
        return $"the loss is {loss}, the gradient norm is {norm}"
            + (first is null ? "" : $", the first gradient that is not finite belongs to '{first}'");
    }

    /// <summary>Returns the parameter with the largest gradient and its fraction of the sum of all squared gradients.</summary>
    public static (string Name, double Share) Largest(List<(string Name, Parameter Parameter)> trained)
    {
        using var scope = NewDisposeScope();
        var squares = trained.ConvertAll(pair =>
            pair.Parameter.grad is { } grad ? grad.to_type(ScalarType.Float64).Squared().sum().cpu().item<double>() : 0
        );
        var largest = squares.IndexOf(squares.Max());
        return (trained[largest].Name, squares.Sum() is var all and > 0 ? squares[largest] / all : 0);
    }
}
