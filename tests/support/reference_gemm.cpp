// Takes cuBLASLt's place in the emulated build: the product by the definition, sums in double, rounded once.
#include "kernels/cuda/gemm.h"
#include "simt/memory.h"

namespace plimsoll::cuda {
namespace {

double element(const Matrix& m, int64_t i, int64_t j) {
    const int64_t at = i * m.row + j * m.column;
    return m.dtype == DType::kBF16 ? static_cast<float>(static_cast<const bf16*>(m.data)[at])
                                   : static_cast<const float*>(m.data)[at];
}

void store(const Matrix& m, int64_t i, int64_t j, double value) {
    const int64_t at = i * m.row + j * m.column;
    if (m.dtype == DType::kBF16)
        static_cast<bf16*>(m.data)[at] = bf16(static_cast<float>(value));
    else
        static_cast<float*>(m.data)[at] = static_cast<float>(value);
}

void multiply(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias) {
    for (const Matrix* m : {&c, &a, &b})
        simt::check_device_range(
            m->data,
            static_cast<size_t>(((m->rows - 1) * m->row + (m->columns - 1) * m->column + 1) * size_of(m->dtype)),
            "gemm");
    const Matrix biases{const_cast<void*>(bias), c.dtype, 1, c.columns, c.columns, 1};
    for (int64_t i = 0; i < c.rows; ++i) {
        for (int64_t j = 0; j < c.columns; ++j) {
            double sum = accumulate ? element(c, i, j) : 0.0;
            if (bias) sum += element(biases, 0, j);
            for (int64_t k = 0; k < a.columns; ++k) sum += element(a, i, k) * element(b, k, j);
            store(c, i, j, sum);
        }
        simt::mark_written(static_cast<char*>(c.data) + i * c.row * size_of(c.dtype),
                           static_cast<size_t>(c.columns * size_of(c.dtype)));
    }
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    simt::submit(exec.cuda->stream(), [=] { multiply(c, a, b, accumulate, bias); });
}

}  // namespace plimsoll::cuda
