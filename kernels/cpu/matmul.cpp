#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/activated_product.h"
#include "kernels/cpu/avx512/gemm.h"
#include "kernels/cpu/avx512/panels.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm/fallback.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

// gemm() for any sizes. No rows is a rank without tokens; its weight gradient is a sum of nothing.
void product(Matrix c, Matrix a, Matrix b, Write write, Tensor bias, const Exec& exec) {
    if (c.rows == 0 || c.columns == 0) return;
    if (a.columns > 0) {
        const bool accumulate = write == Write::kAccumulate;
        if (a.dtype == DType::kBF16 && avx512_bf16::available())
            return avx512_bf16::gemm(c, a, b, accumulate, optional_ptr<float>(bias), exec);
        if (avx512::takes(c, a, b) && avx512::available())
            return avx512::gemm(c, a, b, accumulate, optional_ptr<float>(bias), exec);
        return gemm(c, a, b, accumulate, bias.data, exec);
    }
    dispatch_float(c.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        const R* start = optional_ptr<R>(bias);
        for (int64_t m = 0; m < c.rows; ++m) {
            T* row = static_cast<T*>(c.data) + m * c.row;
            for (int64_t n = 0; n < c.columns; ++n)
                store(row[n], (write == Write::kAccumulate ? R(row[n]) : R(0)) + (start ? start[n] : R(0)));
        }
    });
}

// dbias = sum over the rows of dout: kBiasSlots fixed ranges, each summed in order, then range by range.
template <class R, class T>
void column_sums(R* dbias, const T* dout, int64_t N, int64_t O, int64_t row_stride, Write write, int threads) {
    const Slots slots(N, kBiasSlots);
    R* partial = workspace<struct BiasSlots, R>(slots.count * O);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * O))
    for (int64_t slot = 0; slot < slots.count; ++slot) {
        R* sums = partial + slot * O;
        std::fill_n(sums, O, R(0));
        for (int64_t n = slots.begin(slot); n < slots.end(slot); ++n) {
            const T* row = dout + n * row_stride;
#pragma omp simd
            for (int64_t o = 0; o < O; ++o) sums[o] += static_cast<R>(row[o]);
        }
    }
    fold_slots(dbias, partial, slots.count, O, O, write);
}

// One row of x: every weight is read once, so time is that of memory. In bf16 twice as fast as oneDNN 2.6 on matrices
// that are not in cache (50304 x 768, 2 cores of Zen 4: 34 against 19 GB/s; fp32 27 against 26).
template <class Out, class T>
void row_forward(Out* out, const T* x, const T* weight, const Accumulator<T>* bias, int64_t O, int64_t I,
                 const Exec& exec) {
    using R = Accumulator<T>;
    R* const wide = workspace<struct WideRow, R>(I);
#pragma omp simd
    for (int64_t i = 0; i < I; ++i) wide[i] = static_cast<R>(x[i]);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(O * I / kProductsPerElement))
    for (int64_t o = 0; o < O; ++o) {
        const T* row = weight + o * I;
        const R sum = lane_sum<R, 64>(I, [&](int64_t i) { return wide[i] * static_cast<R>(row[i]); });
        store(out[o], bias ? sum + bias[o] : sum);
    }
}

// Whether an activation follows a product while it is in cache: one with an input per output, in bf16 on AVX512_BF16.
bool fuses(Tensor operand, Activation kind) {
    return operand.dtype == DType::kBF16 && operand.shape[0] > 0 && inputs_per_output(kind) == 1 &&
           avx512_bf16::available();
}

}  // namespace

void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec) {
    if (x.shape[0] == 1)
        return dispatch_float(x.dtype, [&]<class T>() {
            using R = Accumulator<T>;
            const auto run = [&](auto* to) {
                row_forward(to, x.ptr<T>(), weight.ptr<T>(), optional_ptr<R>(bias), weight.shape[0], weight.shape[1],
                            exec);
            };
            if (out.dtype == kDTypeOf<T>) return run(out.ptr<T>());
            run(out.ptr<R>());
        });
    product(matrix(out), matrix(x), transposed(matrix(weight)), Write::kOverwrite, bias, exec);
}

void matmul_activation_forward(Tensor act, Tensor up, Tensor x, Tensor weight, Tensor bias, Activation kind,
                               const Exec& exec) {
    if (!fuses(x, kind)) {
        cpu::matmul_forward(up, x, weight, bias, exec);
        return cpu::activation_forward(act, up, kind, exec);
    }
    activated_forward(act, up, kind, exec, [&](Matrix to, const avx512_bf16::Then& then) {
        avx512_bf16::gemm(to, matrix(x), transposed(matrix(weight)), false, optional_ptr<float>(bias), exec, then);
    });
}

void matmul_activation_backward(Tensor dup, Tensor dact, Tensor dout, Tensor weight, Tensor up, Activation kind,
                                const Exec& exec) {
    if (!fuses(dout, kind)) {
        cpu::matmul_backward_input(dact, dout, weight, Write::kOverwrite, exec);
        return cpu::activation_backward(dup, dact, up, kind, exec);
    }
    activated_backward(dup, dact, up, kind, exec, [&](Matrix to, const avx512_bf16::Then& then) {
        avx512_bf16::gemm(to, matrix(dout), matrix(weight), false, nullptr, exec, then);
    });
}

void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec) {
    product(matrix(dx), matrix(dout), matrix(weight), write, {}, exec);
}

void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec) {
    cpu::matmul_backward_weight(dweight, dbias, dout, x, write, exec, {});
}

void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec,
                            Tensor squares) {
    const Matrix c = matrix(dweight), a = transposed(matrix(dout));
    const bool any = c.rows > 0 && c.columns > 0 && a.columns > 0;
    if (any && dout.dtype == DType::kBF16 && a.column != 1 && avx512_bf16::available())
        return avx512_bf16::weight_gradient(c, {optional_ptr<float>(dbias), optional_ptr<double>(squares)}, a,
                                            matrix(x), write == Write::kAccumulate, exec);
    product(c, a, matrix(x), write, {}, exec);
    if (squares) cpu::block_squares(squares, dweight, exec);
    if (!dbias) return;
    dispatch_float(dout.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        column_sums<R, T>(dbias.ptr<R>(), dout.ptr<T>(), dout.shape[0], dout.shape[1], dout.row_stride, write,
                          exec.threads);
    });
}

}  // namespace plimsoll::cpu

namespace plimsoll {

std::string matmul_backend() {
    const bool narrow = cpu::avx512_bf16::available(), tiles = cpu::avx512_bf16::has_tiles();
    return cpu::gemm_library() + (cpu::avx512::available() ? ", AVX-512" : "") +
           (tiles    ? ", AMX"
            : narrow ? ", AVX512_BF16"
                     : "");
}
bool matmul_bf16_is_fast() {
    return cpu::avx512_bf16::available() ? cpu::avx512_bf16::is_fast() : cpu::gemm_bf16_is_fast();
}

}  // namespace plimsoll
