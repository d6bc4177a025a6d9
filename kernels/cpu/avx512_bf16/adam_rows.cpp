// Compiled for AVX-512, as tiles.cpp is. Products that are added are fused by hand, so that no compiler chooses.
#include "kernels/cpu/avx512_bf16/adam_rows.h"

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// Elements of all four arrays are asked for in bursts of kBurst, kLead before they are wanted: memory takes whole runs
// of an array faster than lines of four in turns. 124 million parameters on two cores of Sapphire Rapids: 64 ms; every
// 128 elements, 512 ahead: 72.
constexpr int64_t kBurst = 512, kLead = 256;

// The first 16 elements and the next, rounded to nearest, in order.
__m512i rounded(__m512 low, __m512 high) {
    const __m512i bits = in_order(low, high);
    const __mmask16 small_low = subnormals(low), small_high = subnormals(high);
    if ((small_low | small_high) == 0) [[likely]]
        return bits;
    const __m512i kept =
        _mm512_inserti64x4(_mm512_castsi256_si512(rounded_by_integers(low)), rounded_by_integers(high), 1);
    return _mm512_mask_mov_epi16(bits, static_cast<__mmask32>(small_high) << kLanes | small_low, kept);
}

void ask_for(const float* param, const float* m, const float* v, const float* grad, int64_t begin) {
    for (int64_t i = begin; i < begin + kBurst; i += kLanes) {
        __builtin_prefetch(param + i, 1);
        __builtin_prefetch(m + i, 1);
        __builtin_prefetch(v + i, 1);
        __builtin_prefetch(grad + i, 0);
    }
}

class Update {
  public:
    Update(float* param, float* m, float* v, const float* grad, const AdamFactors<float>& f)
        : param_(param),
          m_(m),
          v_(v),
          grad_(grad),
          scale_(_mm512_set1_ps(f.scale)),
          decay_(_mm512_set1_ps(f.decay)),
          beta1_(_mm512_set1_ps(f.beta1)),
          fresh1_(_mm512_set1_ps(f.fresh1)),
          beta2_(_mm512_set1_ps(f.beta2)),
          fresh2_(_mm512_set1_ps(f.fresh2)),
          eps_(_mm512_set1_ps(f.eps)),
          step_size_(_mm512_set1_ps(f.step_size)),
          root_correction_(_mm512_set1_ps(f.root_correction)) {}

    // The new parameters of 16 lanes.
    __m512 operator()(int64_t i, __mmask16 mask) const {
        const __m512 g = _mm512_mul_ps(scale_, load(grad_, i, mask));
        const __m512 mean = _mm512_fmadd_ps(beta1_, load(m_, i, mask), _mm512_mul_ps(fresh1_, g));
        const __m512 g_squared = _mm512_mul_ps(_mm512_mul_ps(fresh2_, g), g);
        const __m512 square = _mm512_fmadd_ps(beta2_, load(v_, i, mask), g_squared);
        store(m_, i, mask, mean);
        store(v_, i, mask, square);
        const __m512 root = _mm512_fmadd_ps(_mm512_sqrt_ps(square), root_correction_, eps_);
        const __m512 step = _mm512_div_ps(_mm512_mul_ps(step_size_, mean), root);
        const __m512 value = _mm512_fmsub_ps(load(param_, i, mask), decay_, step);
        store(param_, i, mask, value);
        return value;
    }

  private:
    float *param_, *m_, *v_;
    const float* grad_;
    __m512 scale_, decay_, beta1_, fresh1_, beta2_, fresh2_, eps_, step_size_, root_correction_;
};

}  // namespace

void adamw(float* param, float* m, float* v, const float* grad, bf16* working, int64_t count,
           const AdamFactors<float>& factors, bool streams) {
    const Update update(param, m, v, grad, factors);
    const bool whole_lines = streams && reinterpret_cast<uintptr_t>(working) % 64 == 0;
    for (int64_t begin = 0; begin < count; begin += kBurst) {
        ask_for(param, m, v, grad, begin + kLead);
        const int64_t end = begin + kBurst < count ? begin + kBurst : count;
        for (int64_t i = begin; i < end; i += 2 * kLanes) {
            const __mmask32 mask = pair_lanes(end - i);
            const __m512 low = update(i, static_cast<__mmask16>(mask));
            const __m512 high = update(i + kLanes, static_cast<__mmask16>(mask >> kLanes));
            if (!working) continue;
            const __m512i bits = rounded(low, high);
            if (whole_lines && mask == ~__mmask32{0})
                stream_bits(working, i, bits);
            else
                store_bits(working, i, mask, bits);
        }
    }
    if (whole_lines) _mm_sfence();
}

}  // namespace plimsoll::cpu::avx512_bf16
