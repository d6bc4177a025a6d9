// Sums over rows with heads, by the host's threads: the gradients of what all rows share.
#pragma once

#include <algorithm>

#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"
#include "kernels/exec.h"

namespace plimsoll::cpu {

inline constexpr int64_t kRowSlots = 64;

// Rows 0 .. N - 1 in fixed ranges of one length, the last may be shorter: at most `most`, at least one.
struct Slots {
    int64_t N, rows, count;
    Slots(int64_t N, int64_t most)
        : N(N), rows(std::max<int64_t>(1, (N + most - 1) / most)), count(std::max<int64_t>(1, (N + rows - 1) / rows)) {}
    int64_t begin(int64_t slot) const { return slot * rows; }
    int64_t end(int64_t slot) const { return std::min(N, (slot + 1) * rows); }
};

// Calls add(n, h, sums) for heads 0 .. H - 1 of rows 0 .. N - 1 in kRowSlots fixed ranges, each with sums of its own,
// `width` elements; returns their total. `work`: elements read, for worth_threads.
template <class R, class Add>
R* sum_rows(int64_t N, int64_t H, int64_t width, int64_t work, const Exec& exec, Add&& add) {
    const Slots slots(N, kRowSlots);
    R* const sums = workspace<struct RowSlots, R>(slots.count * width);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(work))
    for (int64_t slot = 0; slot < slots.count; ++slot) {
        R* const own = sums + slot * width;
        std::fill_n(own, width, R(0));
        for (int64_t n = slots.begin(slot); n < slots.end(slot); ++n)
            for (int64_t h = 0; h < H; ++h) add(n, h, own);
    }
    for (int64_t slot = 1; slot < slots.count; ++slot) {
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
