// bfloat16 CPU kernels for processors with AVX-512 that take the place of ATen's for GELU (tanh), SiLU and LayerNorm without affine.
// ATen builds without AVX-512, such as Debian's, spend more time in these three than in half of a transformer's matrix products.
// Everything else (other types, other layouts, other processors) goes on to ATen. OPENSORA_FAST_KERNELS=0 leaves ATen alone.

#include <cstdlib>
#include <immintrin.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/native_layer_norm_native.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/version.h>
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
    bool affine = (weight && weight->defined()) || (bias && bias->defined());
    if (affine || !ours(x) || !x.is_contiguous() || shape.size() != 1 || x.dim() < 1 || x.size(-1) != shape[0] || x.numel() == 0)
        return at::native::layer_norm_cpu(x, shape, weight, bias, eps);
    int64_t width = shape[0], rows = x.numel() / width;
    std::vector<int64_t> per_row(x.sizes().begin(), x.sizes().end());
    per_row.back() = 1;
    auto y = at::empty_like(x), mean = at::empty(per_row, x.options()), rstd = at::empty(per_row, x.options());
    at::parallel_for(0, rows, std::max<int64_t>(1, Grain / width),
        [&](int64_t from, int64_t to) { layer_norm_rows(data(x), data(y), data(mean), data(rstd), width, eps, from, to); });
    return {y, mean, rstd};
}

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
    if ((wish && *wish == '0') || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return false;
    Quiet quiet;
    Guard guard(&quiet);
    static auto library = MAKE_TORCH_LIBRARY_IMPL(aten, CPU);
    library.impl("silu", silu);
    library.impl("silu_backward", silu_backward);
    library.impl("gelu", gelu);
    library.impl("gelu_backward", gelu_backward);
    library.impl("native_layer_norm", layer_norm);
    return true;
}

const bool installed = install();

}  // namespace
#endif
