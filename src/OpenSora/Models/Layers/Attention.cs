using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models.Layers;

/// <summary>Scaled dot-product attention (Vaswani et al., 2017).</summary>
internal static class DotProduct
{
    // Without gradients no more logits than this are held at a time, so that they stay near the processor.
    private const long MaxLogits = 1 << 22;

    // From so many keys on, libtorch's fused attention is faster than plain products in bfloat16 and float16 on a CPU (docs/performance.md).
    public const long LeastKeysOfHalfPrecision = 1024;

    /// <summary>Whether attention runs as one fused operator, which never holds the logits of all queries: always on a CUDA device, in float32 and float64 on a
    /// CPU, and in half precision on a CPU where there are many keys.</summary>
    /// <param name="q">Queries, of any shape.</param>
    /// <param name="keys">Keys that each query attends to.</param>
    public static bool IsFused(Tensor q, long keys) => q.device_type == DeviceType.CUDA || q.dtype is ScalarType.Float32 or ScalarType.Float64 || keys >= LeastKeysOfHalfPrecision;

    /// <summary><c>softmax(scale q k^T + bias) v</c> by the fused operator (Dao et al., 2022, "FlashAttention"). Inputs may be views of any strides.</summary>
    /// <param name="q"><c>[batch, heads, n, d]</c></param>
    /// <param name="k"><c>[batch, heads, m, d]</c></param>
    /// <param name="v"><c>[batch, heads, m, d]</c></param>
    /// <param name="scale">Factor of the logits.</param>
    /// <param name="bias">Added to the logits, <c>[batch, heads, 1 or n, m]</c>.</param>
    /// <returns><c>[batch, heads, n, d]</c>, a view of <c>[batch, n, heads, d]</c> in memory.</returns>
    public static Tensor Fused(Tensor q, Tensor k, Tensor v, double scale, Tensor? bias = null)
    {
        using var scope = NewDisposeScope();
        var factor = scale * Math.Sqrt(q.shape[^1]); // the operator itself divides by the root
        if (Math.Abs(factor - 1) > 1e-12)
            q = q * factor;
        return nn.functional.scaled_dot_product_attention(q, k, v, bias?.In(q.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary><c>softmax(scale q k^T + bias) v</c>; products in the type of q, softmax in float32.</summary>
    /// <param name="q"><c>[groups, n, d]</c></param>
    /// <param name="k"><c>[groups, m, d]</c></param>
    /// <param name="v"><c>[groups, m, d]</c></param>
    /// <param name="scale">Factor of the logits.</param>
    /// <param name="bias">Added to the logits, float32, <c>[groups, 1 or n, m]</c>.</param>
    public static Tensor Attend(Tensor q, Tensor k, Tensor v, double scale, Tensor? bias = null)
    {
        using var scope = NewDisposeScope();
        if (IsFused(q, k.shape[1]))
            return Fused(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale, bias?.unsqueeze(1)).squeeze(1).MoveToOuterDisposeScope();
        var (groups, logits) = (q.shape[0], q.shape[1] * k.shape[1]);
        if (is_grad_enabled() || groups * logits <= MaxLogits || groups == 1)
            return Product(q, k, v, scale, bias).MoveToOuterDisposeScope();

        var output = empty_like(q);
        var slice = Math.Max(1, MaxLogits / logits);
        for (var from = 0L; from < groups; from += slice)
        {
            using var part = NewDisposeScope();
            Tensor Part(Tensor tensor) => tensor.narrow(0, from, Math.Min(slice, groups - from));
            Part(output).copy_(Product(Part(q), Part(k), Part(v), scale, bias is null ? null : Part(bias)));
        }
        return output.MoveToOuterDisposeScope();
    }

    private static Tensor Product(Tensor q, Tensor k, Tensor v, double scale, Tensor? bias)
    {
        var kT = k.transpose(1, 2);
        var logits = bias is null ? bmm(q * scale, kT) : bmm(q * scale, kT) + bias; // TorchSharp's baddbmm takes its arguments in another order than its names say
        var weights = logits.softmax(-1, ScalarType.Float32);
        return bmm(weights.In(v.dtype), v);
    }
}

/// <summary>Multi-head self attention along one axis of a grid of tokens.</summary>
/// <remarks>Parameters <c>qkv</c> (split as 3, heads, channels of a head), <c>proj</c>, and with normalised queries and keys <c>q_norm</c>, <c>k_norm</c>.</remarks>
internal sealed class SelfAttention : nn.Module<Tensor, Tensor>
{
    /// <summary>The axes of <c>[batch, frames, places, channels]</c> to attend along; <see cref="All"/> is both as one.</summary>
    public const int All = 0, Time = 1, Space = 2;

    public readonly Dense qkv;
    public readonly Dense proj;
    public readonly nn.Module<Tensor, Tensor>? q_norm;
    public readonly nn.Module<Tensor, Tensor>? k_norm;
    private readonly int _heads;

    /// <summary>Makes the attention.</summary>
    /// <param name="channels">Channels of a token.</param>
    /// <param name="heads">Heads.</param>
    /// <param name="qkNorm">Whether queries and keys are normalised: by their mean and variance (STDiT)...</param>
    /// <param name="rms">...or by their root mean square (STDiT2, STDiT3).</param>
    public SelfAttention(int channels, int heads, bool qkNorm = false, bool rms = false) : base(nameof(SelfAttention))
    {
        _heads = heads;
        qkv = new Dense(channels, 3L * channels);
        nn.Module<Tensor, Tensor>? HeadNorm() => !qkNorm ? null : rms ? new RmsNorm(channels / heads, 1e-6) : new Norm(channels / heads, 1e-5);
        (q_norm, k_norm) = (HeadNorm(), HeadNorm());
        proj = new Dense(channels, channels);
        RegisterComponents();
    }

    /// <summary>Attention over all tokens of <c>[batch, tokens, channels]</c>.</summary>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return Along(Space, x.unsqueeze(1)).squeeze(1).MoveToOuterDisposeScope();
    }

    /// <summary>Attention along one axis of <c>[batch, frames, places, channels]</c>, the other one being a batch, or along both.</summary>
    /// <param name="axis"><see cref="Time"/>, <see cref="Space"/> or <see cref="All"/>.</param>
    /// <param name="x">The tokens.</param>
    /// <param name="rope">Rotates queries and keys by their place along the axis.</param>
    /// <param name="ropeFirst">Whether they are rotated before they are normalised.</param>
    public Tensor Along(int axis, Tensor x, Rope? rope = null, bool ropeFirst = false)
    {
        using var scope = NewDisposeScope();
        var (b, t, s, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        if (axis == All)
            return Along(Space, x.view(b, 1, t * s, c)).view(b, t, s, c).MoveToOuterDisposeScope();
        var (length, d) = (x.shape[axis], c / _heads);

        var projected = qkv.call(x);
        if (axis == Space && rope is null && DotProduct.IsFused(projected, s))
        {
            var heads = projected.view(b * t, s, 3, _heads, d).permute(2, 0, 3, 1, 4).unbind(0); // 3 views [b t, heads, s, d]
            var (queries, keys) = q_norm is null || k_norm is null ? (heads[0], heads[1]) : (q_norm.call(heads[0]).In(heads[0].dtype), k_norm.call(heads[1]).In(heads[1].dtype));
            return proj.call(DotProduct.Fused(queries, keys, heads[2], 1 / Math.Sqrt(d)).transpose(1, 2).reshape(b, t, s, c)).MoveToOuterDisposeScope();
        }

        // [3, batch, the other axis, heads, the axis, d], one copy for all three
        var split = projected.view(b, t, s, 3, _heads, d);
        split = axis == Space ? split.permute(3, 0, 1, 4, 2, 5) : split.permute(3, 0, 2, 4, 1, 5);
        var parts = split.contiguous().view(3, -1, length, d).unbind(0);
        var (q, k, v) = (parts[0], parts[1], parts[2]);
        if (rope is not null && ropeFirst)
            (q, k) = (rope.call(q), rope.call(k));
        if (q_norm is not null && k_norm is not null)
            (q, k) = (q_norm.call(q).In(q.dtype), k_norm.call(k).In(k.dtype));
        if (rope is not null && !ropeFirst)
            (q, k) = (rope.call(q), rope.call(k));

        var y = DotProduct.Attend(q, k, v, 1 / Math.Sqrt(d));
        y = axis == Space ? y.view(b, t, _heads, s, d).permute(0, 1, 3, 2, 4) : y.view(b, s, _heads, t, d).permute(0, 3, 1, 2, 4);
        return proj.call(y.reshape(b, t, s, c)).MoveToOuterDisposeScope();
    }
}

/// <summary>Attention of tokens to the tokens of a text.</summary>
/// <remarks>Parameters <c>q_linear</c>, <c>kv_linear</c> (split as 2, heads, channels of a head), <c>proj</c>.</remarks>
internal sealed class CrossAttention : nn.Module<Tensor, Tensor, Tensor?, Tensor>
{
    public readonly Dense q_linear;
    public readonly Dense kv_linear;
    public readonly Dense proj;
    private readonly int _heads;

    public CrossAttention(int channels, int heads) : base(nameof(CrossAttention))
    {
        _heads = heads;
        q_linear = new Dense(channels, channels);
        kv_linear = new Dense(channels, 2L * channels);
        proj = new Dense(channels, channels);
        RegisterComponents();
    }

    /// <summary>Attends to a padded text.</summary>
    /// <param name="x"><c>[batch, n, channels]</c></param>
    /// <param name="y"><c>[batch, m, channels]</c></param>
    /// <param name="bias">What <see cref="KeyBias"/> makes of the text's mask; null where every token counts.</param>
    public override Tensor forward(Tensor x, Tensor y, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        var (b, n, m, c) = (x.shape[0], x.shape[1], y.shape[1], x.shape[2]);
        var d = c / _heads;
        var projected = q_linear.call(x).view(b, n, _heads, d).transpose(1, 2);
        if (DotProduct.IsFused(projected, m))
        {
            var both = kv_linear.call(y).view(b, m, 2, _heads, d).permute(2, 0, 3, 1, 4).unbind(0); // 2 views [b, heads, m, d]
            return proj.call(DotProduct.Fused(projected, both[0], both[1], 1 / Math.Sqrt(d), bias?.view(b, _heads, 1, m)).transpose(1, 2).reshape(b, n, c)).MoveToOuterDisposeScope();
        }
        var q = projected.reshape(b * _heads, n, d);
        var kv = kv_linear.call(y).view(b, m, 2, _heads, d).permute(2, 0, 3, 1, 4).reshape(2, b * _heads, m, d).unbind(0);
        var z = DotProduct.Attend(q, kv[0], kv[1], 1 / Math.Sqrt(d), bias);
        return proj.call(z.view(b, _heads, n, d).transpose(1, 2).reshape(b, n, c)).MoveToOuterDisposeScope();
    }

    /// <summary>Cuts the text's tokens after the last one that any row uses, and masks the rest.</summary>
    /// <param name="text"><c>[batch, m, channels]</c></param>
    /// <param name="mask"><c>[rows, m]</c>, not 0 where a token counts; null: all do. Fewer rows than the batch are repeated over it as a whole.</param>
    /// <param name="heads">Heads of the attention.</param>
    /// <returns>The text <c>[batch, used, channels]</c>, and what <see cref="KeyBias"/> makes of the mask where it is needed.</returns>
    /// <exception cref="ArgumentException">A row of the mask has no token.</exception>
    public static (Tensor Text, Tensor? Bias) Keys(Tensor text, Tensor? mask, int heads)
    {
        if (mask is null)
            return (text, null);
        using var scope = NewDisposeScope();
        var real = mask.ne(0);
        if (!real.any(1).all().item<bool>())
            throw new ArgumentException("A row of the text mask has no token. Keep at least the closing token of every prompt.", nameof(mask));
        var used = real.any(0).nonzero().max().item<long>() + 1;
        if (mask.shape[0] != text.shape[0])
            real = real.repeat(text.shape[0] / mask.shape[0], 1);
        var bias = real.all().item<bool>() ? null : KeyBias(real.narrow(1, 0, used), heads);
        return (text.narrow(1, 0, used).MoveToOuterDisposeScope(), bias?.MoveToOuterDisposeScope());
    }

    /// <summary>A mask of keys as what is added to the logits: 0 or minus infinity, <c>[batch * heads, 1, m]</c>.</summary>
    /// <remarks>Attending so to padded texts equals attending to the packed tokens of each.</remarks>
    /// <param name="mask"><c>[batch, m]</c>, not 0 where a token counts.</param>
    /// <param name="heads">Heads of the attention.</param>
    public static Tensor KeyBias(Tensor mask, int heads)
    {
        using var scope = NewDisposeScope();
        var (b, m) = (mask.shape[0], mask.shape[1]);
        var bias = zeros(b, m, dtype: ScalarType.Float32, device: mask.device).masked_fill(mask.eq(0), float.NegativeInfinity);
        return bias.view(b, 1, 1, m).expand(b, heads, 1, m).reshape(b * heads, 1, m).MoveToOuterDisposeScope();
    }
}
