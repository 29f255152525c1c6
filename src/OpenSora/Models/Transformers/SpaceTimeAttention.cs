using System.Globalization;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using TorchSharp;
using TorchSharp.Modules;
using static OpenSora.Models.Layers.Functional;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The attention of a block over a grid of tokens, in any <see cref="AttentionOrder"/>.</summary>
/// <param name="Order">The order of attention of the model.</param>
/// <param name="Block">The zero-based index of the block.</param>
/// <param name="TemporalNorm">Whether the input of the second attention is normalized.</param>
internal readonly record struct SpaceTimeAttention(AttentionOrder Order, int Block, bool TemporalNorm = false)
{
    /// <summary>The axis of the block's first attention.</summary>
    public int Axis =>
        Order switch
        {
            AttentionOrder.Full => SelfAttention.All,
            AttentionOrder.Interleaved when Block % 2 == 1 => SelfAttention.Time,
            _ => SelfAttention.Space,
        };

    /// <summary>Whether the block has a second attention, along time.</summary>
    public bool HasTemporal => Order is AttentionOrder.Serial or AttentionOrder.Parallel;

    /// <summary>Counts the attentions along time of a model.</summary>
    public static int CountTemporal(AttentionOrder order, int depth) =>
        order switch
        {
            AttentionOrder.Full => 0,
            AttentionOrder.Interleaved => depth / 2,
            _ => depth,
        };

    /// <summary>Determines whether a parameter attends over time: the second attention of a block, or a whole block if blocks alternate.</summary>
    /// <param name="order">The model's order.</param>
    /// <param name="parameter">The parameter's name, such as <c>blocks.3.attn.qkv.weight</c>.</param>
    public static bool IsTemporal(AttentionOrder order, string parameter) =>
        parameter.Split('.') is ["blocks", var number, var part, ..]
        && (
            part is "attn_temp"
            || (order == AttentionOrder.Interleaved && int.TryParse(number, CultureInfo.InvariantCulture, out var block) && block % 2 == 1)
        );

    /// <summary>Whether the block receives the positions of the frames: only the first block that attends along time does, or every such block if
    /// <see cref="TemporalNorm"/> is set.</summary>
    public bool TakesFramePositions => Block == (Order == AttentionOrder.Interleaved ? 1 : 0) || (TemporalNorm && HasTemporal);

    /// <summary>Computes the residual steps of the attentions.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="attention">The block's first attention.</param>
    /// <param name="temporal">The block's second attention, along time; null omits it.</param>
    /// <param name="shift">The shift of the input of the first attention, <c>[B, 1 or T, 1, C]</c>.</param>
    /// <param name="scale">The scale of the input of the first attention, <c>[B, 1 or T, 1, C]</c>.</param>
    /// <param name="gate">The gate of the output of the first attention, <c>[B, 1 or T, 1, C]</c>.</param>
    /// <param name="temporalGate">The gate of the output of the second attention. The input of that attention is not modulated, and is normalized
    /// only if <see cref="TemporalNorm"/> is set.</param>
    /// <param name="frames">Positions along time, <c>[1, T, C]</c>. If the block has a second attention, only that attention receives them.</param>
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
            x = x.Plus(positions);
        }

        var y = AddGated(x, gate, attention.AttendAlong(Axis, NormModulate(x, shift, scale)));
        if (temporal is not null)
        {
            var along = Order == AttentionOrder.Serial ? y : x;
            along = TemporalNorm ? nn.functional.layer_norm(along, [along.shape[^1]], eps: 1e-6) : along;
            y = AddGatedTo(y, temporalGate, temporal.AttendAlong(SelfAttention.Time, positions is null ? along : along.Plus(positions)));
        }
        return y.MoveToOuterDisposeScope();
    }
}
