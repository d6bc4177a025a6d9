#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"

namespace plimsoll::cpu {

void decorrelation_backward(Tensor dh, Tensor sum, Tensor squares, Tensor h, std::span<const int32_t> positions,
                            double scale, const Exec& exec) {
    const int64_t N = h.shape[0], C = h.shape[1];
    const auto run = [&]<class R>() {
        const auto dot = [&](const R* a, const R* b) { return lane_sum<R>(C, [&](int64_t c) { return a[c] * b[c]; }); };
        R* const square = squares.ptr<R>();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * C))
        for (int64_t n = 0; n < N; ++n) {
            const int64_t s = n - positions[static_cast<size_t>(n)];
            const R *row = h.ptr<R>() + n * C, *first = h.ptr<R>() + s * C;
            square[n] = 0;
            if (n == s) continue;
            const R own = dot(row, row), product = std::sqrt(own) * std::sqrt(dot(first, first));
            if (!(product > 0)) continue;
            const R cosine = dot(row, first) / product, factor = static_cast<R>(2 * scale) * cosine;
            const R of_first = factor / product, of_row = -factor * cosine / own;
            square[n] = cosine * cosine;
            R* to = dh.ptr<R>() + n * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) to[c] += of_first * first[c] + of_row * row[c];
        }
        double total = 0;  // N additions: not worth threads
        for (int64_t n = 0; n < N; ++n) total += static_cast<double>(square[n]);
        *sum.ptr<double>() += total;
    };
    if (h.dtype == DType::kF64) return run.template operator()<double>();
    run.template operator()<float>();
}

}  // namespace plimsoll::cpu
