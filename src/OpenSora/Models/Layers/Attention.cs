using OpenSora.Runtime;
using TorchSharp;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Scaled dot-product attention (Vaswani et al., 2017). It always uses libtorch's fused operator, which never stores the logits of all
/// queries at once (Dao et al., 2022, "FlashAttention"; docs/lab/performance.md compares it with plain matrix multiplications).</summary>
internal static class DotProduct
{
    /// <summary>Computes <c>softmax(scale q k^T + bias) v</c>. The inputs may be views with any strides.</summary>
    /// <param name="q">Queries, <c>[batch, heads, n, d]</c> or <c>[batch, n, d]</c>.</param>
    /// <param name="k">Keys, <c>[batch, heads, m, d]</c> or <c>[batch, m, d]</c>.</param>
    /// <param name="v">Values, <c>[batch, heads, m, d]</c> or <c>[batch, m, d]</c>.</param>
    /// <param name="scale">The factor of the logits.</param>
    /// <param name="bias">A tensor added to the logits, <c>[batch, heads, 1 or n, m]</c> or <c>[batch, 1 or n, m]</c>; null adds nothing.</param>
    /// <returns>The attended values, in the shape of <paramref name="q"/>. If there is an axis of heads, the result is a view of
    /// <c>[batch, n, heads, d]</c> in memory.</returns>
    public static Tensor Attend(Tensor q, Tensor k, Tensor v, double scale, Tensor? bias = null)
    {
        using var scope = NewDisposeScope();
        if (q.dim() == 3)
        {
            return Attend(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale, bias?.unsqueeze(1)).squeeze(1).MoveToOuterDisposeScope();
        }

        var factor = scale * Math.Sqrt(q.shape[^1]); // the operator divides by the square root
        if (Math.Abs(factor - 1) > 1e-12)
        {
            q = q.Times(factor);
        }

        bias = bias?.In(q.dtype);
        if (!is_grad_enabled() || q.device_type != DeviceType.CPU || q.element_size() >= 4 || q.shape[2] <= MostQueries)
        {
            return nn.functional.scaled_dot_product_attention(q, k, v, bias).MoveToOuterDisposeScope();
        }

        (k, v) = (k.to(ScalarType.Float32), v.to(ScalarType.Float32)); // here, the gradients of the parts are added up
        List<Tensor> parts = [];
        for (long start = 0, count; start < q.shape[2]; start += count)
        {
            count = Math.Min(MostQueries, q.shape[2] - start);
            var own = bias?.shape[2] > 1 ? bias.narrow(2, start, count) : bias;
            var part = nn.functional.scaled_dot_product_attention(q.narrow(2, start, count), k.to(q.dtype), v.to(q.dtype), own);
            parts.Add(part.transpose(1, 2));
        }

        return cat(parts, 1).transpose(1, 2).MoveToOuterDisposeScope();
    }

    // On a CPU, the operator adds up the gradients of keys and values over all queries in the type of the tokens. In bfloat16, with 65,536 queries,
    // the gradients of the values are off by 7 %; with this number of queries by 0.6 %.
    private const long MostQueries = 8192;
}

/// <summary>Multi-head self-attention along one axis of a grid of tokens.</summary>
/// <remarks>Parameters: <c>qkv</c> (split into 3, heads, channels per head), <c>proj</c> and, if queries and keys are normalized, <c>q_norm</c> and
/// <c>k_norm</c>.</remarks>
public sealed class SelfAttention : nn.Module<Tensor, Tensor>
{
    /// <summary>The axes of <c>[batch, frames, positions, channels]</c> that attention can run along; <see cref="All"/> treats both axes as
    /// one.</summary>
    internal const int All = 0,
        Time = 1,
        Space = 2;

    internal readonly Linear qkv;
    internal readonly Linear proj;
    internal readonly nn.Module<Tensor, Tensor>? q_norm;
    internal readonly nn.Module<Tensor, Tensor>? k_norm;
    private readonly int _heads;

    /// <summary>Creates the attention layer.</summary>
    /// <param name="channels">The number of channels of a token.</param>
    /// <param name="heads">The number of heads.</param>
    /// <param name="qkNorm">Whether to normalize queries and keys.</param>
    /// <param name="rms">Whether that normalization is RMSNorm (STDiT2, STDiT3) instead of LayerNorm (STDiT).</param>
    public SelfAttention(int channels, int heads, bool qkNorm = false, bool rms = false)
        : base(nameof(SelfAttention))
    {
        _heads = heads;
        qkv = new Linear(channels, 3L * channels);
        nn.Module<Tensor, Tensor>? HeadNorm() =>
            !qkNorm ? null
            : rms ? new RMSNorm(channels / heads, 1e-6)
            : new LayerNorm(channels / heads, 1e-5);
        (q_norm, k_norm) = (HeadNorm(), HeadNorm());
        proj = new Linear(channels, channels);
        RegisterComponents();
    }

    /// <summary>Attends over all tokens of <c>[batch, tokens, channels]</c>.</summary>
    public override Tensor forward(Tensor x) => Scoped(() => AttendAlong(Space, x.unsqueeze(1)).squeeze(1));

    /// <summary>Attends along one axis of <c>[batch, frames, positions, channels]</c>, treating the other as a batch axis, or along both.</summary>
    /// <param name="axis">The axis: <see cref="Time"/>, <see cref="Space"/> or <see cref="All"/>.</param>
    /// <param name="x">Tokens, <c>[batch, frames, positions, channels]</c>.</param>
    /// <param name="rope">Rotary positions that rotate queries and keys along the axis; null leaves them as they are.</param>
    /// <param name="ropeFirst">Whether queries and keys are rotated before they are normalized.</param>
    internal Tensor AttendAlong(int axis, Tensor x, Rope? rope = null, bool ropeFirst = false)
    {
        using var scope = NewDisposeScope();
        var (call, places) = (axis == Time ? SequenceParallel.Current : null, x.shape[2]);
        x = call?.ToPlaces(x) ?? x;
        var (b, t, s, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        if (axis == All)
        {
            return AttendAlong(Space, x.view(b, 1, t * s, c)).view(b, t, s, c).MoveToOuterDisposeScope();
        }

        var projected = qkv.call(x).view(b, t, s, 3, _heads, -1);
        var y =
            axis == Space
                ? Attend(projected.view(b * t, s, 3, _heads, -1), rope, ropeFirst)
                // One sample at a time, because the positions of several samples have no common stride and would have to be copied.
                : stack(projected.unbind(0).Select(sample => Attend(sample.transpose(0, 1), rope, ropeFirst).transpose(0, 1)));
        y = proj.call(y.reshape(b, t, s, c));
        return (call?.ToFrames(y, places) ?? y).MoveToOuterDisposeScope();
    }

    // From [batch, length, 3, heads, d] to [batch, length, heads, d].
    private Tensor Attend(Tensor qkv, Rope? rope, bool ropeFirst)
    {
        var parts = qkv.permute(2, 0, 3, 1, 4).unbind(0); // [batch, heads, length, d]
        var (q, k, v) = (parts[0], parts[1], parts[2]);
        if (rope is not null && ropeFirst)
        {
            (q, k) = (rope.call(q), rope.call(k));
        }

        if (q_norm is not null && k_norm is not null)
        {
            (q, k) = (q_norm.call(q).In(q.dtype), k_norm.call(k).In(k.dtype));
        }

        if (rope is not null && !ropeFirst)
        {
            (q, k) = (rope.call(q), rope.call(k));
        }

        return DotProduct.Attend(q, k, v, 1 / Math.Sqrt(q.shape[^1])).transpose(1, 2);
    }
}

/// <summary>Attention from the tokens of a video to the tokens of a text.</summary>
/// <remarks>Parameters: <c>q_linear</c>, <c>kv_linear</c> (split into 2, heads, channels per head), <c>proj</c>.</remarks>
internal sealed class CrossAttention : nn.Module<Tensor, Tensor, Tensor?, Tensor>
{
    public readonly Linear q_linear;
    public readonly Linear kv_linear;
    public readonly Linear proj;
    private readonly int _heads;

    public CrossAttention(int channels, int heads)
        : base(nameof(CrossAttention))
    {
        _heads = heads;
        q_linear = new Linear(channels, channels);
        kv_linear = new Linear(channels, 2L * channels);
        proj = new Linear(channels, channels);
        RegisterComponents();
    }

    /// <summary>Attends to a padded text.</summary>
    /// <param name="x">Tokens of the video, <c>[batch, n, channels]</c>.</param>
    /// <param name="y">Text states, <c>[batch, m, channels]</c>.</param>
    /// <param name="bias">The text mask as computed by <see cref="KeyBias"/>; null if all tokens are real.</param>
    public override Tensor forward(Tensor x, Tensor y, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        var (b, n, m, c) = (x.shape[0], x.shape[1], y.shape[1], x.shape[2]);
        var d = c / _heads;
        var q = q_linear.call(x).view(b, n, _heads, d).transpose(1, 2); // [b, heads, n, d]
        var kv = kv_linear.call(y).view(b, m, 2, _heads, d).permute(2, 0, 3, 1, 4).unbind(0); // 2 of [b, heads, m, d]
        var z = DotProduct.Attend(q, kv[0], kv[1], 1 / Math.Sqrt(d), bias?.view(b, _heads, 1, m));
        return proj.call(z.transpose(1, 2).reshape(b, n, c)).MoveToOuterDisposeScope();
    }

    /// <summary>Removes the text tokens after the last one that any row uses, and masks the remaining padding.</summary>
    /// <param name="text">Text states, <c>[batch, m, channels]</c>.</param>
    /// <param name="mask">The text mask, <c>[rows, m]</c>, nonzero for real tokens; null if all tokens are real. A mask with fewer rows than the
    /// batch is repeated as a whole to fill the batch.</param>
    /// <param name="heads">The number of heads of the attention.</param>
    /// <returns>The text <c>[batch, used, channels]</c>, and the result of <see cref="KeyBias"/> if any remaining token is padding.</returns>
    /// <exception cref="ArgumentException">A row of the mask has no real token.</exception>
    public static (Tensor Text, Tensor? Bias) Keys(Tensor text, Tensor? mask, int heads)
    {
        if (mask is null)
        {
            return (text, null);
        }

        using var scope = NewDisposeScope();
        var real = mask.NotEqualTo(0);
        if (!real.any(1).all().item<bool>())
        {
            throw new ArgumentException("A row of the text mask has no token. Keep at least the end-of-text token of every prompt.", nameof(mask));
        }

        var used = real.any(0).nonzero().max().item<long>() + 1;
        if (mask.shape[0] != text.shape[0])
        {
            real = real.repeat(text.shape[0] / mask.shape[0], 1);
        }

        var bias = real.all().item<bool>() ? null : KeyBias(real.narrow(1, 0, used), heads);
        return (text.narrow(1, 0, used).MoveToOuterDisposeScope(), bias?.MoveToOuterDisposeScope());
    }

    /// <summary>Converts a mask of keys to a bias that is added to the logits: 0 or minus infinity, <c>[batch * heads, 1, m]</c>.</summary>
    /// <remarks>Attention to padded texts with this bias equals attention to the packed tokens of each text.</remarks>
    /// <param name="mask">The mask, <c>[batch, m]</c>, nonzero for real tokens.</param>
    /// <param name="heads">The number of heads of the attention.</param>
    public static Tensor KeyBias(Tensor mask, int heads)
    {
        using var scope = NewDisposeScope();
        var (b, m) = (mask.shape[0], mask.shape[1]);
        var bias = zeros(b, m, dtype: ScalarType.Float32, device: mask.device).MaskedFill(mask.EqualTo(0), float.NegativeInfinity);
        return bias.view(b, 1, 1, m).expand(b, heads, 1, m).reshape(b * heads, 1, m).MoveToOuterDisposeScope();
    }
}
