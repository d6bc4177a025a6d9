// Takes cuBLASLt's place in the emulated build: the product by the definition, sums in double, rounded once.
#include <cmath>
#include <numbers>

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

// 0.5 x (1 + tanh u), and its slope.
double gelu(double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double gelu_slope(double x) {
    constexpr double kStep = 1e-4;
    return (gelu(x + kStep) - gelu(x - kStep)) / (2 * kStep);
}

void check_matrix(const Matrix& m) {
    const int64_t elements = (m.rows - 1) * m.row + (m.columns - 1) * m.column + 1;
    simt::check_device_range(m.data, static_cast<size_t>(elements * size_of(m.dtype)), "gemm");
}

void mark_row(const Matrix& m, int64_t i) {
    simt::mark_written(static_cast<char*>(m.data) + i * m.row * size_of(m.dtype),
                       static_cast<size_t>(m.columns * size_of(m.dtype)));
}

void multiply(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& e) {
    for (const Matrix* m : {&c, &a, &b}) check_matrix(*m);
    if (e.before.data) check_matrix(e.before);
    const Matrix biases{const_cast<void*>(e.bias), c.dtype, 1, c.columns, c.columns, 1};
    const Matrix gradients{e.bias_gradient, c.dtype, 1, c.rows, c.rows, 1};
    for (int64_t i = 0; i < c.rows; ++i) {
        for (int64_t j = 0; j < c.columns; ++j) {
            double sum = accumulate ? element(c, i, j) : 0.0;
            if (e.bias) sum += element(biases, 0, j);
            for (int64_t k = 0; k < a.columns; ++k) sum += element(a, i, k) * element(b, k, j);
            if (e.kind == Epilogue::Kind::kGelu) {
                store(e.before, i, j, sum);
                sum = gelu(sum);
            }
            if (e.kind == Epilogue::Kind::kGeluGradient) sum *= gelu_slope(element(e.before, i, j));
            store(c, i, j, sum);
        }
        mark_row(c, i);
        if (e.kind == Epilogue::Kind::kGelu) mark_row(e.before, i);
        if (e.kind != Epilogue::Kind::kBiasGradient) continue;
        double sum = 0;
        for (int64_t k = 0; k < a.columns; ++k) sum += element(a, i, k);
        store(gradients, 0, i, sum);
    }
    if (e.kind == Epilogue::Kind::kBiasGradient) mark_row(gradients, 0);
}

}  // namespace

std::string gemm_library() {
    return "reference";
}

bool gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& epilogue, const Exec& exec) {
    simt::submit(exec.cuda->stream(), [=] { multiply(c, a, b, accumulate, epilogue); });
    return true;
}

}  // namespace plimsoll::cuda
