using OpenSora.Torch;
using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class utils
        {
            /// <summary>Scales all gradients so that their common norm is at most <paramref name="max_norm"/>.</summary>
            /// <returns>The norm before scaling.</returns>
            public static double clip_grad_norm_(IEnumerable<Parameter> tensors, double max_norm, double norm_type = 2.0)
            {
                using var scope = NewDisposeScope();
                using var frozen = no_grad();
                var gradients = Gradients.Of(tensors);
                if (gradients.Length == 0)
                    return 0;

                var norms = Aten.CallList("_foreach_norm.Scalar", gradients, norm_type);
                var total = Aten.Call("linalg_vector_norm", stack(norms).to(float64), norm_type).item<double>();
                var factor = max_norm / (total + 1e-6);
                if (factor < 1)
                    Aten.Run("_foreach_mul_.Scalar", gradients, factor);
                return total;
            }

            /// <summary>Limits every element of every gradient to [-clip_value, clip_value].</summary>
            public static void clip_grad_value_(IEnumerable<Parameter> tensors, double clip_value)
            {
                if (clip_value < 0)
                    throw new ArgumentOutOfRangeException(nameof(clip_value), clip_value, "The largest magnitude cannot be negative.");
                using var scope = NewDisposeScope();
                using var frozen = no_grad();
                foreach (var gradient in Gradients.Of(tensors))
                    gradient.clamp_(-clip_value, clip_value);
            }
        }
    }

    /// <summary>What modules, clipping and optimizers need of gradients.</summary>
    internal static class Gradients
    {
        /// <summary>The gradients that exist; the caller's dispose scope owns the handles.</summary>
        internal static Tensor[] Of(IEnumerable<Parameter> parameters) => parameters.Select(parameter => parameter.grad).OfType<Tensor>().ToArray();

        internal static void Zero(Tensor tensor, bool setToNone)
        {
            if (setToNone)
            {
                tensor.grad = null;
                return;
            }

            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            tensor.grad?.zero_();
        }

        /// <summary>Gives a tensor other data, its gradient too; it stays the same object to autograd, optimizers and modules.</summary>
        internal static void Replace(Tensor tensor, Tensor data)
        {
            var gradient = tensor.grad;
            tensor.SetData(data);
            if (gradient is not null)
                tensor.grad = gradient.to(data.dtype, data.device);
        }
    }
}
