using OpenSora.Torch;
using TorchSharp.Modules;

namespace TorchSharp;

public static partial class torch
{
    public enum UpsampleMode
    {
        Nearest = 0,
        Linear = 1,
        Bilinear = 2,
        Bicubic = 3,
        Trilinear = 4,
    }

    public static partial class nn
    {
        /// <summary>Layers as functions.</summary>
        public static partial class functional
        {
            // --- linear and convolution -----------------------------------------------------------------------------

            public static Tensor linear(Tensor input, Tensor weights, Tensor? bias = null) => Aten.Call("linear", input, weights, bias);

            public static Tensor conv1d(
                Tensor input, Tensor weight, Tensor? bias = null, long? stride = null, long? padding = null, long? dilation = null, long groups = 1) =>
                Aten.Call("conv1d", input, weight, bias, Same(stride ?? 1, 1), Same(padding ?? 0, 1), Same(dilation ?? 1, 1), groups);

            public static Tensor conv2d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? dilation = null, long groups = 1) =>
                Aten.Call("conv2d", input, weight, bias, strides ?? Same(1, 2), padding ?? Same(0, 2), dilation ?? Same(1, 2), groups);

            public static Tensor conv3d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? dilation = null, long groups = 1) =>
                Aten.Call("conv3d", input, weight, bias, strides ?? Same(1, 3), padding ?? Same(0, 3), dilation ?? Same(1, 3), groups);

            public static Tensor conv_transpose2d(
                Tensor input, Tensor weight, Tensor? bias = null, long[]? strides = null, long[]? padding = null, long[]? output_padding = null,
                long[]? dilation = null, long groups = 1) =>
                Aten.Call(
                    "conv_transpose2d.input", input, weight, bias, strides ?? Same(1, 2), padding ?? Same(0, 2), output_padding ?? Same(0, 2),
                    groups, dilation ?? Same(1, 2));

            // --- normalisation --------------------------------------------------------------------------------------

            public static Tensor layer_norm(Tensor input, long[] normalized_shape, Tensor? weight = null, Tensor? bias = null, double eps = 1e-05) =>
                Aten.Call("layer_norm", input, normalized_shape, weight, bias, eps, true);

            public static Tensor group_norm(Tensor input, long num_groups, Tensor? weight = null, Tensor? bias = null, double eps = 1e-05) =>
                Aten.Call("group_norm", input, num_groups, weight, bias, eps, true);

            public static Tensor normalize(Tensor input, double p = 2.0, long dim = 1L, double eps = 1e-12)
            {
                using var norm = Aten.Call("linalg_vector_norm", input, p, new[] { dim }, true, Argument.None);
                using var divisor = norm.clamp_min(eps);
                return input / divisor;
            }

            public static Tensor cosine_similarity(Tensor x1, Tensor x2, long dim = 1, double eps = 1e-8) =>
                Aten.Call("cosine_similarity", x1, x2, dim, eps);

            // --- activations ----------------------------------------------------------------------------------------

            public static Tensor relu(Tensor x, bool inplace = false) => Activate(x, inplace, "relu");

            public static Tensor silu(Tensor x, bool inplace = false) => Activate(x, inplace, "silu");

            public static Tensor tanh(Tensor x, bool inplace = false) => Activate(x, inplace, "tanh");

            public static Tensor sigmoid(Tensor x) => Activate(x, inplace: false, "sigmoid");

            public static Tensor sigmoid(Tensor x, bool inplace) => Activate(x, inplace, "sigmoid");

            public static Tensor mish(Tensor x, bool inplace = false) => Activate(x, inplace, "mish");

            public static Tensor leaky_relu(Tensor input, double negative_slope = 0.01, bool inplace = false) =>
                Activate(input, inplace, "leaky_relu", negative_slope);

            public static Tensor gelu(Tensor x) => gelu(x, Modules.GELU.Approximate.none);

            public static Tensor gelu(Tensor x, bool inplace) => gelu(x, Modules.GELU.Approximate.none, inplace);

            public static Tensor gelu(Tensor x, GELU.Approximate approximate, bool inplace = false) =>
                Activate(x, inplace, "gelu", approximate == Modules.GELU.Approximate.tanh ? "tanh" : "none");

            public static Tensor softplus(Tensor x, double beta = 1, double threshold = 20) => Aten.Call("softplus", x, beta, threshold);

            public static Tensor logsigmoid(Tensor x) => Aten.Call("log_sigmoid", x);

            public static Tensor glu(Tensor input, long dim = -1) => Aten.Call("glu", input, dim);

            public static Tensor softmax(Tensor input, long dim, ScalarType? dtype = null) => Aten.Call("softmax.int", input, dim, dtype);

            public static Tensor log_softmax(Tensor x, long dim) => Aten.Call("log_softmax.int", x, dim, Argument.None);

            public static Tensor dropout(Tensor input, double p = 0.5, bool training = true, bool inplace = false)
            {
                if (!inplace)
                    return Aten.Call("dropout", input, p, training);
                Aten.Run("dropout_", input, p, training);
                return input.alias();
            }

            // --- attention ------------------------------------------------------------------------------------------

            /// <summary>softmax(Q K^T / sqrt(d) + mask) V; a boolean mask is true where a query may look.</summary>
            public static Tensor scaled_dot_product_attention(
                Tensor query, Tensor key, Tensor value, Tensor? attn_mask = null, double p = 0.0, bool is_casual = false)
            {
                if (is_casual && attn_mask is not null)
                    throw new ArgumentException("A causal attention takes no further mask.", nameof(attn_mask));
                if (Aten.Exists("scaled_dot_product_attention"))
                    return Aten.Call("scaled_dot_product_attention", query, key, value, attn_mask, p, is_casual, Argument.None);

                using var scope = NewDisposeScope();
                var scores = (query * (1 / Math.Sqrt(query.shape[^1]))).matmul(key.transpose(-2, -1));
                var allowed = attn_mask;
                if (is_casual)
                    allowed = Aten.Call("tril", ones([query.shape[^2], key.shape[^2]], ScalarType.Bool, query.device), 0);
                if (allowed is not null)
                    scores = allowed.dtype == ScalarType.Bool ? scores.masked_fill(allowed.logical_not(), double.NegativeInfinity) : scores + allowed;
                var weights = softmax(scores, -1);
                if (p > 0)
                    weights = dropout(weights, p);
                return weights.matmul(value).MoveToOuterDisposeScope();
            }

            // --- pictures -------------------------------------------------------------------------------------------

            /// <summary>Pads the last dimensions: before and after the last one, then the one before it, and so on.</summary>
            public static Tensor pad(Tensor input, long[] pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                mode is PaddingModes.Constant or PaddingModes.Zeros
                    ? Aten.Call("constant_pad_nd", input, pad, mode == PaddingModes.Zeros ? 0.0 : value)
                    : Aten.Call("pad", input, pad, mode.ToString().ToLowerInvariant(), Argument.None);

            public static Tensor pad(Tensor input, ReadOnlySpan<long> pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, pad.ToArray(), mode, value);

            public static Tensor pad(Tensor input, (long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, new[] { pad.Item1, pad.Item2 }, mode, value);

            public static Tensor pad(Tensor input, (long, long, long, long) pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, new[] { pad.Item1, pad.Item2, pad.Item3, pad.Item4 }, mode, value);

            public static Tensor pad(Tensor input, long pad, PaddingModes mode = PaddingModes.Constant, double value = 0) =>
                functional.pad(input, new[] { pad, pad }, mode, value);

            public static Tensor avg_pool2d(
                Tensor input, long[] kernel_size, long[]? stride = null, long[]? padding = null, bool ceil_mode = false, bool count_include_pad = true,
                long? divisor_override = null) =>
                Aten.Call("avg_pool2d", input, kernel_size, stride ?? kernel_size, padding ?? Same(0, 2), ceil_mode, count_include_pad, divisor_override);

            public static Tensor avg_pool2d(
                Tensor input, long kernel_size, long? stride = null, long padding = 0, bool ceil_mode = false, bool count_include_pad = true,
                long? divisor_override = null) =>
                avg_pool2d(input, Same(kernel_size, 2), Same(stride ?? kernel_size, 2), Same(padding, 2), ceil_mode, count_include_pad, divisor_override);

            public static Tensor avg_pool2d(
                Tensor input, (long, long) kernel_size, (long, long)? stride = null, (long, long)? padding = null, bool ceil_mode = false,
                bool count_include_pad = true, long? divisor_override = null) =>
                avg_pool2d(input, Two(kernel_size, 1), Two(stride ?? kernel_size, 1), Two(padding, 0), ceil_mode, count_include_pad, divisor_override);

            public static Tensor max_pool2d(
                Tensor input, long[] kernel_size, long[]? strides = null, long[]? padding = null, long[]? dilation = null, bool ceil_mode = false) =>
                Aten.Call("max_pool2d", input, kernel_size, strides ?? kernel_size, padding ?? Same(0, 2), dilation ?? Same(1, 2), ceil_mode);

            public static Tensor max_pool2d(
                Tensor input, long kernel_size, long? stride = null, long? padding = null, long? dilation = null, bool ceil_mode = false) =>
                max_pool2d(input, Same(kernel_size, 2), Same(stride ?? kernel_size, 2), Same(padding ?? 0, 2), Same(dilation ?? 1, 2), ceil_mode);

            public static Tensor adaptive_avg_pool2d(Tensor input, long[] output_size) => Aten.Call("adaptive_avg_pool2d", input, output_size);

            public static Tensor adaptive_avg_pool2d(Tensor input, (long, long) output_size) => adaptive_avg_pool2d(input, Two(output_size, 1));

            public static Tensor adaptive_avg_pool2d(Tensor input, long output_size) => adaptive_avg_pool2d(input, Same(output_size, 2));

            public static Tensor pixel_shuffle(Tensor input, long upscale_factor) => Aten.Call("pixel_shuffle", input, upscale_factor);

            public static Tensor pixel_unshuffle(Tensor input, long downscale_factor) => Aten.Call("pixel_unshuffle", input, downscale_factor);

            /// <summary>Where an affine map takes the places of a grid: coordinates from -1 to 1, x before y, <c>[N, H, W, 2]</c>.</summary>
            /// <param name="theta"><c>[N, 2, 3]</c></param>
            /// <param name="size"><c>[N, C, H, W]</c></param>
            /// <param name="align_corners">Whether -1 and 1 are the centres of the outer pixels rather than their outer edges.</param>
            public static Tensor affine_grid(Tensor theta, long[]? size = null, bool align_corners = false) =>
                Aten.Call("affine_grid_generator", theta, size ?? throw new ArgumentNullException(nameof(size)), align_corners);

            /// <summary>Values of a picture at the places of a grid.</summary>
            /// <param name="input"><c>[N, C, H, W]</c></param>
            /// <param name="grid"><c>[N, H', W', 2]</c></param>
            /// <param name="mode">How values between pixels are found.</param>
            /// <param name="padding_mode">What lies outside the picture.</param>
            /// <param name="align_corners">As for <see cref="affine_grid"/>.</param>
            public static Tensor grid_sample(
                Tensor input, Tensor grid, GridSampleMode mode = GridSampleMode.Bilinear, GridSamplePaddingMode padding_mode = GridSamplePaddingMode.Zeros,
                bool? align_corners = null)
            {
                var padding = padding_mode switch { GridSamplePaddingMode.Zeros => 0, GridSamplePaddingMode.Border => 1, _ => 2 };
                return Aten.Call("grid_sampler", input, grid, mode == GridSampleMode.Bilinear ? 0 : 1, padding, align_corners ?? false);
            }

            /// <summary>Resizes the dimensions after batch and channels, to a size or by factors.</summary>
            public static Tensor interpolate(
                Tensor x, long[]? size = null, double[]? scale_factor = null, InterpolationMode mode = InterpolationMode.Nearest,
                bool? align_corners = null, bool recompute_scale_factor = false, bool antialias = false)
            {
                var spatial = x.shape[2..];
                if ((size is null) == (scale_factor is null))
                    throw new ArgumentException("Either a size or factors are needed, not both.", nameof(size));
                size = OnePerDimension(size, spatial.Length, nameof(size));
                scale_factor = OnePerDimension(scale_factor, spatial.Length, nameof(scale_factor));
                if (scale_factor is not null && (recompute_scale_factor || mode == InterpolationMode.Area))
                    (size, scale_factor) = (spatial.Select((length, i) => (long)Math.Floor(length * scale_factor[i])).ToArray(), null);

                switch (mode, spatial.Length)
                {
                    case (InterpolationMode.Nearest, 1 or 2 or 3):
                        return Aten.Call($"upsample_nearest{spatial.Length}d.vec", x, size, scale_factor);
                    case (InterpolationMode.NearestExact, 1 or 2 or 3):
                        return Aten.Call($"_upsample_nearest_exact{spatial.Length}d.vec", x, size, scale_factor);
                    case (InterpolationMode.Area, 1 or 2 or 3):
                        return Aten.Call($"adaptive_avg_pool{spatial.Length}d", x, size);
                    case (InterpolationMode.Bilinear or InterpolationMode.Bicubic, 2) when antialias:
                        return Aten.Call($"_upsample_{Name()}2d_aa.vec", x, size, align_corners ?? false, scale_factor);
                    case (InterpolationMode.Linear, 1):
                    case (InterpolationMode.Bilinear or InterpolationMode.Bicubic, 2):
                    case (InterpolationMode.Trilinear, 3):
                        return Aten.Call($"upsample_{Name()}{spatial.Length}d.vec", x, size, align_corners ?? false, scale_factor);
                    default:
                        throw new ArgumentException($"{mode} interpolation does not take a tensor with {x.ndim} dimensions.", nameof(mode));
                }

                string Name() => mode.ToString().ToLowerInvariant();

                static T[]? OnePerDimension<T>(T[]? values, int dimensions, string name) => values switch
                {
                    null => null,
                    { Length: 1 } => Enumerable.Repeat(values[0], dimensions).ToArray(),
                    _ when values.Length == dimensions => values,
                    _ => throw new ArgumentException($"{values.Length} values do not fit {dimensions} dimensions.", name),
                };
            }

            public static Tensor upsample_nearest2d(Tensor input, long[]? outputSizes = null, double[]? scaleFactors = null) =>
                Aten.Call("upsample_nearest2d.vec", input, outputSizes, scaleFactors);

            // --- losses ---------------------------------------------------------------------------------------------

            public static Tensor mse_loss(Tensor input, Tensor target, Reduction reduction = Reduction.Mean) =>
                Aten.Call("mse_loss", input, target, (long)reduction);

            public static Tensor l1_loss(Tensor input, Tensor target, Reduction reduction = Reduction.Mean) =>
                Aten.Call("l1_loss", input, target, (long)reduction);

            public static Tensor smooth_l1_loss(Tensor input, Tensor target, Reduction reduction = Reduction.Mean, double beta = 1) =>
                Aten.Call("smooth_l1_loss", input, target, (long)reduction, beta);

            public static Tensor huber_loss(Tensor input, Tensor target, double delta = 1.0, Reduction reduction = Reduction.Mean) =>
                Aten.Call("huber_loss", input, target, (long)reduction, delta);

            public static Tensor cross_entropy(
                Tensor input, Tensor target, Tensor? weight = null, long ignore_index = -100, Reduction reduction = Reduction.Mean, double label_smoothing = 0.0) =>
                Aten.Call("cross_entropy_loss", input, target, weight, (long)reduction, ignore_index, label_smoothing);

            public static Tensor nll_loss(Tensor input, Tensor target, Tensor? weight = null, Reduction reduction = Reduction.Mean) =>
                Aten.Call("nll_loss_nd", input, target, weight, (long)reduction, -100L);

            public static Tensor kl_div(Tensor input, Tensor target, bool log_target = true, Reduction reduction = Reduction.Mean) =>
                Aten.Call("kl_div", input, target, (long)reduction, log_target);

            public static Tensor binary_cross_entropy(Tensor input, Tensor target, Tensor? weight = null, Reduction reduction = Reduction.Mean) =>
                Aten.Call("binary_cross_entropy", input, target, weight, (long)reduction);

            public static Tensor binary_cross_entropy_with_logits(
                Tensor input, Tensor target, Tensor? weight = null, Reduction reduction = Reduction.Mean, Tensor? pos_weights = null) =>
                Aten.Call("binary_cross_entropy_with_logits", input, target, weight, pos_weights, (long)reduction);

            public static Tensor one_hot(Tensor x, long num_classes = -1) => Aten.Call("one_hot", x, num_classes);

            private static Tensor Activate(Tensor x, bool inplace, string name, params ReadOnlySpan<Argument> options)
            {
                Argument[] arguments = [x, .. options];
                if (!inplace)
                    return Aten.Call(name, arguments);
                Aten.Run(name + "_", arguments);
                return x.alias();
            }
        }

        public enum Reduction
        {
            None = 0,
            Mean = 1,
            Sum = 2,
        }
    }
}
