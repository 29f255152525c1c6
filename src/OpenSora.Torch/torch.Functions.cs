using OpenSora.Torch;

namespace TorchSharp;

public static partial class torch
{
    public static Tensor abs(Tensor input) => Aten.Call("abs", input);

    public static Tensor abs_(Tensor input) => Aten.InPlace("abs_", input);

    public static Tensor acos(Tensor input) => Aten.Call("acos", input);

    public static Tensor add(Tensor left, Scalar right) => Aten.Call("add.Scalar", left, right);

    public static Tensor add(Tensor left, Scalar right, Scalar alpha) => Aten.Call("add.Scalar", left, right, alpha);

    public static Tensor add(Tensor left, Tensor right) => Aten.Call("add.Tensor", left, right);

    public static Tensor add(Tensor left, Tensor right, Scalar alpha) => Aten.Call("add.Tensor", left, right, alpha);

    public static Tensor add_(Tensor left, Scalar right) => Aten.InPlace("add_.Scalar", left, right);

    public static Tensor add_(Tensor left, Scalar right, Scalar alpha) => Aten.InPlace("add_.Scalar", left, right, alpha);

    public static Tensor add_(Tensor left, Tensor right) => Aten.InPlace("add_.Tensor", left, right);

    public static Tensor add_(Tensor left, Tensor right, Scalar alpha) => Aten.InPlace("add_.Tensor", left, right, alpha);

    public static Tensor addbmm(Tensor input, Tensor batch1, Tensor batch2, float beta = 1, float alpha = 1) => Aten.Call("addbmm", input, batch1, batch2, beta, alpha);

    public static Tensor addcdiv(Tensor input, Tensor tensor1, Tensor tensor2, Scalar value) => Aten.Call("addcdiv", input, tensor1, tensor2, value);

    public static Tensor addcdiv_(Tensor input, Tensor tensor1, Tensor tensor2, Scalar value) => Aten.InPlace("addcdiv_", input, tensor1, tensor2, value);

    public static Tensor addcmul(Tensor input, Tensor tensor1, Tensor tensor2, Scalar value) => Aten.Call("addcmul", input, tensor1, tensor2, value);

    public static Tensor addcmul_(Tensor input, Tensor tensor1, Tensor tensor2, Scalar value) => Aten.InPlace("addcmul_", input, tensor1, tensor2, value);

    public static Tensor addmm(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => Aten.Call("addmm", input, mat1, mat2, beta, alpha);

    public static Tensor addmm_(Tensor input, Tensor mat1, Tensor mat2, float beta, float alpha) => Aten.InPlace("addmm_", input, mat1, mat2, beta, alpha);

    public static Tensor all(Tensor input) => Aten.Call("all", input);

    public static Tensor all(Tensor input, long dim, bool keepdim = false) => Aten.Call("all.dim", input, dim, keepdim);

    public static Tensor amax(Tensor input, long[] dims) => Aten.Call("amax", input, dims);

    public static Tensor any(Tensor input) => Aten.Call("any", input);

    public static Tensor any(Tensor input, long dim, bool keepdim = false) => Aten.Call("any.dim", input, dim, keepdim);

    public static Tensor argmax(Tensor input) => Aten.Call("argmax", input);

    public static Tensor argmax(Tensor input, long dim, bool keepdim = false) => Aten.Call("argmax", input, dim, keepdim);

    public static Tensor argmin(Tensor input) => Aten.Call("argmin", input);

    public static Tensor argmin(Tensor input, long dim, bool keepdim = false) => Aten.Call("argmin", input, dim, keepdim);

    public static Tensor argsort(Tensor input, long dim = -1, bool descending = false) => Aten.Call("argsort", input, dim, descending);

    public static Tensor asin(Tensor input) => Aten.Call("asin", input);

    public static Tensor atan(Tensor input) => Aten.Call("atan", input);

    public static Tensor atan2(Tensor input, Tensor other) => Aten.Call("atan2", input, other);

    public static Tensor baddbmm(Tensor input, Tensor batch1, Tensor batch2, float beta = 1, float alpha = 1) => Aten.Call("baddbmm", input, batch1, batch2, beta, alpha);

    public static Tensor bernoulli(Tensor input, Generator? generator = null) => Aten.Call("bernoulli", input, generator);

    public static Tensor bincount(Tensor input, Tensor? weights = null, long minlength = 0) => Aten.Call("bincount", input, weights, minlength);

    public static Tensor bitwise_and(Tensor left, Tensor right) => Aten.Call("bitwise_and.Tensor", left, right);

    public static Tensor bitwise_not(Tensor input) => Aten.Call("bitwise_not", input);

    public static Tensor bitwise_or(Tensor left, Tensor right) => Aten.Call("bitwise_or.Tensor", left, right);

    public static Tensor bitwise_xor(Tensor left, Tensor right) => Aten.Call("bitwise_xor.Tensor", left, right);

    public static Tensor bmm(Tensor input, Tensor batch2) => Aten.Call("bmm", input, batch2);

    public static Tensor broadcast_to(Tensor input, params long[] shape) => Aten.Call("broadcast_to", input, shape);

    public static Tensor ceil(Tensor input) => Aten.Call("ceil", input);

    public static Tensor[] chunk(Tensor input, long chunks, long dim = 0) => Aten.CallList("chunk", input, chunks, dim);

    public static Tensor clamp(Tensor input, Scalar? min = null, Scalar? max = null) => Aten.Call("clamp", input, min, max);

    public static Tensor clamp(Tensor input, Tensor? min = null, Tensor? max = null) => Aten.Call("clamp.Tensor", input, min, max);

    public static Tensor clamp_(Tensor input, Scalar? min = null, Scalar? max = null) => Aten.InPlace("clamp_", input, min, max);

    public static Tensor clamp_(Tensor input, Tensor? min = null, Tensor? max = null) => Aten.InPlace("clamp_.Tensor", input, min, max);

    public static Tensor clamp_max(Tensor input, Scalar max) => Aten.Call("clamp_max", input, max);

    public static Tensor clamp_min(Tensor input, Scalar min) => Aten.Call("clamp_min", input, min);

    public static Tensor clip(Tensor input, Scalar? min = null, Scalar? max = null) => Aten.Call("clip", input, min, max);

    public static Tensor clone(Tensor input) => Aten.Call("clone", input);

    public static Tensor cos(Tensor input) => Aten.Call("cos", input);

    public static Tensor cos_(Tensor input) => Aten.InPlace("cos_", input);

    public static Tensor cosh(Tensor input) => Aten.Call("cosh", input);

    public static Tensor count_nonzero(Tensor input, long[]? dims = null) => input.count_nonzero(dims);

    public static Tensor cumprod(Tensor input, long dim, ScalarType? dtype = null) => Aten.Call("cumprod", input, dim, dtype);

    public static Tensor cumsum(Tensor input, long dim, ScalarType? type = null) => Aten.Call("cumsum", input, dim, type);

    public static Tensor diag(Tensor input, long diagonal = 0) => Aten.Call("diag", input, diagonal);

    public static Tensor diagonal(Tensor input, long offset = 0, long dim1 = 0, long dim2 = 1) => Aten.Call("diagonal", input, offset, dim1, dim2);

    public static Tensor dot(Tensor input, Tensor other) => Aten.Call("dot", input, other);

    public static Tensor eq(Tensor left, Tensor right) => Aten.Call("eq.Tensor", left, right);

    public static Tensor erf(Tensor input) => Aten.Call("erf", input);

    public static Tensor erfinv(Tensor input) => Aten.Call("erfinv", input);

    public static Tensor exp(Tensor input) => Aten.Call("exp", input);

    public static Tensor exp2(Tensor input) => Aten.Call("exp2", input);

    public static Tensor exp_(Tensor input) => Aten.InPlace("exp_", input);

    public static Tensor expm1(Tensor input) => Aten.Call("expm1", input);

    public static Tensor flip(Tensor input, params long[] dims) => Aten.Call("flip", input, dims);

    public static Tensor floor(Tensor input) => Aten.Call("floor", input);

    public static Tensor floor_(Tensor input) => Aten.InPlace("floor_", input);

    public static Tensor floor_divide(Tensor input, Tensor other) => Aten.Call("floor_divide", input, other);

    public static Tensor fmax(Tensor input, Tensor other) => Aten.Call("fmax", input, other);

    public static Tensor fmin(Tensor input, Tensor other) => Aten.Call("fmin", input, other);

    public static Tensor frac(Tensor input) => Aten.Call("frac", input);

    public static Tensor gather(Tensor input, long dim, Tensor index) => Aten.Call("gather", input, dim, index);

    public static Tensor gather(Tensor input, long dim, Tensor index, bool sparse_grad = false) => Aten.Call("gather", input, dim, index, sparse_grad);

    public static Tensor ge(Tensor left, Tensor right) => Aten.Call("ge.Tensor", left, right);

    public static Tensor gt(Tensor left, Tensor right) => Aten.Call("gt.Tensor", left, right);

    public static Tensor index_add(Tensor input, long dim, Tensor index, Tensor source, Scalar alpha) => Aten.Call("index_add", input, dim, index, source, alpha);

    public static Tensor index_add_(Tensor input, long dim, Tensor index, Tensor source, Scalar alpha) => Aten.InPlace("index_add_", input, dim, index, source, alpha);

    public static Tensor index_copy(Tensor input, long dim, Tensor index, Tensor source) => Aten.Call("index_copy", input, dim, index, source);

    public static Tensor index_fill_(Tensor input, long dim, Tensor index, Scalar value) => Aten.InPlace("index_fill_.int_Scalar", input, dim, index, value);

    public static Tensor index_select(Tensor input, long dim, Tensor index) => Aten.Call("index_select", input, dim, index);

    public static Tensor inverse(Tensor input) => Aten.Call("inverse", input);

    public static Tensor isclose(Tensor tensor, Tensor other, double rtol = 1E-05, double atol = 1E-08, bool nanEqual = false) => Aten.Call("isclose", tensor, other, rtol, atol, nanEqual);

    public static Tensor isfinite(Tensor tensor) => Aten.Call("isfinite", tensor);

    public static Tensor isinf(Tensor tensor) => Aten.Call("isinf", tensor);

    public static Tensor isnan(Tensor input) => Aten.Call("isnan", input);

    public static Tensor le(Tensor left, Tensor right) => Aten.Call("le.Tensor", left, right);

    public static Tensor lerp(Tensor input, Tensor end, Tensor weight) => Aten.Call("lerp.Tensor", input, end, weight);

    public static Tensor log(Tensor input) => Aten.Call("log", input);

    public static Tensor log10(Tensor input) => Aten.Call("log10", input);

    public static Tensor log1p(Tensor input) => Aten.Call("log1p", input);

    public static Tensor log2(Tensor input) => Aten.Call("log2", input);

    public static Tensor log_(Tensor input) => Aten.InPlace("log_", input);

    public static Tensor logical_and(Tensor left, Tensor right) => Aten.Call("logical_and", left, right);

    public static Tensor logical_not(Tensor input) => Aten.Call("logical_not", input);

    public static Tensor logical_or(Tensor left, Tensor right) => Aten.Call("logical_or", left, right);

    public static Tensor logical_xor(Tensor left, Tensor right) => Aten.Call("logical_xor", left, right);

    public static Tensor lt(Tensor left, Tensor right) => Aten.Call("lt.Tensor", left, right);

    public static Tensor masked_select(Tensor input, Tensor mask) => Aten.Call("masked_select", input, mask);

    public static Tensor matmul(Tensor input, Tensor target) => Aten.Call("matmul", input, target);

    public static Tensor max(Tensor input) => Aten.Call("max", input);

    public static Tensor max(Tensor input, Tensor other) => Aten.Call("max.other", input, other);

    public static (Tensor, Tensor) max(Tensor input, long dim, bool keepdim = false) => Aten.Call2("max.dim", input, dim, keepdim);

    public static Tensor maximum(Tensor input, Tensor other) => Aten.Call("maximum", input, other);

    public static Tensor mean(Tensor input) => Aten.Call("mean", input);

    public static Tensor mean(Tensor input, long[] dimensions, bool keepdim = false, ScalarType? type = null) => Aten.Call("mean.dim", input, dimensions, keepdim, type);

    public static Tensor median(Tensor input) => Aten.Call("median", input);

    public static Tensor min(Tensor input) => Aten.Call("min", input);

    public static Tensor min(Tensor input, Tensor other) => Aten.Call("min.other", input, other);

    public static (Tensor, Tensor) min(Tensor input, long dim, bool keepdim = false) => Aten.Call2("min.dim", input, dim, keepdim);

    public static Tensor minimum(Tensor input, Tensor other) => Aten.Call("minimum", input, other);

    public static Tensor mm(Tensor input, Tensor target) => Aten.Call("mm", input, target);

    public static Tensor movedim(Tensor input, long source, long destination) => Aten.Call("movedim.int", input, source, destination);

    public static Tensor movedim(Tensor input, long[] source, long[] destination) => Aten.Call("movedim.intlist", input, source, destination);

    public static Tensor mul(Tensor left, Scalar right) => Aten.Call("mul.Scalar", left, right);

    public static Tensor mul(Tensor left, Tensor right) => Aten.Call("mul.Tensor", left, right);

    public static Tensor mul_(Tensor left, Scalar right) => Aten.InPlace("mul_.Scalar", left, right);

    public static Tensor mul_(Tensor left, Tensor right) => Aten.InPlace("mul_.Tensor", left, right);

    public static Tensor multinomial(Tensor input, long num_samples, bool replacement = false, Generator? generator = null) => Aten.Call("multinomial", input, num_samples, replacement, generator);

    public static Tensor mv(Tensor input, Tensor target) => Aten.Call("mv", input, target);

    public static Tensor nan_to_num(Tensor input, double nan = 0, double? posinf = null, double? neginf = null) => Aten.Call("nan_to_num", input, nan, posinf, neginf);

    public static Tensor narrow(Tensor input, long dim, long start, long length) => Aten.Call("narrow", input, dim, start, length);

    public static Tensor ne(Tensor left, Tensor right) => Aten.Call("ne.Tensor", left, right);

    public static Tensor neg(Tensor input) => Aten.Call("neg", input);

    public static Tensor neg_(Tensor input) => Aten.InPlace("neg_", input);

    public static Tensor nonzero(Tensor input) => Aten.Call("nonzero", input);

    public static Tensor norm(Tensor input) => Aten.Call("norm.Scalar", input);

    public static Tensor norm(Tensor input, float p = 2) => Aten.Call("norm.Scalar", input, p);

    public static Tensor outer(Tensor input, Tensor vec2) => Aten.Call("outer", input, vec2);

    public static Tensor permute(Tensor input, params long[] permutation) => Aten.Call("permute", input, permutation);

    public static Tensor pow(Tensor left, Scalar exponent) => Aten.Call("pow.Tensor_Scalar", left, exponent);

    public static Tensor pow(Tensor left, Tensor exponent) => Aten.Call("pow.Tensor_Tensor", left, exponent);

    public static Tensor pow_(Tensor left, Scalar exponent) => Aten.InPlace("pow_.Scalar", left, exponent);

    public static Tensor pow_(Tensor left, Tensor exponent) => Aten.InPlace("pow_.Tensor", left, exponent);

    public static Tensor prod(Tensor input, ScalarType? type = null) => Aten.Call("prod", input, type);

    public static Tensor prod(Tensor input, long dim, bool keepdim = false, ScalarType? type = null) => Aten.Call("prod.dim_int", input, dim, keepdim, type);

    public static Tensor quantile(Tensor input, Tensor q, long dim = -1, bool keepdim = false) => Aten.Call("quantile", input, q, dim, keepdim);

    public static Tensor ravel(Tensor input) => Aten.Call("ravel", input);

    public static Tensor reciprocal(Tensor input) => Aten.Call("reciprocal", input);

    public static Tensor remainder(Tensor left, Scalar right) => Aten.Call("remainder.Scalar", left, right);

    public static Tensor remainder(Tensor left, Tensor right) => Aten.Call("remainder.Tensor", left, right);

    public static Tensor repeat_interleave(Tensor input, Tensor repeats, long? dim = null, long? output_size = null) => Aten.Call("repeat_interleave.self_Tensor", input, repeats, dim, output_size);

    public static Tensor repeat_interleave(Tensor input, long repeats, long? dim = null, long? output_size = null) => Aten.Call("repeat_interleave.self_int", input, repeats, dim, output_size);

    public static Tensor reshape(Tensor input, params long[] shape) => Aten.Call("reshape", input, shape);

    public static Tensor roll(Tensor input, long[] shifts) => Aten.Call("roll", input, shifts);

    public static Tensor roll(Tensor input, long[] shifts, long[] dims) => Aten.Call("roll", input, shifts, dims);

    public static Tensor round(Tensor input, long decimals = 0) => Aten.Call("round.decimals", input, decimals);

    public static Tensor round_(Tensor input, long decimals = 0) => Aten.InPlace("round_.decimals", input, decimals);

    public static Tensor rsqrt(Tensor input) => Aten.Call("rsqrt", input);

    public static Tensor rsqrt_(Tensor input) => Aten.InPlace("rsqrt_", input);

    public static Tensor scatter(Tensor input, long dim, Tensor index, Tensor src) => Aten.Call("scatter.src", input, dim, index, src);

    public static Tensor scatter_(Tensor input, long dim, Tensor index, Tensor src) => Aten.InPlace("scatter_.src", input, dim, index, src);

    public static Tensor scatter_add(Tensor input, long dim, Tensor index, Tensor src) => Aten.Call("scatter_add", input, dim, index, src);

    public static Tensor scatter_add_(Tensor input, long dim, Tensor index, Tensor src) => Aten.InPlace("scatter_add_", input, dim, index, src);

    public static Tensor select(Tensor input, long dim, long index) => Aten.Call("select.int", input, dim, index);

    public static Tensor sigmoid(Tensor input) => Aten.Call("sigmoid", input);

    public static Tensor sigmoid_(Tensor input) => Aten.InPlace("sigmoid_", input);

    public static Tensor sign(Tensor input) => Aten.Call("sign", input);

    public static Tensor sin(Tensor input) => Aten.Call("sin", input);

    public static Tensor sinc(Tensor input) => Aten.Call("sinc", input);

    public static Tensor sinh(Tensor input) => Aten.Call("sinh", input);

    public static Tensor softmax(Tensor input, int dim, ScalarType? dtype = null) => Aten.Call("softmax.int", input, dim, dtype);

    public static Tensor[] split(Tensor tensor, long[] split_size_or_sections, long dim = 0) => Aten.CallList("split.sizes", tensor, split_size_or_sections, dim);

    public static Tensor sqrt(Tensor input) => Aten.Call("sqrt", input);

    public static Tensor sqrt_(Tensor input) => Aten.InPlace("sqrt_", input);

    public static Tensor square(Tensor input) => Aten.Call("square", input);

    public static Tensor squeeze(Tensor input, long? dim = null) => input.squeeze(dim);

    public static Tensor squeeze_(Tensor input, long? dim = null) => input.squeeze_(dim);

    public static Tensor std(Tensor input, bool unbiased = true) => Aten.Call("std", input, unbiased);

    public static Tensor sub(Tensor left, Scalar right) => Aten.Call("sub.Scalar", left, right);

    public static Tensor sub(Tensor left, Tensor right) => Aten.Call("sub.Tensor", left, right);

    public static Tensor sub_(Tensor left, Scalar right) => Aten.InPlace("sub_.Scalar", left, right);

    public static Tensor sub_(Tensor left, Tensor right) => Aten.InPlace("sub_.Tensor", left, right);

    public static Tensor sum(Tensor input, ScalarType? type = null) => Aten.Call("sum", input, type);

    public static Tensor swapaxes(Tensor input, long axis0, long axis1) => Aten.Call("swapaxes", input, axis0, axis1);

    public static Tensor t(Tensor input) => Aten.Call("t", input);

    public static Tensor take(Tensor input, Tensor index) => Aten.Call("take", input, index);

    public static Tensor tan(Tensor input) => Aten.Call("tan", input);

    public static Tensor tanh(Tensor input) => Aten.Call("tanh", input);

    public static Tensor tanh_(Tensor input) => Aten.InPlace("tanh_", input);

    public static Tensor tile(Tensor input, long[] dims) => Aten.Call("tile", input, dims);

    public static (Tensor, Tensor) topk(Tensor tensor, int k, int dim = -1, bool largest = true, bool sorted = true) => Aten.Call2("topk", tensor, k, dim, largest, sorted);

    public static Tensor trace(Tensor input) => Aten.Call("trace", input);

    public static Tensor transpose(Tensor input, long dim0, long dim1) => Aten.Call("transpose.int", input, dim0, dim1);

    public static Tensor tril(Tensor input, long diagonal = 0) => Aten.Call("tril", input, diagonal);

    public static Tensor tril_(Tensor input, long diagonal = 0) => Aten.InPlace("tril_", input, diagonal);

    public static Tensor triu(Tensor input, long diagonal = 0) => Aten.Call("triu", input, diagonal);

    public static Tensor triu_(Tensor input, long diagonal = 0) => Aten.InPlace("triu_", input, diagonal);

    public static Tensor trunc(Tensor input) => Aten.Call("trunc", input);

    public static Tensor[] unbind(Tensor input, long dim = 0) => Aten.CallList("unbind.int", input, dim);

    public static Tensor[] unbind(Tensor tensor, int dim = 0) => Aten.CallList("unbind.int", tensor, dim);

    public static Tensor unflatten(Tensor input, long dim, params long[] sizes) => Aten.Call("unflatten.int", input, dim, sizes);

    public static Tensor unsqueeze(Tensor input, long dim) => Aten.Call("unsqueeze", input, dim);

    public static Tensor unsqueeze_(Tensor input, long dim) => Aten.InPlace("unsqueeze_", input, dim);

    public static Tensor var(Tensor input, bool unbiased = true) => Aten.Call("var", input, unbiased);

    public static Tensor xlogy(Tensor x, Scalar y) => Aten.Call("xlogy.Scalar_Other", x, y);

    public static Tensor xlogy(Tensor x, Tensor y) => Aten.Call("xlogy.Tensor", x, y);
}
