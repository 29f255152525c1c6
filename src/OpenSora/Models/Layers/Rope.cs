using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Runtime.TensorArithmetic;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Rotary position embedding: pairs of adjacent channels are rotated by the token's position times a frequency, so that the dot product of a
/// query and a key depends on the distance between them (Su et al., 2021, "RoFormer"). Parameter: <c>freqs [channels / 2]</c>, not trained.</summary>
internal sealed class Rope : nn.Module<Tensor, Tensor>
{
    public readonly Parameter freqs;

    public Rope(int channels)
        : base(nameof(Rope))
    {
        freqs = Parameters.Create(channels / 2);
        freqs.requires_grad = false;
        RegisterComponents();
    }

    /// <summary>Sets the frequencies to <c>10000^(-2i / channels)</c>.</summary>
    public void Initialize()
    {
        var pairs = freqs.shape[0];
        using var values = tensor([.. Enumerable.Range(0, (int)pairs).Select(i => (float)Math.Pow(10000, -(double)i / pairs))]);
        freqs.copy_(values);
    }

    /// <summary>Rotates <c>[..., tokens, channels]</c> and keeps the data type.</summary>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        var (tokens, pairs) = (x.shape[^2], x.shape[^1] / 2);
        var angles = Range(0, tokens, ScalarType.Float32, x.device).unsqueeze(1) * freqs.detach().In(ScalarType.Float32); // [tokens, pairs]
        var (cos, sin) = (angles.cos(), angles.sin());
        var both = x.In(ScalarType.Float32).unflatten(x.dim() - 1, pairs, 2).unbind(-1);
        var turned = stack([both[0] * cos - both[1] * sin, (both[1] * cos).Plus(both[0] * sin)], -1);
        return turned.flatten(-2).In(x.dtype).MoveToOuterDisposeScope();
    }
}
