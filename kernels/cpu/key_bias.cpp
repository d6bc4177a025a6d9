#include "kernels/key_bias.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {

void key_bias_forward(Tensor bias, Tensor v, Tensor w, const Exec& exec) {
    const int64_t N = v.shape[0], NH = w.shape[0], HS = w.shape[1], group = NH / v.shape[1];
    dispatch_float(v.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, NH, N * NH * HS, exec, [&](int64_t n, int64_t h) {
            const T* value = head_row<T>(v, n, h / group);
            const R* weight = w.ptr<R>() + h * HS;
            bias.ptr<R>()[n * NH + h] =
                lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(value[c]) * weight[c]; });
        });
    });
}

void key_bias_backward(Tensor dv, Tensor dw, Tensor dbias, Tensor v, Tensor w, Write write, const Exec& exec) {
    const int64_t N = v.shape[0], NKV = v.shape[1], NH = w.shape[0], HS = w.shape[1], group = NH / NKV;
    dispatch_float(v.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        const R* const sums =
            sum_rows<R>(N, NKV, dw.elements(), 2 * N * NH * HS, exec, [&](int64_t n, int64_t g, R* own) {
                const T* value = head_row<T>(v, n, g);
                T* to = head_row<T>(dv, n, g);
                const R* db = dbias.ptr<R>() + n * NH;
                R* const sum = workspace<struct KeyBiasGradient, R>(HS);
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) sum[c] = static_cast<R>(to[c]);
                for (int64_t h = g * group; h < (g + 1) * group; ++h) {
                    const R* weight = w.ptr<R>() + h * HS;
                    R* const dweight = own + h * HS;
#pragma omp simd
                    for (int64_t c = 0; c < HS; ++c) {
                        sum[c] += db[h] * weight[c];
                        dweight[c] += db[h] * static_cast<R>(value[c]);
                    }
                }
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) store(to[c], sum[c]);
            });
        write_sums(dw, sums, write);
    });
}

}  // namespace plimsoll::cpu
