// Sums over rows with heads, by the host's threads: the gradients of what all rows share.
#pragma once

#include <algorithm>

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"
#include "kernels/exec.h"

namespace plimsoll::cpu {

inline constexpr int64_t kRowSlots = 64;

// Calls add(n, h, sums) for heads 0 .. H - 1 of rows 0 .. N - 1 in kRowSlots fixed ranges, each with sums of its own,
// `width` elements; returns their total. `work`: elements read, for worth_threads.
template <class R, class Add>
R* sum_rows(int64_t N, int64_t H, int64_t width, int64_t work, const Exec& exec, Add&& add) {
    const int64_t slot_rows = std::max<int64_t>(1, (N + kRowSlots - 1) / kRowSlots);
    const int64_t slots = std::max<int64_t>(1, (N + slot_rows - 1) / slot_rows);
    R* const sums = workspace<struct RowSlots, R>(slots * width);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(work))
    for (int64_t slot = 0; slot < slots; ++slot) {
        R* const own = sums + slot * width;
        std::fill_n(own, width, R(0));
        for (int64_t n = slot * slot_rows; n < std::min(N, (slot + 1) * slot_rows); ++n)
            for (int64_t h = 0; h < H; ++h) add(n, h, own);
    }
    for (int64_t slot = 1; slot < slots; ++slot) {
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) sums[c] += sums[slot * width + c];
    }
    return sums;
}

template <class R>
void write_sums(const Tensor& to, const R* sums, Write write) {
    R* const out = to.ptr<R>();
    for (int64_t c = 0; c < to.elements(); ++c) out[c] = write == Write::kAccumulate ? out[c] + sums[c] : sums[c];
}

}  // namespace plimsoll::cpu
