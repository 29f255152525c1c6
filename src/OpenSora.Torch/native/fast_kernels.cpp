// bfloat16 CPU kernels for processors with AVX-512 that take the place of ATen's for GELU (tanh), SiLU, LayerNorm without affine, and GroupNorm
// of channels-last images. ATen builds without AVX-512, such as Debian's, spend more time in the first three than in half of a transformer's
// matrix products; ATen 1.13's GroupNorm of channels-last images sums in bfloat16, which is 40 % off at 64x64 pixels.
// Everything else (other types, other layouts, other processors) goes on to ATen. OPENSORA_FAST_KERNELS=0 turns them off;
// group norm of channels-last images then works in float32, since libtorch 1.13's own is wrong there.

#include <cstdlib>
#include <immintrin.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/group_norm_native.h>
#include <ATen/ops/native_group_norm_native.h>
#include <ATen/ops/native_layer_norm_native.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#if defined(__x86_64__)
namespace {

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define AVX512_INLINE AVX512 __attribute__((always_inline)) inline

using bits = uint16_t;
constexpr int64_t Lanes = 16, Grain = 1 << 14;

AVX512_INLINE __m512 load(const bits* p, __mmask16 m) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

// Rounds to nearest even; a NaN stays one.
AVX512_INLINE void store(bits* p, __m512 v, __mmask16 m) {
    __m512i i = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(i, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(i, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(r));
}

// 1 / (1 + exp(-x)), about 1e-6.
AVX512_INLINE __m512 sigmoid(__m512 x) {
    __m512 y = _mm512_mul_ps(_mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(87)), _mm512_set1_ps(-87)), _mm512_set1_ps(-1.44269504f));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
    __m512 n = _mm512_roundscale_ps(y, 0), f = _mm512_sub_ps(y, n);
    __m512 p = _mm512_set1_ps(1.33335581e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_div_ps(_mm512_set1_ps(1), _mm512_add_ps(_mm512_set1_ps(1), _mm512_scalef_ps(p, n)));
}

struct Silu {
    AVX512_INLINE static __m512 value(__m512 x) { return _mm512_mul_ps(x, sigmoid(x)); }
    AVX512_INLINE static __m512 slope(__m512 x) {
        __m512 s = sigmoid(x), one = _mm512_set1_ps(1);
        return _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));
    }
};

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
struct Gelu {
    AVX512_INLINE static __m512 twice_u(__m512 x, float linear, float cubic) {
        return _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(cubic), _mm512_set1_ps(linear));
    }
    AVX512_INLINE static __m512 value(__m512 x) {
        return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, twice_u(x, 1.59576912f, 0.0713548163f))));
    }
    AVX512_INLINE static __m512 slope(__m512 x) {
        __m512 s = sigmoid(_mm512_mul_ps(x, twice_u(x, 1.59576912f, 0.0713548163f)));
        __m512 d = _mm512_mul_ps(_mm512_mul_ps(x, twice_u(x, 1.59576912f, 0.214064449f)), _mm512_sub_ps(_mm512_set1_ps(1), s));
        return _mm512_mul_ps(s, _mm512_add_ps(_mm512_set1_ps(1), d));
    }
};

AVX512_INLINE __mmask16 lanes(int64_t left) { return left >= Lanes ? 0xffff : (__mmask16)((1u << left) - 1); }

template <class F> AVX512 void forward_range(const bits* x, bits* y, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += Lanes) { __mmask16 m = lanes(to - i); store(y + i, F::value(load(x + i, m)), m); }
}

template <class F> AVX512 void backward_range(const bits* g, const bits* x, bits* y, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += Lanes) {
        __mmask16 m = lanes(to - i);
        store(y + i, _mm512_mul_ps(load(g + i, m), F::slope(load(x + i, m))), m);
    }
}

AVX512_INLINE float total(__m512 v) { return _mm512_reduce_add_ps(v); }

AVX512 void layer_norm_rows(const bits* x, bits* y, bits* mean, bits* rstd, int64_t width, double eps, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
        const bits* in = x + row * width;
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (int64_t i = 0; i < width; i += Lanes) sum = _mm512_add_ps(sum, load(in + i, lanes(width - i)));
        __m512 mu = _mm512_set1_ps(total(sum) / width);
        for (int64_t i = 0; i < width; i += Lanes) {
            __mmask16 m = lanes(width - i);
            __m512 d = _mm512_maskz_sub_ps(m, load(in + i, m), mu);
            square = _mm512_fmadd_ps(d, d, square);
        }
        __m512 scale = _mm512_set1_ps(1 / std::sqrt(total(square) / width + (float)eps));
        for (int64_t i = 0; i < width; i += Lanes) {
            __mmask16 m = lanes(width - i);
            store(y + row * width + i, _mm512_mul_ps(_mm512_sub_ps(load(in + i, m), mu), scale), m);
        }
        store(mean + row, mu, 1);
        store(rstd + row, scale, 1);
    }
}

// Over the pixels of one image, channels innermost: sum of a and sum of a * b, for each channel.
AVX512 void channel_sums(const bits* a, const bits* b, int64_t pixels, int64_t channels, float* sum, float* product) {
    for (int64_t c = 0; c < channels; c += Lanes) {
        __mmask16 m = lanes(channels - c);
        __m512 s = _mm512_setzero_ps(), p = s;
        for (int64_t i = 0; i < pixels; i++) {
            __m512 x = load(a + i * channels + c, m);
            s = _mm512_add_ps(s, x);
            p = _mm512_fmadd_ps(x, load(b + i * channels + c, m), p);
        }
        _mm512_mask_storeu_ps(sum + c, m, s);
        _mm512_mask_storeu_ps(product + c, m, p);
    }
}

// y = a * u + b * v + w with u, v, w given for each channel; b may be left out.
AVX512 void channel_affine(const bits* a, const float* u, const bits* b, const float* v, const float* w, bits* y, int64_t pixels, int64_t channels) {
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < channels; c += Lanes) {
            __mmask16 m = lanes(channels - c);
            __m512 r = _mm512_fmadd_ps(load(a + i * channels + c, m), _mm512_maskz_loadu_ps(m, u + c), _mm512_maskz_loadu_ps(m, w + c));
            if (b) r = _mm512_fmadd_ps(load(b + i * channels + c, m), _mm512_maskz_loadu_ps(m, v + c), r);
            store(y + i * channels + c, r, m);
        }
}

bits* data(const at::Tensor& t) { return (bits*)t.data_ptr(); }
bool ours(const at::Tensor& t) { return t.scalar_type() == at::kBFloat16 && t.is_non_overlapping_and_dense(); }

template <class F> at::Tensor forward(const at::Tensor& x) {
    auto y = at::empty_strided(x.sizes(), x.strides(), x.options());
    at::parallel_for(0, x.numel(), Grain, [&](int64_t from, int64_t to) { forward_range<F>(data(x), data(y), from, to); });
    return y;
}

template <class F> at::Tensor backward(const at::Tensor& grad, const at::Tensor& x) {
    auto y = at::empty_strided(x.sizes(), x.strides(), x.options());
    auto g = grad.scalar_type() == x.scalar_type() && grad.strides() == x.strides() ? grad : at::empty_strided(x.sizes(), x.strides(), x.options()).copy_(grad);
    at::parallel_for(0, x.numel(), Grain, [&](int64_t from, int64_t to) { backward_range<F>(data(g), data(x), data(y), from, to); });
    return y;
}

// The out= forms are operators of their own and keep ATen's kernels: the way back to them.
at::Tensor silu(const at::Tensor& x) {
    if (ours(x)) return forward<Silu>(x);
    auto y = at::empty({0}, x.options());
    return at::silu_out(y, x);
}

at::Tensor silu_backward(const at::Tensor& grad, const at::Tensor& x) {
    if (ours(x)) return backward<Silu>(grad, x);
    auto y = at::empty({0}, x.options());
    return at::silu_backward_out(y, grad, x);
}

at::Tensor gelu(const at::Tensor& x, c10::string_view approximate) {
    if (ours(x) && approximate == "tanh") return forward<Gelu>(x);
    auto y = at::empty({0}, x.options());
    return at::gelu_out(y, x, approximate);
}

at::Tensor gelu_backward(const at::Tensor& grad, const at::Tensor& x, c10::string_view approximate) {
    if (ours(x) && approximate == "tanh") return backward<Gelu>(grad, x);
    auto y = at::empty({0}, x.options());
    return at::gelu_backward_out(y, grad, x, approximate);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm(
    const at::Tensor& x, at::IntArrayRef shape, const c10::optional<at::Tensor>& weight, const c10::optional<at::Tensor>& bias, double eps) {
    if ((weight && weight->defined()) || (bias && bias->defined()) || !ours(x) || !x.is_contiguous() || shape.size() != 1 || x.dim() < 1 || x.size(-1) != shape[0] || x.numel() == 0)
        return at::native::layer_norm_cpu(x, shape, weight, bias, eps);
    int64_t width = shape[0], rows = x.numel() / width;
    std::vector<int64_t> per_row(x.sizes().begin(), x.sizes().end());
    per_row.back() = 1;
    auto y = at::empty_like(x), mean = at::empty(per_row, x.options()), rstd = at::empty(per_row, x.options());
    at::parallel_for(0, rows, std::max<int64_t>(1, Grain / width),
        [&](int64_t from, int64_t to) { layer_norm_rows(data(x), data(y), data(mean), data(rstd), width, eps, from, to); });
    return {y, mean, rstd};
}

bool channels_last(const at::Tensor& x) { return ours(x) && x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast); }
at::Tensor floats(const at::Tensor& t, int64_t channels, float otherwise) {
    return t.defined() ? t.detach().to(at::kFloat).contiguous() : at::full({channels}, otherwise, at::kFloat);
}
bool norm_is_ours(const at::Tensor& x, const c10::optional<at::Tensor>& weight) {
    return channels_last(x) && (!weight || !weight->defined() || weight->scalar_type() == at::kBFloat16);
}

// Mean and reciprocal deviation are float32, [images, groups].
std::tuple<at::Tensor, at::Tensor, at::Tensor> group_norm_forward(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps) {
    int64_t n = x.size(0), c = x.size(1), pixels = x.size(2) * x.size(3), each = c / groups;
    auto y = at::empty_strided(x.sizes(), x.strides(), x.options());
    auto mean = at::empty({n, groups}, at::kFloat), rstd = at::empty({n, groups}, at::kFloat);
    auto gain = floats(weight, c, 1), shift = floats(bias, c, 0);
    const float *g = gain.data_ptr<float>(), *s = shift.data_ptr<float>();
    float *means = mean.data_ptr<float>(), *rstds = rstd.data_ptr<float>();
    at::parallel_for(0, n, 1, [&](int64_t from, int64_t to) {
        std::vector<float> sum(c), square(c), u(c), w(c);
        for (int64_t i = from; i < to; i++) {
            const bits* in = data(x) + i * pixels * c;
            channel_sums(in, in, pixels, c, sum.data(), square.data());
            for (int64_t k = 0; k < groups; k++) {
                double m = 0, q = 0;
                for (int64_t j = k * each; j < (k + 1) * each; j++) m += sum[j], q += square[j];
                m /= each * pixels;
                double r = 1 / std::sqrt(std::max(0.0, q / (each * pixels) - m * m) + eps);
                means[i * groups + k] = m;
                rstds[i * groups + k] = r;
                for (int64_t j = k * each; j < (k + 1) * each; j++) u[j] = g[j] * r, w[j] = s[j] - m * r * g[j];
            }
            channel_affine(in, u.data(), nullptr, nullptr, w.data(), data(y) + i * pixels * c, pixels, c);
        }
    });
    return {y, mean, rstd};
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
        int64_t groups, double eps) {
        at::AutoDispatchBelowADInplaceOrView below;
        auto [y, mean, rstd] = group_norm_forward(x, weight, bias, groups, eps);
        context->save_for_backward({x, weight, mean, rstd});
        return y;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
        auto saved = context->get_saved_variables();
        auto x = saved[0], weight = saved[1], mean = saved[2], rstd = saved[3];
        int64_t n = x.size(0), c = x.size(1), pixels = x.size(2) * x.size(3), groups = mean.size(1), each = c / groups;
        auto dy = grads[0].to(at::kBFloat16).contiguous(at::MemoryFormat::ChannelsLast);
        auto dx = at::empty_strided(x.sizes(), x.strides(), x.options());
        auto gain = floats(weight, c, 1);
        auto of_gain = at::empty({n, c}, at::kFloat), of_shift = at::empty({n, c}, at::kFloat);
        const float *g = gain.data_ptr<float>(), *means = mean.data_ptr<float>(), *rstds = rstd.data_ptr<float>();
        float *slopes = of_gain.data_ptr<float>(), *sums = of_shift.data_ptr<float>();
        at::parallel_for(0, n, 1, [&](int64_t from, int64_t to) {
            std::vector<float> product(c), u(c), v(c), w(c);
            for (int64_t i = from; i < to; i++) {
                const bits *in = data(x) + i * pixels * c, *out = data(dy) + i * pixels * c;
                float *sum = sums + i * c, *slope = slopes + i * c;
                channel_sums(out, in, pixels, c, sum, product.data());
                for (int64_t k = 0; k < groups; k++) {
                    double m = means[i * groups + k], r = rstds[i * groups + k], ds = 0, db = 0, share = 1.0 / (each * pixels);
                    for (int64_t j = k * each; j < (k + 1) * each; j++) ds += (double)product[j] * g[j], db += (double)sum[j] * g[j];
                    double of_x = (db * m - ds) * r * r * r * share, constant = -of_x * m - db * r * share;
                    for (int64_t j = k * each; j < (k + 1) * each; j++) {
                        slope[j] = (product[j] - sum[j] * m) * r;
                        u[j] = g[j] * r, v[j] = of_x, w[j] = constant;
                    }
                }
                channel_affine(out, u.data(), in, v.data(), w.data(), data(dx) + i * pixels * c, pixels, c);
            }
        });
        auto gain_grad = weight.defined() ? of_gain.sum(0).to(at::kBFloat16) : at::Tensor();
        return {dx, gain_grad, of_shift.sum(0).to(at::kBFloat16), at::Tensor(), at::Tensor()};
    }
};

// ATen's own backward would first copy everything to the other layout.
at::Tensor group_norm_with_gradient(const at::Tensor& x, int64_t groups, const c10::optional<at::Tensor>& weight, const c10::optional<at::Tensor>& bias,
    double eps, bool cudnn) {
    if (!norm_is_ours(x, weight)) return at::native::group_norm(x, groups, weight, bias, eps, cudnn);
    return GroupNorm::apply(x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), groups, eps);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> native_group_norm(const at::Tensor& x, const c10::optional<at::Tensor>& weight,
    const c10::optional<at::Tensor>& bias, int64_t n, int64_t c, int64_t pixels, int64_t groups, double eps) {
    if (!norm_is_ours(x, weight)) return at::native::native_group_norm(x, weight, bias, n, c, pixels, groups, eps);
    auto [y, mean, rstd] = group_norm_forward(x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), groups, eps);
    return {y, mean.to(at::kBFloat16), rstd.to(at::kBFloat16)};
}

#if TORCH_VERSION_MAJOR < 2
// libtorch 1.13's own group_norm of bfloat16 is wrong by half where channels lie last; where our kernels do not run, it works in float32.
bool norm_is_wrong(const at::Tensor& x) { return x.scalar_type() == at::kBFloat16 && !x.is_contiguous(); }
c10::optional<at::Tensor> in_float(const c10::optional<at::Tensor>& t) {
    return t && t->defined() ? c10::optional<at::Tensor>(t->to(at::kFloat)) : c10::optional<at::Tensor>();
}

at::Tensor group_norm_in_float(const at::Tensor& x, int64_t groups, const c10::optional<at::Tensor>& weight, const c10::optional<at::Tensor>& bias,
    double eps, bool cudnn) {
    if (!norm_is_wrong(x)) return at::native::group_norm(x, groups, weight, bias, eps, cudnn);
    return at::native::group_norm(x.to(at::kFloat), groups, in_float(weight), in_float(bias), eps, cudnn).to(at::kBFloat16);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> native_group_norm_in_float(const at::Tensor& x, const c10::optional<at::Tensor>& weight,
    const c10::optional<at::Tensor>& bias, int64_t n, int64_t c, int64_t pixels, int64_t groups, double eps) {
    if (!norm_is_wrong(x)) return at::native::native_group_norm(x, weight, bias, n, c, pixels, groups, eps);
    auto [y, mean, rstd] = at::native::native_group_norm(x.to(at::kFloat), in_float(weight), in_float(bias), n, c, pixels, groups, eps);
    return {y.to(at::kBFloat16), mean.to(at::kBFloat16), rstd.to(at::kBFloat16)};
}
#endif

// Taking the place of a kernel is announced by a warning each, which nobody who uses the library can act on.
struct Quiet : c10::WarningHandler {
#if TORCH_VERSION_MAJOR < 2
    void process(const c10::SourceLocation&, const std::string&, const bool) override {}
#else
    void process(const c10::Warning&) override {}
#endif
};
#if TORCH_VERSION_MAJOR < 2
using Guard = c10::Warning::WarningHandlerGuard;
#else
using Guard = c10::WarningUtils::WarningHandlerGuard;
#endif

bool install() {
    const char* wish = std::getenv("OPENSORA_FAST_KERNELS");
    __builtin_cpu_init();
    bool fast = !(wish && *wish == '0') && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    Quiet quiet;
    Guard guard(&quiet);
    static auto library = MAKE_TORCH_LIBRARY_IMPL(aten, CPU);
    static auto autograd = MAKE_TORCH_LIBRARY_IMPL(aten, AutogradCPU);
    if (!fast) {
#if TORCH_VERSION_MAJOR < 2
        library.impl("native_group_norm", native_group_norm_in_float);
        autograd.impl("group_norm", group_norm_in_float);
#endif
        return false;
    }
    library.impl("silu", silu);
    library.impl("silu_backward", silu_backward);
    library.impl("gelu", gelu);
    library.impl("gelu_backward", gelu_backward);
    library.impl("native_layer_norm", layer_norm);
    library.impl("native_group_norm", native_group_norm);
    autograd.impl("group_norm", group_norm_with_gradient);
    return true;
}

const bool installed = install();

}  // namespace
#endif
