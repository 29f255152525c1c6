using OpenSora.Torch;

namespace TorchSharp
{
    using Modules;

    public enum Padding
    {
        Valid = 0,
        Same = 1,
    }

    public static partial class torch
    {
        public static partial class nn
        {
            public static Conv1d Conv1d(
                long in_channels, long out_channels, long kernel_size, long stride = 1, long padding = 0, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, [kernel_size], [stride], [padding], null, [dilation], groups, bias, padding_mode, device, dtype);

            public static Conv2d Conv2d(
                long in_channels, long out_channels, long kernel_size, long stride = 1, long padding = 0, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Same(kernel_size, 2), Same(stride, 2), Same(padding, 2), null, Same(dilation, 2), groups, bias, padding_mode, device, dtype);

            public static Conv2d Conv2d(
                long in_channels, long out_channels, (long, long) kernel_size, (long, long)? stride = null, (long, long)? padding = null,
                (long, long)? dilation = null, PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true,
                Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Two(kernel_size, 1), Two(stride, 1), Two(padding, 0), null, Two(dilation, 1), groups, bias, padding_mode, device, dtype);

            public static Conv2d Conv2d(
                long in_channels, long out_channels, long kernel_size, Padding padding, long stride = 1, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Same(kernel_size, 2), Same(stride, 2), Same(0, 2), padding, Same(dilation, 2), groups, bias, padding_mode, device, dtype);

            public static Conv2d Conv2d(
                long in_channels, long out_channels, (long, long) kernel_size, Padding padding, (long, long)? stride = null,
                (long, long)? dilation = null, PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true,
                Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Two(kernel_size, 1), Two(stride, 1), Same(0, 2), padding, Two(dilation, 1), groups, bias, padding_mode, device, dtype);

            public static Conv3d Conv3d(
                long in_channels, long out_channels, long kernel_size, long stride = 1, long padding = 0, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Same(kernel_size, 3), Same(stride, 3), Same(padding, 3), null, Same(dilation, 3), groups, bias, padding_mode, device, dtype);

            public static Conv3d Conv3d(
                long in_channels, long out_channels, (long, long, long) kernel_size, (long, long, long)? stride = null, (long, long, long)? padding = null,
                (long, long, long)? dilation = null, PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true,
                Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Three(kernel_size, 1), Three(stride, 1), Three(padding, 0), null, Three(dilation, 1), groups, bias, padding_mode, device, dtype);

            public static Conv3d Conv3d(
                long in_channels, long out_channels, long kernel_size, Padding padding, long stride = 1, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Same(kernel_size, 3), Same(stride, 3), Same(0, 3), padding, Same(dilation, 3), groups, bias, padding_mode, device, dtype);

            public static Conv3d Conv3d(
                long in_channels, long out_channels, (long, long, long) kernel_size, Padding padding, (long, long, long)? stride = null,
                (long, long, long)? dilation = null, PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true,
                Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Three(kernel_size, 1), Three(stride, 1), Same(0, 3), padding, Three(dilation, 1), groups, bias, padding_mode, device, dtype);

            public static ConvTranspose2d ConvTranspose2d(
                long in_channels, long out_channels, long kernel_size, long stride = 1, long padding = 0, long output_padding = 0, long dilation = 1,
                PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1, bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Same(kernel_size, 2), Same(stride, 2), Same(padding, 2), Same(output_padding, 2), Same(dilation, 2), groups, bias, padding_mode, device, dtype);

            public static ConvTranspose2d ConvTranspose2d(
                long in_channels, long out_channels, (long, long) kernel_size, (long, long)? stride = null, (long, long)? padding = null,
                (long, long)? output_padding = null, (long, long)? dilation = null, PaddingModes padding_mode = PaddingModes.Zeros, long groups = 1,
                bool bias = true, Device? device = null, ScalarType? dtype = null) =>
                new(in_channels, out_channels, Two(kernel_size, 1), Two(stride, 1), Two(padding, 0), Two(output_padding, 0), Two(dilation, 1), groups, bias, padding_mode, device, dtype);

            internal static long[] Same(long value, int count) => Enumerable.Repeat(value, count).ToArray();

            internal static long[] Two((long, long)? values, long otherwise) => values is var (a, b) ? [a, b] : [otherwise, otherwise];

            internal static long[] Three((long, long, long)? values, long otherwise) => values is var (a, b, c) ? [a, b, c] : [otherwise, otherwise, otherwise];
        }
    }
}

namespace TorchSharp.Modules
{
    using static torch;

    /// <summary>What convolutions share: weight <c>[out, in / groups, kernel ...]</c> (transposed: <c>[in, out / groups, kernel ...]</c>) and bias.</summary>
    public abstract class Convolution : nn.Module<Tensor, Tensor>
    {
        private protected Convolution(
            string name, long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, Padding? padding_type, long[] dilation,
            bool transposed, long[] output_padding, long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(name)
        {
            if (in_channels % groups != 0 || out_channels % groups != 0)
                throw new ArgumentException($"{in_channels} and {out_channels} channels cannot be split into {groups} groups.", nameof(groups));
            (this.in_channels, this.out_channels, this.kernel_size, this.stride) = (in_channels, out_channels, kernel_size, stride);
            (this.padding, this.padding_type, this.dilation, this.transposed) = (padding, padding_type, dilation, transposed);
            (this.output_padding, this.groups, this.padding_mode) = (output_padding, groups, padding_mode);
            long[] shape = transposed ? [in_channels, out_channels / groups, .. kernel_size] : [out_channels, in_channels / groups, .. kernel_size];
            weight = new Parameter(empty(shape, dtype, device));
            this.bias = bias ? new Parameter(empty([out_channels], dtype, device)) : null;
            reset_parameters();
        }

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

        public long in_channels { get; }

        public long out_channels { get; }

        public long[] kernel_size { get; set; }

        public long[] stride { get; set; }

        public long[] padding { get; }

        public Padding? padding_type { get; }

        public long[] dilation { get; set; }

        public bool transposed { get; }

        public long[] output_padding { get; set; }

        public long groups { get; set; }

        public PaddingModes padding_mode { get; set; }

        public void reset_parameters() => Initialisation.Uniform(weight!, bias);

        private protected Tensor Convolve(Tensor input, string operation)
        {
            if (padding_mode is PaddingModes.Zeros or PaddingModes.Constant)
            {
                return padding_type is { } type
                    ? Aten.Call(operation + ".padding", input, weight, bias, stride, type == Padding.Same ? "same" : "valid", dilation, groups)
                    : Aten.Call(operation, input, weight, bias, stride, padding, dilation, groups);
            }

            using var padded = nn.functional.pad(input, BothSides(), padding_mode);
            return Aten.Call(operation, padded, weight, bias, stride, nn.Same(0, kernel_size.Length), dilation, groups);
        }

        /// <summary>How much is added before and after each dimension, the last dimension first.</summary>
        private long[] BothSides()
        {
            var sides = new List<long>();
            for (var i = kernel_size.Length - 1; i >= 0; i--)
            {
                var total = padding_type switch
                {
                    Padding.Same => dilation[i] * (kernel_size[i] - 1),
                    Padding.Valid => 0,
                    _ => 2 * padding[i],
                };
                sides.AddRange([total / 2, total - (total / 2)]);
            }

            return [.. sides];
        }
    }

    public sealed class Conv1d : Convolution
    {
        internal Conv1d(
            long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, Padding? padding_type, long[] dilation,
            long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(
                nameof(Conv1d), in_channels, out_channels, kernel_size, stride, padding, padding_type, dilation, transposed: false, nn.Same(0, 1),
                groups, bias, padding_mode, device, dtype)
        {
        }

        public override Tensor forward(Tensor input) => Convolve(input, "conv1d");
    }

    public sealed class Conv2d : Convolution
    {
        internal Conv2d(
            long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, Padding? padding_type, long[] dilation,
            long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(
                nameof(Conv2d), in_channels, out_channels, kernel_size, stride, padding, padding_type, dilation, transposed: false, nn.Same(0, 2),
                groups, bias, padding_mode, device, dtype)
        {
        }

        public override Tensor forward(Tensor input) => Convolve(input, "conv2d");
    }

    public sealed class Conv3d : Convolution
    {
        internal Conv3d(
            long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, Padding? padding_type, long[] dilation,
            long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(
                nameof(Conv3d), in_channels, out_channels, kernel_size, stride, padding, padding_type, dilation, transposed: false, nn.Same(0, 3),
                groups, bias, padding_mode, device, dtype)
        {
        }

        public override Tensor forward(Tensor input) => Convolve(input, "conv3d");
    }

    public abstract class ConvolutionTranspose : Convolution
    {
        private protected ConvolutionTranspose(
            string name, long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, long[] output_padding, long[] dilation,
            long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(
                name, in_channels, out_channels, kernel_size, stride, padding, padding_type: null, dilation, transposed: true, output_padding,
                groups, bias, padding_mode, device, dtype)
        {
            if (padding_mode != PaddingModes.Zeros)
                throw new ArgumentException("Transposed convolutions pad with zeros only.", nameof(padding_mode));
        }

        public override Tensor forward(Tensor input) => forward(input, null);

        public abstract Tensor forward(Tensor input, long[]? output_size);
    }

    public sealed class ConvTranspose2d : ConvolutionTranspose
    {
        internal ConvTranspose2d(
            long in_channels, long out_channels, long[] kernel_size, long[] stride, long[] padding, long[] output_padding, long[] dilation,
            long groups, bool bias, PaddingModes padding_mode, Device? device, ScalarType? dtype)
            : base(
                nameof(ConvTranspose2d), in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation,
                groups, bias, padding_mode, device, dtype)
        {
        }

        public override Tensor forward(Tensor input, long[]? output_size)
        {
            var extra = output_padding;
            if (output_size is not null)
            {
                var wanted = output_size[^2..];
                var spatial = input.shape[^2..];
                extra = wanted.Select((size, i) => size - (((spatial[i] - 1) * stride[i]) - (2 * padding[i]) + (dilation[i] * (kernel_size[i] - 1)) + 1)).ToArray();
                if (extra.Where((more, i) => more < 0 || more >= Math.Max(stride[i], dilation[i])).Any())
                    throw new ArgumentException($"An output of {wanted[0]} by {wanted[1]} is out of this layer's reach.", nameof(output_size));
            }

            return nn.functional.conv_transpose2d(input, weight!, bias, stride, padding, extra, dilation, groups);
        }
    }
}
