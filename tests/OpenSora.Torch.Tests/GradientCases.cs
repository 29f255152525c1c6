using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;
using Approximate = TorchSharp.Modules.GELU.Approximate;

namespace OpenSora.TorchTests;

/// <summary>An operator, a call of it that makes one tensor, and the shapes and ranges of its float64 inputs.</summary>
internal sealed record GradientCase(string Name, Func<Tensor[], Tensor> Call, params GradientInput[] Inputs)
{
    public override string ToString() => $"{Name} [{string.Join("; ", Inputs.Select(i => string.Join("x", i.Shape)))}]";
}

internal sealed record GradientInput(long[] Shape, double Low, double High);

/// <summary>Every operator of the binding that has a gradient.</summary>
internal static class GradientCases
{
    private static readonly GradientInput X = In(2, 3);
    private static readonly GradientInput Positive = Between(0.3, 2, 2, 3);
    private static readonly GradientInput Inner = Between(-0.8, 0.8, 2, 3);
    private static readonly GradientInput Square = In(3, 3);

    private static readonly long[] Both = [0, 1];

    public static IEnumerable<GradientCase> All() => [.. Pointwise(), .. InPlace(), .. Reductions(), .. Algebra(), .. Shapes(), .. Selection(), .. Layers(), .. Pictures(), .. Losses(), .. Joins()];

    private static GradientInput In(params long[] shape) => new(shape, -2, 2);

    private static GradientInput Between(double low, double high, params long[] shape) => new(shape, low, high);

    private static Tensor L(params long[] values) => tensor(values);

    private static Tensor Mask() => tensor(new[] { true, false, true, false, false, true }).reshape(2, 3);

    private static Tensor Both2((Tensor, Tensor) pair) => pair.Item1;

    private static IEnumerable<GradientCase> Pointwise() =>
    [
        new("abs", x => x[0].abs(), X),
        new("acos", x => x[0].acos(), Inner),
        new("add", x => x[0].add(x[1]), X, In(3)),
        new("add", x => x[0].add(x[1], 2.5), X, X),
        new("add", x => x[0].add(3), X),
        new("add", x => x[0].add(3, 2), X),
        new("addcdiv", x => x[0].addcdiv(x[1], x[2], 0.5), X, X, Positive),
        new("addcdiv", x => x[0].addcdiv(x[1], x[2]), X, X, Positive),
        new("addcmul", x => x[0].addcmul(x[1], x[2], 0.5), X, X, X),
        new("asin", x => x[0].asin(), Inner),
        new("atan", x => x[0].atan(), X),
        new("atan2", x => x[0].atan2(x[1]), Positive, X),
        new("ceil", x => x[0].ceil(), X),
        new("clamp", x => x[0].clamp(-0.5, 0.7), X),
        new("clamp", x => x[0].clamp(x[1], x[2]), X, Between(-2, -1, 2, 3), Between(1, 2, 2, 3)),
        new("clamp_max", x => x[0].clamp_max(0.7), X),
        new("clamp_min", x => x[0].clamp_min(-0.5), X),
        new("clip", x => x[0].clip(-0.5, 0.7), X),
        new("clone", x => x[0].clone(), X),
        new("contiguous", x => x[0].t().contiguous(), X),
        new("cos", x => x[0].cos(), X),
        new("cosh", x => x[0].cosh(), X),
        new("div", x => x[0].div(x[1]), X, Positive),
        new("div", x => x[0].div(3), X),
        new("erf", x => x[0].erf(), X),
        new("erfinv", x => x[0].erfinv(), Inner),
        new("exp", x => x[0].exp(), X),
        new("exp2", x => x[0].exp2(), X),
        new("expm1", x => x[0].expm1(), X),
        new("floor", x => x[0].floor(), X),
        new("fmax", x => x[0].fmax(x[1]), X, X),
        new("fmin", x => x[0].fmin(x[1]), X, X),
        new("frac", x => x[0].frac(), X),
        new("lerp", x => x[0].lerp(x[1], x[2]), X, X, X),
        new("log", x => x[0].log(), Positive),
        new("log10", x => x[0].log10(), Positive),
        new("log1p", x => x[0].log1p(), Positive),
        new("log2", x => x[0].log2(), Positive),
        new("masked_fill", x => x[0].masked_fill(Mask(), 3), X),
        new("maximum", x => x[0].maximum(x[1]), X, X),
        new("minimum", x => x[0].minimum(x[1]), X, X),
        new("mul", x => x[0].mul(x[1]), X, In(2, 1)),
        new("mul", x => x[0].mul(3), X),
        new("nan_to_num", x => x[0].nan_to_num(), X),
        new("neg", x => x[0].neg(), X),
        new("op_Addition", x => x[0] + x[1] + 1 + 2L + 3f + 4.0 + (1 + x[0]), X, X),
        new("op_Subtraction", x => x[0] - x[1] - 1 - 2L - 3f - 4.0 - (1.5 - x[0]), X, X),
        new("op_Multiply", x => x[0] * x[1] * 1 * 2L * 3f * 0.5 * (2 * x[0]), X, X),
        new("op_Division", x => x[0] / x[1] / 1 / 2L / 3f / 0.5 / (2 / x[1]), X, Positive),
        new("op_Modulus", x => x[0] % 0.7, X),
        new("op_UnaryNegation", x => -x[0], X),
        new("pow", x => x[0].pow(x[1]), Positive, X),
        new("pow", x => x[0].pow(3), X),
        new("reciprocal", x => x[0].reciprocal(), Positive),
        new("relu", x => x[0].relu(), X),
        new("remainder", x => x[0].remainder(0.7), X),
        new("remainder", x => x[0].remainder(x[1]), X, Between(0.7, 0.9, 2, 3)),
        new("round", x => x[0].round(), X),
        new("rsqrt", x => x[0].rsqrt(), Positive),
        new("sigmoid", x => x[0].sigmoid(), X),
        new("sign", x => x[0].sign(), X),
        new("silu", x => x[0].silu(), X),
        new("sin", x => x[0].sin(), X),
        new("sinc", x => x[0].sinc(), X),
        new("sinh", x => x[0].sinh(), X),
        new("softplus", x => x[0].softplus(2, 10), X),
        new("sqrt", x => x[0].sqrt(), Positive),
        new("square", x => x[0].square(), X),
        new("sub", x => x[0].sub(x[1]), X, X),
        new("sub", x => x[0].sub(3), X),
        new("tan", x => x[0].tan(), Inner),
        new("tanh", x => x[0].tanh(), X),
        new("trunc", x => x[0].trunc(), X),
        new("where", x => x[0].where(Mask(), x[1]), X, X),
        new("xlogy", x => x[0].xlogy(x[1]), X, Positive),
        new("xlogy", x => x[0].xlogy(3), X),
    ];

    private static IEnumerable<GradientCase> InPlace() =>
    [
        new("abs_", x => x[0].clone().abs_(), X),
        new("add_", x => x[0].clone().add_(x[1]), X, X),
        new("add_", x => x[0].clone().add_(x[1], 2.5), X, X),
        new("add_", x => x[0].clone().add_(3), X),
        new("add_", x => x[0].clone().add_(3, 2), X),
        new("addcdiv_", x => x[0].clone().addcdiv_(x[1], x[2], 0.5), X, X, Positive),
        new("addcdiv_", x => x[0].clone().addcdiv_(x[1], x[2]), X, X, Positive),
        new("addcmul_", x => x[0].clone().addcmul_(x[1], x[2], 0.5), X, X, X),
        new("addmm_", x => x[0].clone().addmm_(x[1], x[2], 0.5f, 2), X, In(2, 4), In(4, 3)),
        new("clamp_", x => x[0].clone().clamp_(-0.5, 0.7), X),
        new("clamp_", x => x[0].clone().clamp_(x[1], x[2]), X, Between(-2, -1, 2, 3), Between(1, 2, 2, 3)),
        new("copy_", x => x[0].clone().copy_(x[1]) + x[0], X, X),
        new("cos_", x => x[0].clone().cos_(), X),
        new("div_", x => x[0].clone().div_(x[1]), X, Positive),
        new("div_", x => x[0].clone().div_(3), X),
        new("exp_", x => x[0].clone().exp_(), X),
        new("fill_", x => x[0].clone().fill_(3), X),
        new("floor_", x => x[0].clone().floor_(), X),
        new("index_add_", x => x[0].clone().index_add_(1, L(2, 0), x[1], 0.5), X, In(2, 2)),
        new("index_copy_", x => x[0].clone().index_copy_(1, L(2, 0), x[1]), X, In(2, 2)),
        new("index_fill_", x => x[0].clone().index_fill_(1, L(1), 5), X),
        new("lerp_", x => x[0].clone().lerp_(x[1], x[2]), X, X, X),
        new("log_", x => x[0].clone().log_(), Positive),
        new("masked_fill_", x => x[0].clone().masked_fill_(Mask(), 3), X),
        new("mul_", x => x[0].clone().mul_(x[1]), X, X),
        new("mul_", x => x[0].clone().mul_(3), X),
        new("neg_", x => x[0].clone().neg_(), X),
        new("pow_", x => x[0].clone().pow_(x[1]), Positive, X),
        new("pow_", x => x[0].clone().pow_(3), X),
        new("relu_", x => x[0].clone().relu_(), X),
        new("round_", x => x[0].clone().round_(), X),
        new("rsqrt_", x => x[0].clone().rsqrt_(), Positive),
        new("scatter_", x => x[0].clone().scatter_(1, L(2, 0).reshape(2, 1), x[1]), X, In(2, 1)),
        new("scatter_add_", x => x[0].clone().scatter_add_(1, L(2, 0).reshape(2, 1), x[1]), X, In(2, 1)),
        new("sigmoid_", x => x[0].clone().sigmoid_(), X),
        new("silu_", x => x[0].clone().silu_(), X),
        new("sqrt_", x => x[0].clone().sqrt_(), Positive),
        new("squeeze_", x => x[0].clone().squeeze_(1), In(2, 1)),
        new("squeeze_", x => x[0].clone().squeeze_(), In(2, 1)),
        new("sub_", x => x[0].clone().sub_(x[1]), X, X),
        new("sub_", x => x[0].clone().sub_(3), X),
        new("tanh_", x => x[0].clone().tanh_(), X),
        new("tril_", x => x[0].clone().tril_(1), Square),
        new("triu_", x => x[0].clone().triu_(1), Square),
        new("unsqueeze_", x => x[0].clone().unsqueeze_(1), X),
        new("zero_", x => x[0].clone().zero_(), X),
    ];

    private static IEnumerable<GradientCase> Reductions() =>
    [
        new("amax", x => x[0].amax(1), X),
        new("amin", x => x[0].amin(1), X),
        new("cumprod", x => x[0].cumprod(1), X),
        new("cumsum", x => x[0].cumsum(1), X),
        new("log_softmax", x => x[0].log_softmax(1), X),
        new("logsumexp", x => x[0].logsumexp(1), X),
        new("max", x => x[0].max(), X),
        new("max", x => x[0].max(x[1]), X, X),
        new("max", x => Both2(x[0].max(1)), X),
        new("mean", x => x[0].mean(), X),
        new("mean", x => x[0].mean([1], keepdim: true), X),
        new("median", x => x[0].median(), X),
        new("min", x => x[0].min(), X),
        new("min", x => x[0].min(x[1]), X, X),
        new("min", x => Both2(x[0].min(1)), X),
        new("norm", x => x[0].norm(), X),
        new("norm", x => x[0].norm(1, keepdim: true, 3), X),
        new("prod", x => x[0].prod(), X),
        new("prod", x => x[0].prod(1), X),
        new("quantile", x => x[0].quantile(tensor(0.3), 1), X),
        new("softmax", x => x[0].softmax(1), X),
        new("sort", x => x[0].sort(1).Values, X),
        new("std", x => x[0].std(), X),
        new("std", x => x[0].std(1), X),
        new("std", x => x[0].std(Both, unbiased: false), X),
        new("sum", x => x[0].sum(), X),
        new("sum", x => x[0].sum(1), X),
        new("sum", x => x[0].sum(0, 1), X),
        new("sum", x => x[0].sum([1], keepdim: true), X),
        new("topk", x => Both2(x[0].topk(2)), X),
        new("trace", x => x[0].trace(), Square),
        new("var", x => x[0].var(), X),
        new("var", x => x[0].var(1), X),
        new("var", x => x[0].var(Both, unbiased: false), X),
    ];

    private static IEnumerable<GradientCase> Algebra() =>
    [
        new("addbmm", x => x[0].addbmm(x[1], x[2], 0.5f, 2), X, In(2, 2, 4), In(2, 4, 3)),
        new("addmm", x => x[0].addmm(x[1], x[2], 0.5f, 2), X, In(2, 4), In(4, 3)),
        new("baddbmm", x => x[0].baddbmm(x[1], x[2], 0.5f, 2), In(2, 2, 3), In(2, 2, 4), In(2, 4, 3)),
        new("bmm", x => x[0].bmm(x[1]), In(2, 2, 3), In(2, 3, 2)),
        new("dot", x => x[0].dot(x[1]), In(3), In(3)),
        new("inverse", x => (x[0] + (eye(3, dtype: float64) * 7)).inverse(), Square),
        new("matmul", x => x[0].matmul(x[1]), In(2, 2, 3), In(3, 2)),
        new("mm", x => x[0].mm(x[1]), X, In(3, 2)),
        new("mv", x => x[0].mv(x[1]), X, In(3)),
        new("outer", x => x[0].outer(x[1]), In(2), In(3)),
        new("einsum", x => einsum("ij,kj->ik", x[0], x[1]), X, X),
    ];

    private static IEnumerable<GradientCase> Shapes() =>
    [
        new("alias", x => x[0].alias(), X),
        new("as_strided", x => x[0].clone().as_strided([2, 2], [1, 2], 1), X),
        new("broadcast_to", x => x[0].broadcast_to(2, 2, 3), X),
        new("chunk", x => x[0].chunk(2, 1)[1], X),
        new("diag", x => x[0].diag(1), Square),
        new("diagonal", x => x[0].diagonal(1, 0, 1), Square),
        new("expand", x => x[0].expand(2, 2, 3), X),
        new("expand", x => x[0].expand([2, 2, 3], isImplicit: false), X),
        new("expand_as", x => x[0].expand_as(zeros(2, 2, 3)), X),
        new("flatten", x => x[0].flatten(), X),
        new("flip", x => x[0].flip(1), X),
        new("movedim", x => x[0].movedim([0], [1]), X),
        new("mT", x => x[0].mT * 2, X),
        new("narrow", x => x[0].narrow(1, 1, 2), X),
        new("permute", x => x[0].permute(1, 0), X),
        new("ravel", x => x[0].t().ravel(), X),
        new("repeat", x => x[0].repeat(2, 2), X),
        new("repeat_interleave", x => x[0].repeat_interleave(2, 1), X),
        new("repeat_interleave", x => x[0].repeat_interleave(L(1, 0, 2), 1), X),
        new("reshape", x => x[0].t().reshape(6), X),
        new("roll", x => x[0].roll(1, 1), X),
        new("roll", x => x[0].roll([1, 1], Both), X),
        new("roll", x => x[0].flatten().roll([2]), X),
        new("slice", x => x[0].slice(1, 0, 3, 2), X),
        new("split", x => x[0].split(2, 1)[1], X),
        new("split", x => x[0].split([1, 2], 1)[1], X),
        new("split", x => x[0].split(1L, 1L)[1], X),
        new("squeeze", x => x[0].squeeze(1), In(2, 1, 2)),
        new("squeeze", x => x[0].squeeze(), In(2, 1, 2)),
        new("swapaxes", x => x[0].swapaxes(0, 1), X),
        new("t", x => x[0].t(), X),
        new("T", x => x[0].T * 2, X),
        new("tile", x => x[0].tile([2, 2]), X),
        new("transpose", x => x[0].transpose(0, 1), X),
        new("tril", x => x[0].tril(1), Square),
        new("triu", x => x[0].triu(1), Square),
        new("unbind", x => x[0].unbind(1)[1], X),
        new("unflatten", x => x[0].unflatten(1, 3, 1), X),
        new("unfold", x => x[0].unfold(1, 2, 1), X),
        new("unsqueeze", x => x[0].unsqueeze(1), X),
        new("view", x => x[0].view(3, 2), X),
        new("view_as", x => x[0].view_as(zeros(3, 2)), X),
    ];

    private static IEnumerable<GradientCase> Selection() =>
    [
        new("gather", x => x[0].gather(1, L(2, 0, 0, 1).reshape(2, 2)), X),
        new("index", x => x[0].index(TensorIndex.Colon, TensorIndex.Tensor(L(2, 0))), X),
        new("index_add", x => x[0].index_add(1, L(2, 0), x[1], 0.5), X, In(2, 2)),
        new("index_copy", x => x[0].index_copy(1, L(2, 0), x[1]), X, In(2, 2)),
        new("index_put_", x => x[0].clone().index_put_(x[1], TensorIndex.Single(1), TensorIndex.Slice(1)), X, In(2)),
        new("index_select", x => x[0].index_select(1, L(2, 0)), X),
        new("TensorItems", x => x[0][1] * x[0][.., 1..].sum() + x[0][TensorIndex.Tensor(Mask())].sum() + x[0][TensorIndex.Ellipsis, 2].sum(), X),
        new("masked_select", x => x[0].masked_select(Mask()), X),
        new("scatter", x => x[0].scatter(1, L(2, 0).reshape(2, 1), x[1]), X, In(2, 1)),
        new("scatter_add", x => x[0].scatter_add(1, L(2, 0).reshape(2, 1), x[1]), X, In(2, 1)),
        new("select", x => x[0].select(1, 2), X),
        new("take", x => x[0].take(L(5, 0, 0)), X),
    ];

    private static IEnumerable<GradientCase> Layers() =>
    [
        new("linear", x => linear(x[0], x[1], x[2]), X, In(4, 3), In(4)),
        new("linear", x => linear(x[0], x[1]), X, In(4, 3)),
        new("conv1d", x => conv1d(x[0], x[1], x[2], stride: 2, padding: 1), In(1, 2, 4), In(2, 2, 3), In(2)),
        new("conv2d", x => conv2d(x[0], x[1], x[2], [2, 1], [1, 0], [1, 1]), In(1, 2, 3, 3), In(2, 2, 2, 2), In(2)),
        new("conv2d", x => conv2d(x[0], x[1], groups: 2), In(1, 2, 3, 3), In(2, 1, 2, 2)),
        new("conv3d", x => conv3d(x[0], x[1], x[2], [1, 2, 1], [1, 0, 0]), In(1, 1, 2, 3, 2), In(2, 1, 2, 2, 2), In(2)),
        new("conv_transpose2d", x => conv_transpose2d(x[0], x[1], x[2], [2, 2], output_padding: [1, 0]), In(1, 2, 2, 2), In(2, 1, 2, 2), In(1)),
        new("layer_norm", x => layer_norm(x[0], [3], x[1], x[2]), In(4, 3), In(3), In(3)),
        new("layer_norm", x => layer_norm(x[0], [3], eps: 1e-2), X),
        new("group_norm", x => group_norm(x[0], 2, x[1], x[2]), In(2, 4, 2), In(4), In(4)),
        new("normalize", x => normalize(x[0]), X),
        new("cosine_similarity", x => cosine_similarity(x[0], x[1]), X, X),
        new("relu", x => relu(x[0]), X),
        new("relu", x => relu(x[0].clone(), inplace: true), X),
        new("silu", x => silu(x[0]), X),
        new("silu", x => silu(x[0].clone(), inplace: true), X),
        new("tanh", x => nn.functional.tanh(x[0]), X),
        new("sigmoid", x => nn.functional.sigmoid(x[0]), X),
        new("mish", x => mish(x[0]), X),
        new("leaky_relu", x => leaky_relu(x[0], 0.2), X),
        new("gelu", x => gelu(x[0]), X),
        new("gelu", x => gelu(x[0], Approximate.tanh), X),
        new("gelu", x => gelu(x[0].clone(), Approximate.tanh, inplace: true), X),
        new("softplus", x => nn.functional.softplus(x[0]), X),
        new("logsigmoid", x => logsigmoid(x[0]), X),
        new("glu", x => glu(x[0], 0), X),
        new("softmax", x => nn.functional.softmax(x[0], 1), X),
        new("log_softmax", x => nn.functional.log_softmax(x[0], 1), X),
        new("dropout", x => Seeded(() => dropout(x[0], 0.4)), X),
        new("dropout", x => Seeded(() => dropout(x[0].clone(), 0.4, inplace: true)), X),
        new("scaled_dot_product_attention", x => scaled_dot_product_attention(x[0], x[1], x[2]), In(2, 2, 3), In(2, 4, 3), In(2, 4, 2)),
        new("scaled_dot_product_attention", x => scaled_dot_product_attention(x[0], x[1], x[2], x[3]), In(1, 2, 3), In(1, 3, 3), In(1, 3, 2), In(2, 3)),
        new("scaled_dot_product_attention", x => scaled_dot_product_attention(x[0], x[1], x[2], Mask()), In(1, 2, 3), In(1, 3, 3), In(1, 3, 2)),
        new("scaled_dot_product_attention", x => scaled_dot_product_attention(x[0], x[1], x[2], is_casual: true), In(1, 3, 2), In(1, 3, 2), In(1, 3, 2)),
        new("scaled_dot_product_attention", x => Seeded(() => scaled_dot_product_attention(x[0], x[1], x[2], p: 0.3)), In(1, 3, 2), In(1, 3, 2), In(1, 3, 2)),
    ];

    private static IEnumerable<GradientCase> Pictures() =>
    [
        new("pad", x => pad(x[0], [1, 2, 0, 1], PaddingModes.Constant, 3), In(1, 1, 2, 3)),
        new("pad", x => pad(x[0], 1L, PaddingModes.Zeros), In(1, 2, 3)),
        new("pad", x => pad(x[0], (1, 2), PaddingModes.Reflect), In(1, 1, 3)),
        new("pad", x => pad(x[0], (1, 1, 1, 0), PaddingModes.Replicate), In(1, 1, 2, 3)),
        new("pad", x => pad(x[0], (ReadOnlySpan<long>)[1, 1], PaddingModes.Circular), In(1, 1, 3)),
        new("avg_pool2d", x => avg_pool2d(x[0], 2), In(1, 1, 4, 4)),
        new("avg_pool2d", x => avg_pool2d(x[0], (2, 1), (1, 1), (1, 0), count_include_pad: false), In(1, 1, 3, 3)),
        new("avg_pool2d", x => avg_pool2d(x[0], [2, 2], divisor_override: 3), In(1, 1, 4, 4)),
        new("max_pool2d", x => max_pool2d(x[0], 2, 1), In(1, 1, 3, 3)),
        new("max_pool2d", x => max_pool2d(x[0], [2, 1], [1, 1], [1, 0]), In(1, 1, 3, 3)),
        new("adaptive_avg_pool2d", x => adaptive_avg_pool2d(x[0], 2), In(1, 1, 3, 5)),
        new("adaptive_avg_pool2d", x => adaptive_avg_pool2d(x[0], (2, 3)), In(1, 1, 3, 5)),
        new("adaptive_avg_pool2d", x => adaptive_avg_pool2d(x[0], [1, 1]), In(1, 1, 3, 3)),
        new("pixel_shuffle", x => pixel_shuffle(x[0], 2), In(1, 4, 1, 2)),
        new("pixel_unshuffle", x => pixel_unshuffle(x[0], 2), In(1, 1, 2, 4)),
        new("eigh", x => linalg.eigh(x[0] + x[0].transpose(0, 1)).Item1, In(3, 3)),
        new("affine_grid", x => affine_grid(x[0], [1, 2, 3, 3]), In(1, 2, 3)),
        new("grid_sample", x => grid_sample(x[0], affine_grid(x[1], [1, 2, 3, 3])), In(1, 2, 3, 3), In(1, 2, 3)),
        new("interpolate", x => interpolate(x[0], [3]), In(1, 1, 2)),
        new("interpolate", x => interpolate(x[0], scale_factor: [2]), In(1, 1, 2, 2)),
        new("interpolate", x => interpolate(x[0], scale_factor: [2, 1, 1.5]), In(1, 1, 2, 1, 2)),
        new("interpolate", x => interpolate(x[0], [3], mode: InterpolationMode.NearestExact), In(1, 1, 2, 2)),
        new("interpolate", x => interpolate(x[0], [3], mode: InterpolationMode.Linear, align_corners: true), In(1, 1, 2)),
        new("interpolate", x => interpolate(x[0], [3, 4], mode: InterpolationMode.Bilinear), In(1, 1, 2, 2)),
        new("interpolate", x => interpolate(x[0], scale_factor: [1.6], mode: InterpolationMode.Bilinear, recompute_scale_factor: true), In(1, 1, 2, 2)),
        new("interpolate", x => interpolate(x[0], [2, 2], mode: InterpolationMode.Bilinear, antialias: true), In(1, 1, 4, 4)),
        new("interpolate", x => interpolate(x[0], [3, 4], mode: InterpolationMode.Bicubic), In(1, 1, 2, 2)),
        new("interpolate", x => interpolate(x[0], [3], mode: InterpolationMode.Trilinear), In(1, 1, 2, 2, 2)),
        new("interpolate", x => interpolate(x[0], [2, 1], mode: InterpolationMode.Area), In(1, 1, 4, 3)),
        new("upsample_nearest2d", x => upsample_nearest2d(x[0], scaleFactors: [2, 2]), In(1, 1, 2, 2)),
    ];

    private static IEnumerable<GradientCase> Losses() =>
    [
        .. Each("mse_loss", r => x => mse_loss(x[0], x[1], r), X, X),
        .. Each("l1_loss", r => x => l1_loss(x[0], x[1], r), X, X),
        .. Each("smooth_l1_loss", r => x => smooth_l1_loss(x[0], x[1], r, 0.7), X, X),
        .. Each("huber_loss", r => x => huber_loss(x[0], x[1], 0.7, r), X, X),
        .. Each("cross_entropy", r => x => cross_entropy(x[0], L(2, 0), reduction: r, label_smoothing: 0.1), X),
        new("cross_entropy", x => cross_entropy(x[0], L(2, 0), x[1].detach(), ignore_index: 0) + x[1].sum(), X, Between(0.5, 1, 3)),
        .. Each("nll_loss", r => x => nll_loss(x[0], L(2, 0), null, r), X),
        .. Each("kl_div", r => x => kl_div(x[0], x[1], log_target: true, r), X, X),
        .. Each("binary_cross_entropy", r => x => binary_cross_entropy(x[0], tensor(new double[] { 0, 1, 1, 0, 1, 0 }).reshape(2, 3), null, r), Between(0.1, 0.9, 2, 3)),
        .. Each("binary_cross_entropy_with_logits", r => x => binary_cross_entropy_with_logits(x[0], Mask().to(float64), null, r), X),
    ];

    private static IEnumerable<GradientCase> Joins() =>
    [
        new("cat", x => cat([x[0], x[1]], 1), X, In(2, 1)),
        new("concat", x => concat([x[0], x[1]], 1), X, In(2, 1)),
        new("stack", x => stack([x[0], x[1]], 1), X, X),
        new("where", x => torch.where(Mask(), x[0], x[1]), X, X),
        new("meshgrid", x => meshgrid([x[0], x[1]])[1], In(2), In(3)),
    ];

    private static IEnumerable<GradientCase> Each(string name, Func<nn.Reduction, Func<Tensor[], Tensor>> call, params GradientInput[] inputs) =>
        Enum.GetValues<nn.Reduction>().Select(reduction => new GradientCase(name, call(reduction), inputs));

    private static Tensor Seeded(Func<Tensor> call)
    {
        manual_seed(5);
        return call();
    }
}
