using System.Runtime.CompilerServices;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>A layer that can compute its matrix multiplication in a data type other than that of its parameters.</summary>
internal interface IComputeLayer
{
    /// <summary>The data type of the matrix multiplication; null for the type of the parameters.</summary>
    ScalarType? ComputeType { get; set; }
}

/// <summary>A linear layer: <c>x W^T + b</c>. The output has the data type in which the layer computes.</summary>
/// <remarks>Parameters: <c>weight [outputs, inputs, kernel...]</c> and <c>bias [outputs]</c>. A layer with a kernel projects flattened
/// patches.</remarks>
public sealed class Linear : nn.Module<Tensor, Tensor>, IComputeLayer
{
    /// <summary>The weight, <c>[outputs, inputs, kernel...]</c>.</summary>
    public readonly Parameter weight;

    /// <summary>The bias, <c>[outputs]</c>; null for a layer without a bias.</summary>
    public readonly Parameter? bias;

    /// <summary>Creates a layer with uninitialized weights.</summary>
    /// <param name="inputs">The number of channels of the input, not counting the kernel.</param>
    /// <param name="outputs">The number of channels of the output.</param>
    /// <param name="hasBias">Whether the layer has a bias.</param>
    /// <param name="kernel">Additional sizes of the weight, for the projection of patches.</param>
    public Linear(long inputs, long outputs, bool hasBias = true, params long[] kernel)
        : base(nameof(Linear))
    {
        weight = Parameters.Create([outputs, inputs, .. kernel]);
        bias = hasBias ? Parameters.Create(outputs) : null;
        RegisterComponents();
    }

    /// <summary>The data type of the matrix multiplication; null for the type of the weight. <see cref="ModelExtensions.UseComputeType"/> sets this
    /// property.</summary>
    public ScalarType? ComputeType { get; set; }

    /// <summary>Whether the layer always computes in the data type of its parameters, as small layers and output layers do.</summary>
    public bool Exact { get; init; }

    /// <summary>Maps <c>[..., inputs]</c> to <c>[..., outputs]</c>.</summary>
    public override Tensor forward(Tensor x)
    {
        var type = Exact ? weight.dtype : ComputeType ?? weight.dtype;
        using var scope = NewDisposeScope();
        var w = weight.In(type);
        return nn.functional.linear(x.In(type), w.dim() == 2 ? w : w.flatten(1), bias?.In(type)).MoveToOuterDisposeScope();
    }
}

/// <summary>A two-dimensional convolution. The output has the data type in which the layer computes.</summary>
/// <remarks>Parameters: <c>weight [outputs, inputs, size, size]</c> and, if the layer has a bias, <c>bias [outputs]</c>.</remarks>
internal sealed class Conv2d : nn.Module<Tensor, Tensor>, IComputeLayer
{
    public readonly Parameter weight;
    public readonly Parameter? bias;
    private readonly long[] _strides;
    private readonly long[] _padding;

    public Conv2d(long inputs, long outputs, long size, long stride = 1, long padding = 0, bool hasBias = true)
        : base(nameof(Conv2d))
    {
        weight = Parameters.Create(outputs, inputs, size, size);
        bias = hasBias ? Parameters.Create(outputs) : null;
        (_strides, _padding) = ([stride, stride], [padding, padding]);
        RegisterComponents();
    }

    public ScalarType? ComputeType { get; set; }

    public override Tensor forward(Tensor x)
    {
        var type = ComputeType ?? weight.dtype;
        return Scoped(() => nn.functional.conv2d(x.In(type), weight.In(type), bias?.In(type), _strides, _padding));
    }
}

/// <summary>A convolution over three frames, applied at each spatial position separately. The output has the data type in which the layer
/// computes.</summary>
/// <remarks>Parameters: <c>weight [outputs, inputs, 3, 1, 1]</c> and <c>bias [outputs]</c>.</remarks>
internal sealed class TemporalConv : nn.Module<Tensor, Tensor>, IComputeLayer
{
    public readonly Parameter weight;
    public readonly Parameter bias;

    public TemporalConv(long inputs, long outputs)
        : base(nameof(TemporalConv))
    {
        weight = Parameters.Create(outputs, inputs, 3, 1, 1);
        bias = Parameters.Create(outputs);
        RegisterComponents();
    }

    public ScalarType? ComputeType { get; set; }

    /// <summary>Convolves <c>[batch, inputs, frames, positions]</c>.</summary>
    public override Tensor forward(Tensor x)
    {
        var type = ComputeType ?? weight.dtype;
        return Scoped(() => nn.functional.conv2d(x.In(type), weight.squeeze(-1).In(type), bias.In(type), padding: [1, 0]));
    }
}

/// <summary>Creates, initializes and casts parameters.</summary>
internal static class Parameters
{
    [ThreadStatic]
    private static Device? _device;

    /// <summary>Creates an uninitialized parameter that is not attached to a dispose scope.</summary>
    /// <remarks>TorchSharp's public constructor leaves a second handle of the tensor to the finalizer. That handle keeps the memory alive and is
    /// counted in <see cref="Tensor.TotalCount"/> permanently.</remarks>
    public static Parameter Create(params long[] shape)
    {
        var tensor = Buffer(shape);
        tensor.requires_grad = true;
        var parameter = OfHandle(tensor.DecoupleFromNativeHandle());
        parameter.DetachFromDisposeScope();
        return parameter;

        [UnsafeAccessor(UnsafeAccessorKind.Constructor)]
        static extern Parameter OfHandle(IntPtr handle);
    }

    /// <summary>Creates an uninitialized tensor that is not attached to a dispose scope.</summary>
    public static Tensor Buffer(params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: _device).DetachFromDisposeScope();

    /// <summary>Makes models that are created on this thread allocate no memory for their parameters, only their shapes (the meta device), until the
    /// result is disposed of. This allows inspecting an architecture that does not fit in memory. Such models must be created with
    /// <c>initialize: false</c> and cannot run.</summary>
    public static IDisposable ShapesOnly()
    {
        var before = new DeviceScope(_device);
        _device = META;
        return before;
    }

    private sealed class DeviceScope(Device? before) : IDisposable
    {
        public void Dispose() => _device = before;
    }

    /// <summary>Returns the tensor itself if it already has the data type, or else a cast copy.</summary>
    public static Tensor In(this Tensor tensor, ScalarType type) => tensor.dtype == type ? tensor : tensor.to(type);

    /// <summary>Fills a weight uniformly between plus and minus sqrt(6 / (fan in + fan out)), with kernels flattened (Glorot and Bengio,
    /// 2010).</summary>
    public static void Xavier(Tensor weight, Generator? generator)
    {
        var bound = Math.Sqrt(6.0 / (weight.shape[0] + weight.numel() / weight.shape[0]));
        weight.uniform_(-bound, bound, generator);
    }

    /// <summary>Fills a tensor uniformly between plus and minus 1 / sqrt(fan in), which is PyTorch's default for linear layers and
    /// convolutions.</summary>
    public static void FanIn(Tensor tensor, long fanIn, Generator? generator)
    {
        var bound = 1 / Math.Sqrt(fanIn);
        tensor.uniform_(-bound, bound, generator);
    }

    /// <summary>Initializes all convolutions and linear layers of a module as PyTorch does by default, and its group norms with gain 1 and shift
    /// 0.</summary>
    public static void InitializeConvolutions(nn.Module model, Generator? generator)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        foreach (var module in model.modules())
        {
            var (weight, bias) = module switch
            {
                Conv2d conv => (conv.weight, conv.bias),
                TemporalConv conv => (conv.weight, conv.bias),
                Linear dense => (dense.weight, dense.bias),
                _ => (null, null),
            };
            if (weight is not null)
            {
                var fanIn = weight.numel() / weight.shape[0];
                FanIn(weight, fanIn, generator);
                if (bias is not null)
                {
                    FanIn(bias, fanIn, generator);
                }
            }
            if (module is GroupNorm norm)
            {
                Constant(norm.weight, 1);
                Constant(norm.bias, 0);
            }
        }
    }

    public static void Normal(Tensor tensor, double std, Generator? generator) => tensor.normal_(0, std, generator);

    public static void Constant(Tensor tensor, double value) => tensor.FillInPlace(value);
}
