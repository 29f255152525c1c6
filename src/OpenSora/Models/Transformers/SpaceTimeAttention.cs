using OpenSora.Models.Layers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The attention of a block over a grid of tokens, in any <see cref="AttentionOrder"/>.</summary>
/// <param name="Order">The model's order.</param>
/// <param name="Block">The block's number.</param>
/// <param name="TemporalNorm">Whether the input of a second attention is normalised.</param>
internal readonly record struct SpaceTimeAttention(AttentionOrder Order, int Block, bool TemporalNorm = false)
{
    /// <summary>The axis of the block's own attention.</summary>
    public int Axis =>
        Order switch
        {
            AttentionOrder.Full => SelfAttention.All,
            AttentionOrder.Interleaved when Block % 2 == 1 => SelfAttention.Time,
            _ => SelfAttention.Space,
        };

    /// <summary>Whether the block has a second attention, along time.</summary>
    public bool HasTemporal => Order is AttentionOrder.Serial or AttentionOrder.Parallel;

    /// <summary>Whether the block gets the frames' positions: the first that attends along time does, or, normalised, each.</summary>
    public bool TakesFramePositions => Block == (Order == AttentionOrder.Interleaved ? 1 : 0) || (TemporalNorm && HasTemporal);

    /// <summary>The residual steps of the attentions.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="attention">The block's own attention.</param>
    /// <param name="temporal">Its second one, along time; null leaves it out.</param>
    /// <param name="shift">Of the input of the first one, as scale and gate: <c>[B, 1 or T, 1, C]</c>.</param>
    /// <param name="scale">See <paramref name="shift"/>.</param>
    /// <param name="gate">See <paramref name="shift"/>.</param>
    /// <param name="temporalGate">Gate of the second one, whose input is not modulated, and normalised only if so chosen.</param>
    /// <param name="frames">Positions along time <c>[1, T, C]</c>; of a second attention they are seen by it alone.</param>
    public Tensor Run(
        Tensor x,
        SelfAttention attention,
        SelfAttention? temporal,
        Tensor shift,
        Tensor scale,
        Tensor gate,
        Tensor temporalGate,
        Tensor? frames
    )
    {
        using var scope = NewDisposeScope();
        var positions = frames?.unsqueeze(2).In(x.dtype);
        if (positions is not null && !HasTemporal)
        {
            x = x + positions;
        }

        var y = AdaLn.AddGated(x, gate, attention.AttendAlong(Axis, AdaLn.NormModulate(x, shift, scale)));
        if (temporal is not null)
        {
            var along = Order == AttentionOrder.Serial ? y : x;
            along = TemporalNorm ? nn.functional.layer_norm(along, [along.shape[^1]], eps: 1e-6) : along;
            y = AdaLn.AddGatedTo(y, temporalGate, temporal.AttendAlong(SelfAttention.Time, positions is null ? along : along + positions));
        }
        return y.MoveToOuterDisposeScope();
    }
}
