// Rows of a residual stream: additions, the row of a norm, and the end of a sum over rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/cpu/vector_math.h"
#include "kernels/exec.h"

namespace plimsoll::cpu {

// Calls f<R, Other>() for a stream in R (fp32, fp64) and what is read or written beside it (R or bf16).
template <class F>
void dispatch_stream(DType stream, DType other, F&& f) {
    if (stream == DType::kF32 && other == DType::kF32) return f.template operator()<float, float>();
    if (stream == DType::kF32 && other == DType::kBF16) return f.template operator()<float, bf16>();
    if (stream == DType::kF64 && other == DType::kF64) return f.template operator()<double, double>();
    check(false, "no kernel for a stream in {} with {}", name_of(stream), name_of(other));
}

template <class R>
R* optional_ptr(Tensor tensor) {
    return tensor ? tensor.ptr<R>() : nullptr;
}

template <class R, class Branch>
void add(R* out, const R* x, const Branch* branch, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = x[i] + static_cast<R>(branch[i]);
}

// data + n, or null.
template <class T>
T* after(T* data, int64_t n) {
    return data ? data + n : nullptr;
}

// Calls run(n, rows) for blocks of N rows.
template <class Run>
void for_row_blocks(int64_t N, int64_t C, int threads, Run&& run) {
    constexpr int64_t kRows = 16;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * C))
    for (int64_t n = 0; n < N; n += kRows) run(n, std::min(kRows, N - n));
}

// One row of norm_forward. mean (LayerNorm only) and bias may be null. Not inlined: one body gives every caller the
// same bits, whatever the compiler contracts around it.
template <class R, class Out>
[[gnu::noinline]] void norm_row(Out* out, R* mean, R* rstd, const R* row, const R* gain, const R* bias, int64_t C,
                                R eps) {
    R centre = 0;
    if (mean) *mean = centre = lane_sum<R>(C, [&](int64_t c) { return row[c]; }) / static_cast<R>(C);
    const R squares = lane_sum<R>(C, [&](int64_t c) { return (row[c] - centre) * (row[c] - centre); });
    const R scale = 1 / std::sqrt(squares / static_cast<R>(C) + eps);
    *rstd = scale;
    if (bias) {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) store(out[c], (row[c] - centre) * scale * gain[c] + bias[c]);
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) store(out[c], (row[c] - centre) * scale * gain[c]);
    }
}

// Adds slots 1 .. slots - 1 to slot 0, in that order, and writes it to out (C) or adds it there. Slots lie `stride`
// apart.
template <class R>
void fold_slots(R* out, R* slot, int64_t slots, int64_t stride, int64_t C, Write write) {
    for (int64_t s = 1; s < slots; ++s) {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) slot[c] += slot[s * stride + c];
    }
    for (int64_t c = 0; c < C; ++c) out[c] = write == Write::kAccumulate ? out[c] + slot[c] : slot[c];
}

}  // namespace plimsoll::cpu
