using OpenSora.Torch;

namespace TorchSharp
{
    using Modules;

    public static partial class torch
    {
        public static partial class nn
        {
            public static Identity Identity() => new();

            public static Linear Linear(long inputSize, long outputSize, bool hasBias = true, Device? device = null, ScalarType? dtype = null) =>
                new(inputSize, outputSize, hasBias, device, dtype);

            public static Linear Linear(Parameter weight, Parameter? bias = null) => new(weight, bias);

            public static Embedding Embedding(
                long num_embeddings,
                long embedding_dims,
                long? padding_idx = null,
                double? max_norm = null,
                double norm_type = 2.0,
                bool scale_grad_by_freq = false,
                bool sparse = false,
                Device? device = null,
                ScalarType? dtype = null) =>
                new(num_embeddings, embedding_dims, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, device, dtype);

            public static LayerNorm LayerNorm(
                long[] normalized_shape, double eps = 1e-05, bool elementwise_affine = true, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(normalized_shape, eps, elementwise_affine, bias, device, dtype);

            public static LayerNorm LayerNorm(
                long normalized_shape, double eps = 1e-05, bool elementwise_affine = true, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new([normalized_shape], eps, elementwise_affine, bias, device, dtype);

            public static GroupNorm GroupNorm(
                long num_groups, long num_channels, double eps = 1e-05, bool affine = true, Device? device = null, ScalarType? dtype = null) =>
                new(num_groups, num_channels, eps, affine, device, dtype);

            public static Dropout Dropout(double p = 0.5, bool inplace = false) => new(p, inplace);
        }
    }
}

namespace TorchSharp.Modules
{
    using static torch;

    /// <summary>The base of layers without parameters.</summary>
    public abstract class ParameterLessModule<T1, TResult> : nn.Module<T1, TResult>
    {
        protected ParameterLessModule(string name)
            : base(name)
        {
        }
    }

    public sealed class Identity : ParameterLessModule<Tensor, Tensor>
    {
        internal Identity()
            : base(nameof(Identity))
        {
        }

        public override Tensor forward(Tensor tensor) => tensor.alias();
    }

    /// <summary>y = x W^T + b, W <c>[out, in]</c>.</summary>
    public class Linear : nn.Module<Tensor, Tensor>
    {
        internal Linear(long inputSize, long outputSize, bool hasBias, Device? device, ScalarType? dtype)
            : base(nameof(Linear))
        {
            in_features = inputSize;
            out_features = outputSize;
            weight = new Parameter(empty([outputSize, inputSize], dtype, device));
            bias = hasBias ? new Parameter(empty([outputSize], dtype, device)) : null;
            Initialisation.Uniform(weight, bias);
        }

        internal Linear(Parameter weight, Parameter? bias)
            : base(nameof(Linear))
        {
            (out_features, in_features) = (weight.shape[0], weight.shape[1]);
            this.weight = weight;
            this.bias = bias;
        }

        public long in_features { get; set; }

        public long out_features { get; set; }

        public Parameter? weight
        {
            get => Registered("weight");
            set => ConditionallyRegisterParameter("weight", value);
        }

        public Parameter? bias
        {
            get => Registered("bias");
            set => ConditionallyRegisterParameter("bias", value);
        }

        public override Tensor forward(Tensor tensor) => nn.functional.linear(tensor, weight!, bias);
    }

    /// <summary>Rows of a table by their index.</summary>
    public class Embedding : nn.Module<Tensor, Tensor>
    {
        private readonly long? _paddingIndex;
        private readonly double? _maxNorm;
        private readonly double _normType;
        private readonly bool _scaleGradByFreq;
        private readonly bool _sparse;

        internal Embedding(
            long rows, long width, long? paddingIndex, double? maxNorm, double normType, bool scaleGradByFreq, bool sparse, Device? device, ScalarType? dtype)
            : base(nameof(Embedding))
        {
            (_paddingIndex, _maxNorm, _normType, _scaleGradByFreq, _sparse) = (paddingIndex, maxNorm, normType, scaleGradByFreq, sparse);
            if (paddingIndex < 0)
                _paddingIndex = paddingIndex + rows;
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            weight = new Parameter(empty([rows, width], dtype, device));
            nn.init.normal_(weight);
            if (_paddingIndex is { } row)
                weight.select(0, row).zero_();
        }

        public Parameter? weight
        {
            get => Registered("weight");
            set => ConditionallyRegisterParameter("weight", value);
        }

        public override Tensor forward(Tensor input)
        {
            if (_maxNorm is { } norm)
            {
                using var scope = NewDisposeScope();
                using var frozen = no_grad();
                Aten.Run("embedding_renorm_", weight, input.contiguous(), norm, _normType);
            }

            return Aten.Call("embedding", weight, input, _paddingIndex ?? -1, _scaleGradByFreq, _sparse);
        }
    }

    /// <summary>Normalisation over the last dimensions.</summary>
    public class LayerNorm : nn.Module<Tensor, Tensor>
    {
        internal LayerNorm(long[] shape, double eps, bool affine, bool hasBias, Device? device, ScalarType? dtype)
            : base(nameof(LayerNorm))
        {
            normalized_shape = shape;
            this.eps = eps;
            elementwise_affine = affine;
            weight = affine ? new Parameter(ones(shape, dtype, device)) : null;
            bias = affine && hasBias ? new Parameter(zeros(shape, dtype, device)) : null;
        }

        public long[] normalized_shape { get; set; }

        public double eps { get; set; }

        public bool elementwise_affine { get; set; }

        public Parameter? weight
        {
            get => Registered("weight");
            set => ConditionallyRegisterParameter("weight", value);
        }

        public Parameter? bias
        {
            get => Registered("bias");
            set => ConditionallyRegisterParameter("bias", value);
        }

        public void reset_parameters() => Initialisation.OneAndZero(weight, bias);

        public override Tensor forward(Tensor tensor) => nn.functional.layer_norm(tensor, normalized_shape, weight, bias, eps);
    }

    /// <summary>Normalisation over groups of channels, dimension 1.</summary>
    public class GroupNorm : nn.Module<Tensor, Tensor>
    {
        internal GroupNorm(long groups, long channels, double eps, bool affine, Device? device, ScalarType? dtype)
            : base(nameof(GroupNorm))
        {
            num_groups = groups;
            this.eps = eps;
            this.affine = affine;
            weight = affine ? new Parameter(ones([channels], dtype, device)) : null;
            bias = affine ? new Parameter(zeros([channels], dtype, device)) : null;
        }

        public long num_groups { get; set; }

        public double eps { get; set; }

        public bool affine { get; set; }

        public Parameter? weight
        {
            get => Registered("weight");
            set => ConditionallyRegisterParameter("weight", value);
        }

        public Parameter? bias
        {
            get => Registered("bias");
            set => ConditionallyRegisterParameter("bias", value);
        }

        public override Tensor forward(Tensor tensor) => nn.functional.group_norm(tensor, num_groups, weight, bias, eps);
    }

    public class Dropout : ParameterLessModule<Tensor, Tensor>
    {
        internal Dropout(double p, bool inplace)
            : base(nameof(Dropout))
        {
            if (p is < 0 or > 1 or double.NaN)
                throw new ArgumentOutOfRangeException(nameof(p), p, "A dropout probability is between 0 and 1.");
            this.p = p;
            this.inplace = inplace;
        }

        public double p { get; set; }

        public bool inplace { get; set; }

        public override Tensor forward(Tensor tensor) => nn.functional.dropout(tensor, p, training, inplace);
    }

    /// <summary>The values with which layers start: PyTorch's.</summary>
    internal static class Initialisation
    {
        /// <summary>Both uniform within 1 / sqrt(fan in), which is what kaiming_uniform_ with a = sqrt 5 gives.</summary>
        internal static void Uniform(Tensor weight, Tensor? bias)
        {
            var (fan, _) = nn.init.CalculateFanInAndFanOut(weight);
            var bound = fan > 0 ? 1 / Math.Sqrt(fan) : 0;
            using var scope = NewDisposeScope();
            nn.init.uniform_(weight, -bound, bound);
            if (bias is not null)
                nn.init.uniform_(bias, -bound, bound);
        }

        internal static void OneAndZero(Tensor? weight, Tensor? bias)
        {
            using var scope = NewDisposeScope();
            if (weight is not null)
                nn.init.ones_(weight);
            if (bias is not null)
                nn.init.zeros_(bias);
        }
    }
}
