// Sines and cosines of rotary position embedding.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll::cpu {

// Rows of cos (half), sin (half) of position * frequency, for positions 0 .. at least `positions` - 1; half =
// frequencies.size(). Kept by the calling thread until it asks with other frequencies, and grown by doubling: a sine in
// fp64 costs as much as rotating a hundred pairs, and a model asks for the same table in every layer.
template <class R>
const R* rotations(int64_t positions, std::span<const double> frequencies) {
    thread_local std::vector<R> table;
    thread_local std::vector<double> kept;
    if (!std::equal(kept.begin(), kept.end(), frequencies.begin(), frequencies.end())) {
        kept.assign(frequencies.begin(), frequencies.end());
        table.clear();
    }
    const auto half = static_cast<int64_t>(frequencies.size());
    const int64_t have = half ? static_cast<int64_t>(table.size()) / (2 * half) : positions;
    if (positions <= have) return table.data();
    const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(positions, 256))));
    table.resize(static_cast<size_t>(rows * 2 * half));
    for (int64_t c = 0; c < half; ++c) {
        for (int64_t p = have; p < rows; ++p) {
            const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(c)];
            table[static_cast<size_t>(p * 2 * half + c)] = static_cast<R>(std::cos(angle));
            table[static_cast<size_t>((p * 2 + 1) * half + c)] = static_cast<R>(std::sin(angle));
        }
    }
    return table.data();
}

}  // namespace plimsoll::cpu
