using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>The attention of a block over a grid of tokens, in any <see cref="AttentionOrder"/>.</summary>
/// <param name="Order">The model's order.</param>
/// <param name="Block">The block's number.</param>
/// <param name="TemporalNorm">Whether the input of a second attention is normalised.</param>
internal readonly record struct SpaceTimeAttention(AttentionOrder Order, int Block, bool TemporalNorm = false)
{
    /// <summary>The axis of the block's own attention.</summary>
    public int Axis => Order switch
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
    public Tensor Run(Tensor x, SelfAttention attention, SelfAttention? temporal, Tensor shift, Tensor scale, Tensor gate, Tensor temporalGate, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var positions = frames?.unsqueeze(2).In(x.dtype);
        if (positions is not null && !HasTemporal)
            x = x + positions;
        var y = AdaLn.AddGated(x, gate, attention.Along(Axis, AdaLn.NormModulate(x, shift, scale)));
        if (temporal is not null)
        {
            var along = Order == AttentionOrder.Serial ? y : x;
            along = TemporalNorm ? nn.functional.layer_norm(along, [along.shape[^1]], eps: 1e-6) : along;
            y = AdaLn.AddGatedTo(y, temporalGate, temporal.Along(SelfAttention.Time, positions is null ? along : along + positions));
        }
        return y.MoveToOuterDisposeScope();
    }
}

/// <summary>A block of DiT and Latte: attention, then an MLP, modulated and gated by a condition through parameters of each block (adaLN-Zero).</summary>
internal sealed class DitBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor>, ICheckpointedBlock
{
    public readonly SelfAttention attn;
    public readonly Mlp mlp;
    public readonly Sequential adaLN_modulation;
    public readonly SelfAttention? attn_temp;
    private readonly SpaceTimeAttention _attention;

    public DitBlock(DitConfig config, int number) : base(nameof(DitBlock))
    {
        var c = config.HiddenSize;
        _attention = new SpaceTimeAttention(config.AttentionOrder, number);
        attn = new SelfAttention(c, config.NumHeads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        adaLN_modulation = nn.Sequential(nn.SiLU(), new Dense(c, 6L * c) { Exact = true });
        attn_temp = _attention.HasTemporal ? new SelfAttention(c, config.NumHeads) : null;
        RegisterComponents();
    }

    /// <inheritdoc cref="SpaceTimeAttention.TakesFramePositions"/>
    public bool TakesFramePositions => _attention.TakesFramePositions;

    public bool GradientCheckpointing { get; set; }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="condition">Time and text or class, <c>[B, C]</c>.</param>
    /// <param name="frames">Positions along time <c>[1, T, C]</c>, in the block that brings them in.</param>
    public override Tensor forward(Tensor x, Tensor condition, Tensor? frames) =>
        GradientCheckpointing ? Checkpointed.Run(this, inputs => Compute(inputs[0]!, inputs[1]!, inputs[2]), x, condition, frames) : Compute(x, condition, frames);

    private Tensor Compute(Tensor x, Tensor condition, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var m = adaLN_modulation.call(condition).view(x.shape[0], 1, 6, -1).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1, 1, C]
        var (shiftAttention, scaleAttention, gateAttention) = (m[0], m[1], m[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);
        x = _attention.Run(x, attn, attn_temp, shiftAttention, scaleAttention, gateAttention, gateAttention, frames);
        return AdaLn.AddGatedTo(x, gateMlp, mlp.call(AdaLn.NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}

/// <summary>A block of STDiT and PixArt: attention, cross attention to the text, then an MLP, modulated by one time embedding for all blocks (adaLN-single).</summary>
internal sealed class StditBlock : nn.Module<Tensor, Tensor, Tensor?, Tensor, Tensor?, Tensor?, Tensor>, ICheckpointedBlock
{
    public readonly Parameter scale_shift_table;
    public readonly SelfAttention attn;
    public readonly CrossAttention cross_attn;
    public readonly Mlp mlp;
    public readonly SelfAttention? attn_temp;
    private readonly SpaceTimeAttention _attention;

    public StditBlock(StditConfig config, int number) : base(nameof(StditBlock))
    {
        var (c, heads) = (config.HiddenSize, config.NumHeads);
        _attention = new SpaceTimeAttention(config.AttentionOrder, number, config.TemporalNorm);
        scale_shift_table = Parameters.Create(6, c);
        attn = new SelfAttention(c, heads, config.QkNorm);
        cross_attn = new CrossAttention(c, heads);
        mlp = new Mlp(c, (long)(c * config.MlpRatio), c);
        attn_temp = _attention.HasTemporal ? new SelfAttention(c, heads, config.QkNorm) : null;
        RegisterComponents();
    }

    /// <summary>The attention along time, where the block has one.</summary>
    public SelfAttention? AlongTime => attn_temp ?? (_attention.Axis == SelfAttention.Time ? attn : null);

    /// <summary>Whether the second attention runs.</summary>
    public bool TemporalAttention { get; set; } = true;

    /// <inheritdoc cref="SpaceTimeAttention.TakesFramePositions"/>
    public bool TakesFramePositions => _attention.TakesFramePositions;

    public bool GradientCheckpointing { get; set; }

    /// <summary>Runs the block.</summary>
    /// <param name="x">Tokens <c>[B, T, S, C]</c>.</param>
    /// <param name="modulation">What all blocks share of the time: <c>[B, 6, C]</c>.</param>
    /// <param name="frameModulation">The same for every frame, <c>[B, T, 6, C]</c>, where frames differ.</param>
    /// <param name="text"><c>[B, M, C]</c></param>
    /// <param name="textBias">The text's mask, see <see cref="CrossAttention.KeyBias"/>.</param>
    /// <param name="frames">Positions along time <c>[1, T, C]</c>, in the block that brings them in.</param>
    public override Tensor forward(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames) => GradientCheckpointing
        ? Checkpointed.Run(this, i => Compute(i[0]!, i[1]!, i[2], i[3]!, i[4], i[5]), x, modulation, frameModulation, text, textBias, frames)
        : Compute(x, modulation, frameModulation, text, textBias, frames);

    private Tensor Compute(Tensor x, Tensor modulation, Tensor? frameModulation, Tensor text, Tensor? textBias, Tensor? frames)
    {
        using var scope = NewDisposeScope();
        var (b, t, s, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        Tensor[] Modulation(Tensor shared) => (scale_shift_table + shared).unsqueeze(3).In(x.dtype).unbind(2); // 6 of [B, 1 or T, 1, C]
        var ofTime = Modulation(modulation.unsqueeze(1));
        var m = frameModulation is null ? ofTime : Modulation(frameModulation);
        var (shiftAttention, scaleAttention, gateAttention, gateTemporal) = (m[0], m[1], m[2], ofTime[2]);
        var (shiftMlp, scaleMlp, gateMlp) = (m[3], m[4], m[5]);

        x = _attention.Run(x, attn, TemporalAttention ? attn_temp : null, shiftAttention, scaleAttention, gateAttention, gateTemporal, frames);
        x = AdaLn.AddTo(x, cross_attn.call(x.view(b, t * s, c), text, textBias).view(b, t, s, c));
        return AdaLn.AddGatedTo(x, gateMlp, mlp.call(AdaLn.NormModulate(x, shiftMlp, scaleMlp))).MoveToOuterDisposeScope();
    }
}
