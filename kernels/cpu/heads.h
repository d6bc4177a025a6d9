// Heads of tokens: rows of (N, H, HS) tensors, by the host's threads.
#pragma once

#include "kernels/cpu/vector_math.h"
#include "kernels/exec.h"
#include "kernels/tensor.h"

namespace plimsoll::cpu {

// Head h of row n of (N, H, HS).
template <class T>
T* head_row(const Tensor& t, int64_t n, int64_t h) {
    return t.ptr<T>() + n * t.row_stride + h * t.shape[2];
}

// Asks for a head's row to come near. Nothing is read, so that it may lie past the tensor's end.
template <class T>
void prefetch_head_row(const Tensor& t, int64_t n, int64_t h) {
    const char* const row = reinterpret_cast<const char*>(head_row<T>(t, n, h));
    for (int64_t at = 0; at < t.shape[2] * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(row + at);
}

// The gate of a token's head, (N, H) before the sigmoid; 1 without one.
template <class T>
Accumulator<T> gate_of(const Tensor& gate, int64_t n, int64_t h) {
    using R = Accumulator<T>;
    return gate ? sigmoid_fast(static_cast<R>(gate.ptr<T>()[n * gate.row_stride + h])) : R(1);
}

// Calls f(n, h) for heads 0 .. H - 1 of rows 0 .. N - 1, rows by several threads. `work`: elements, for worth_threads.
template <class F>
void for_each_head(int64_t N, int64_t H, int64_t work, const Exec& exec, F&& f) {
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(work))
    for (int64_t n = 0; n < N; ++n)
        for (int64_t h = 0; h < H; ++h) f(n, h);
}

}  // namespace plimsoll::cpu
