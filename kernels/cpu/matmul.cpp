#include "kernels/matmul.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm/gemm.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

Matrix matrix(Tensor t) { return {t.data, t.dtype, t.shape[0], t.shape[1], t.row_stride, 1}; }

// dbias = sum over the rows of dout: kBiasSlots fixed ranges, each summed in order, then range by range.
template <class R, class T>
void column_sums(R* dbias, const T* dout, int64_t N, int64_t O, int64_t row_stride, Write write, int threads) {
    R* partial = workspace<struct BiasSlots, R>(kBiasSlots * O);
    const int64_t slot_rows = (N + kBiasSlots - 1) / kBiasSlots;
#pragma omp parallel for num_threads(threads) schedule(static) if (N * O > 100000)
    for (int64_t slot = 0; slot < kBiasSlots; ++slot) {
        R* sums = partial + slot * O;
        std::fill_n(sums, O, R(0));
        for (int64_t n = slot * slot_rows; n < std::min(N, (slot + 1) * slot_rows); ++n) {
            const T* row = dout + n * row_stride;
#pragma omp simd
            for (int64_t o = 0; o < O; ++o) sums[o] += static_cast<R>(row[o]);
        }
    }
    if (write == Write::kOverwrite) std::fill_n(dbias, O, R(0));
    for (int64_t slot = 0; slot < kBiasSlots; ++slot) {
#pragma omp simd
        for (int64_t o = 0; o < O; ++o) dbias[o] += partial[slot * O + o];
    }
}

}  // namespace

void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec) {
    gemm(matrix(out), matrix(x), transposed(matrix(weight)), false, bias.data, exec);
}

void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec) {
    gemm(matrix(dx), matrix(dout), matrix(weight), write == Write::kAccumulate, nullptr, exec);
}

void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec) {
    gemm(matrix(dweight), transposed(matrix(dout)), matrix(x), write == Write::kAccumulate, nullptr, exec);
    if (!dbias) return;
    dispatch_float(dout.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        column_sums<R, T>(dbias.ptr<R>(), dout.ptr<T>(), dout.shape[0], dout.shape[1], dout.row_stride, write, exec.threads);
    });
}

}  // namespace plimsoll::cpu

namespace plimsoll {

std::string matmul_backend() { return cpu::gemm_library(); }
bool matmul_bf16_is_fast() { return cpu::gemm_bf16_is_fast(); }

}  // namespace plimsoll
