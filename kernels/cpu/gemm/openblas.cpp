// By OpenBLAS's sgemm. Its results may depend on the number of threads.
#include <cblas.h>

#include "kernels/cpu/gemm/fallback.h"

namespace plimsoll::cpu {
namespace {

void sgemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    float* out = static_cast<float*>(c.data);
    const float* start = static_cast<const float*>(bias);
    if (bias) {  // becomes the start of the sum
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(c.rows * c.columns))
        for (int64_t m = 0; m < c.rows; ++m)
            for (int64_t n = 0; n < c.columns; ++n)
                out[m * c.row + n] = (accumulate ? out[m * c.row + n] : 0.0f) + start[n];
    }
    openblas_set_num_threads(exec.threads);
    const auto order = [](const Matrix& m) { return m.column == 1 ? CblasNoTrans : CblasTrans; };
    // A single row or column may have two strides of 1; OpenBLAS wants a second one that it could lie in.
    const auto leading = [](const Matrix& m) {
        return static_cast<blasint>(m.column == 1 ? std::max(m.row, m.columns) : std::max(m.column, m.rows));
    };
    cblas_sgemm(CblasRowMajor, order(a), order(b), static_cast<blasint>(c.rows), static_cast<blasint>(c.columns),
                static_cast<blasint>(a.columns), 1.0f, static_cast<const float*>(a.data), leading(a),
                static_cast<const float*>(b.data), leading(b), bias || accumulate ? 1.0f : 0.0f, out,
                static_cast<blasint>(c.row));
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    if (a.dtype == DType::kF64)
        return GemmLoops<double>::run(c, a, b, accumulate, static_cast<const double*>(bias), exec);
    if (a.dtype == DType::kBF16) return gemm_bf16_by_fp32(c, a, b, accumulate, bias, exec, sgemm);
    sgemm(c, a, b, accumulate, bias, exec);
}

std::string gemm_library() {
    return "OpenBLAS";
}
bool gemm_bf16_is_fast() {
    return false;
}

}  // namespace plimsoll::cpu
