// AdamW's update on AVX-512: what compilers make of the loop in optimizer.cpp takes longer than memory does, since a
// core that waits for memory cannot work ahead of it.
#pragma once

#include <cstdint>

#include "kernels/cpu/adam_factors.h"

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

// adamw_step (kernels/optimizer.h) of `count` neighbours. working, if it is not null, gets the new parameters, rounded
// to nearest; past the caches, for `streams`, so that nothing reads first what is written. Elements do not depend on
// their neighbours. Want available().
void adamw(float* param, float* m, float* v, const float* grad, bf16* working, int64_t count,
           const AdamFactors<float>& factors, bool streams);

}  // namespace plimsoll::cpu::avx512_bf16
