// Rows of LayerNorm and RMSNorm over an fp32 stream, on AVX-512: what compilers make of the loops in norm.cpp takes
// twice as long as memory does.
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

// norm_forward (kernels/norm.h) of `rows` contiguous rows of C elements; where branch is not null, of x + branch, which
// goes to `sum` (it may be x). mean is null for RMSNorm, bias may be. A row's sums have a fixed order: its bits depend
// neither on the rows beside it nor on its address, and Out rounds what float has. Out, Branch: float or bf16.
// Want available().
template <class Out, class Branch>
void norm_forward(Out* out, float* mean, float* rstd, float* sum, const float* x, const Branch* branch,
                  const float* gain, const float* bias, int64_t rows, int64_t C, float eps);

// norm_backward of such rows: writes dx, or where `adds` adds to it, and adds, row after row, to the sums of the
// gradients of gain and bias. dbranch, if not null, is dx rounded. mean is null for RMSNorm, bias_sums where there is
// no bias. Out: float or bf16.
template <class Out>
void norm_backward(float* dx, Out* dbranch, float* gain_sums, float* bias_sums, const Out* dout, const float* x,
                   const float* gain, const float* mean, const float* rstd, bool adds, int64_t rows, int64_t C);

// What files that define them instantiate.
#define PLIMSOLL_INSTANTIATE_NORM_FORWARD(Out, Branch)                                                                \
    template void norm_forward(Out*, float*, float*, float*, const float*, const Branch*, const float*, const float*, \
                               int64_t, int64_t, float);
#define PLIMSOLL_INSTANTIATE_NORM_BACKWARD(Out)                                                                     \
    template void norm_backward(float*, Out*, float*, float*, const Out*, const float*, const float*, const float*, \
                                const float*, bool, int64_t, int64_t);
#define PLIMSOLL_INSTANTIATE_NORM_ROWS              \
    PLIMSOLL_INSTANTIATE_NORM_FORWARD(float, float) \
    PLIMSOLL_INSTANTIATE_NORM_FORWARD(float, bf16)  \
    PLIMSOLL_INSTANTIATE_NORM_FORWARD(bf16, float)  \
    PLIMSOLL_INSTANTIATE_NORM_FORWARD(bf16, bf16)   \
    PLIMSOLL_INSTANTIATE_NORM_BACKWARD(float)       \
    PLIMSOLL_INSTANTIATE_NORM_BACKWARD(bf16)

}  // namespace plimsoll::cpu::avx512_bf16
