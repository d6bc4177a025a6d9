#include "kernels/feature_map.h"

#include "kernels/cpu/avx512_bf16/activations.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/in_lanes.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {

void elu1_forward(Tensor out, Tensor x, const Exec& exec) {
    const int64_t N = x.shape[0], width = x.row_elements();
    dispatch_float(x.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * width))
        for (int64_t n = 0; n < N; ++n) {
            T* to = out.ptr<T>() + n * out.row_stride;
            const T* from = x.ptr<T>() + n * x.row_stride;
            if (in_lanes<T>(avx512_bf16::elu1_forward, to, from, width)) continue;
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
                const R value = static_cast<R>(from[c]), below = exp_fast(value);
                store(to[c], value > 0 ? value + R(1) : below);
            }
        }
    });
}

void elu1_backward(Tensor dx, Tensor dout, Tensor out, const Exec& exec) {
    const int64_t N = out.shape[0], width = out.row_elements();
    dispatch_float(out.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * width))
        for (int64_t n = 0; n < N; ++n) {
            T* to = dx.ptr<T>() + n * dx.row_stride;
            const T* grad = dout.ptr<T>() + n * dout.row_stride;
            const T* made = out.ptr<T>() + n * out.row_stride;
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
                const R value = static_cast<R>(made[c]);
                store(to[c], static_cast<R>(grad[c]) * (value > 1 ? R(1) : value));
            }
        }
    });
}

}  // namespace plimsoll::cpu
