// Rows of a head in a tensor of any floating dtype, in double: for probes, interventions and analyses on the host.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/tensor.h"

namespace plimsoll {

// Element `index` of a tensor's memory.
inline double element(Tensor t, int64_t index) {
    switch (t.dtype) {
        case DType::kF64:
            return t.ptr<double>()[index];
        case DType::kBF16:
            return static_cast<float>(t.ptr<bf16>()[index]);
        default:
            return t.ptr<float>()[index];
    }
}

// Rounds `value` to the dtype.
inline void set_element(Tensor t, int64_t index, double value) {
    switch (t.dtype) {
        case DType::kF64:
            t.ptr<double>()[index] = value;
            break;
        case DType::kBF16:
            t.ptr<bf16>()[index] = bf16(static_cast<float>(value));
            break;
        default:
            t.ptr<float>()[index] = static_cast<float>(value);
    }
}

// Head `head` of (N, H, HS) for tokens begin .. begin + n - 1, as (n, HS).
inline Tensor head_rows(Tensor t, int64_t head, int64_t begin, int64_t n) {
    const int64_t HS = t.shape[2];
    Tensor rows(static_cast<char*>(t.data) + (begin * t.row_stride + head * HS) * size_of(t.dtype), t.dtype, {n, HS},
                t.device);
    rows.row_stride = t.row_stride;
    return rows;
}

inline double row_norm(Tensor t, int64_t row) {
    double sum = 0;
    for (int64_t c = 0; c < t.shape[1]; ++c) sum += std::pow(element(t, row * t.row_stride + c), 2);
    return std::sqrt(sum);
}

inline double row_dot(Tensor a, int64_t i, Tensor b, int64_t j) {
    double sum = 0;
    for (int64_t c = 0; c < a.shape[1]; ++c) sum += element(a, i * a.row_stride + c) * element(b, j * b.row_stride + c);
    return sum;
}

// A mean that knows when nothing was added.
struct Mean {
    double sum = 0;
    int64_t count = 0;
    void add(double value) { sum += value, ++count; }
    double value() const { return count ? sum / static_cast<double>(count) : std::nan(""); }
};

}  // namespace plimsoll
