using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Two linear layers with a GELU (tanh approximation) between them. Parameters: <c>fc1</c>, <c>fc2</c>.</summary>
public sealed class Mlp : nn.Module<Tensor, Tensor>
{
    internal readonly Linear fc1;
    internal readonly Linear fc2;

    /// <summary>Creates an MLP with uninitialized weights.</summary>
    /// <param name="inputs">The number of channels of the input.</param>
    /// <param name="hidden">The number of channels between the layers.</param>
    /// <param name="outputs">The number of channels of the output.</param>
    public Mlp(long inputs, long hidden, long outputs)
        : base(nameof(Mlp))
    {
        fc1 = new Linear(inputs, hidden);
        fc2 = new Linear(hidden, outputs);
        RegisterComponents();
    }

    /// <summary>Maps <c>[..., inputs]</c> to <c>[..., outputs]</c>.</summary>
    public override Tensor forward(Tensor x) =>
        Scoped(() => fc2.call(nn.functional.gelu(fc1.call(x), GELU.Approximate.tanh, inplace: !is_grad_enabled())));
}

/// <summary>Layer normalization over the last axis in float32, with a learned gain and shift. Parameters: <c>weight</c>, <c>bias</c>.</summary>
internal sealed class LayerNorm : nn.Module<Tensor, Tensor>
{
    public readonly Parameter weight;
    public readonly Parameter bias;
    private readonly double _eps;

    public LayerNorm(long channels, double eps)
        : base(nameof(LayerNorm))
    {
        _eps = eps;
        weight = Parameters.Create(channels);
        bias = Parameters.Create(channels);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var type = ScalarType.Float32;
        return nn.functional.layer_norm(x.In(type), weight.shape, weight.In(type), bias.In(type), _eps).MoveToOuterDisposeScope();
    }
}

/// <summary>Root mean square normalization over the last axis in float32 (Zhang and Sennrich, 2019), with a learned gain. Parameter:
/// <c>weight</c>.</summary>
internal sealed class RMSNorm : nn.Module<Tensor, Tensor>
{
    public readonly Parameter weight;
    private readonly double _eps;

    public RMSNorm(long channels, double eps)
        : base(nameof(RMSNorm))
    {
        _eps = eps;
        weight = Parameters.Create(channels);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        x = x.In(ScalarType.Float32);
        return (x * rsqrt(x.Squared().mean([-1], keepdim: true).Plus(_eps)) * weight).MoveToOuterDisposeScope();
    }
}

/// <summary>The last layer of STDiT and PixArt: adaLN-single, then a projection to patches. Parameters: <c>scale_shift_table [2, channels]</c>,
/// <c>linear</c>.</summary>
internal sealed class FinalLayer : nn.Module<Tensor, Tensor, Tensor>
{
    public readonly Parameter scale_shift_table;
    public readonly Linear linear;

    public FinalLayer(long channels, long outputs)
        : base(nameof(FinalLayer))
    {
        scale_shift_table = Parameters.Create(2, channels);
        linear = new Linear(channels, outputs) { Exact = true };
        RegisterComponents();
    }

    /// <summary>Modulates the tokens by the time embedding and projects them.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="t">The time embedding, <c>[batch, channels]</c>.</param>
    public override Tensor forward(Tensor x, Tensor t) => Scoped(() => linear.call(Modulate(x, t)));

    /// <summary>Modulates and projects tokens of which some belong to conditioning frames, at time 0. The output for conditioning frames is not used;
    /// as in the published code, their tokens are modulated twice.</summary>
    /// <param name="x">Tokens, <c>[batch, tokens, channels]</c>.</param>
    /// <param name="t">The time embedding, <c>[batch, channels]</c>.</param>
    /// <param name="clean">The embedding of time 0, <c>[batch, channels]</c>.</param>
    /// <param name="noisy">A boolean mask, <c>[batch, tokens, 1]</c>, false for tokens of conditioning frames.</param>
    public Tensor OfFrames(Tensor x, Tensor t, Tensor clean, Tensor noisy)
    {
        using var scope = NewDisposeScope();
        x = Modulate(x, t);
        return linear.call(where(noisy, x, Modulate(x, clean))).MoveToOuterDisposeScope();
    }

    private Tensor Modulate(Tensor x, Tensor t)
    {
        var modulation = scale_shift_table.unsqueeze(0).Plus(t.unsqueeze(1)).chunk(2, 1);
        return NormModulate(x, modulation[0], modulation[1]);
    }
}

/// <summary>Group normalization in the data type of its input. Parameters: <c>weight</c>, <c>bias</c>.</summary>
internal sealed class GroupNorm : nn.Module<Tensor, Tensor>
{
    public readonly Parameter weight;
    public readonly Parameter bias;
    private readonly int _groups;
    private readonly double _eps;

    public GroupNorm(long channels, int groups, double eps = 1e-6)
        : base(nameof(GroupNorm))
    {
        (_groups, _eps) = (groups, eps);
        weight = Parameters.Create(channels);
        bias = Parameters.Create(channels);
        RegisterComponents();
    }

    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var type = x.dtype;
        return nn.functional.group_norm(x, _groups, weight.In(type), bias.In(type), _eps).MoveToOuterDisposeScope();
    }
}
