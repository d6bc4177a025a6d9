// Ranges of rows, columns or K, and how many of a size there are.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plimsoll::cpu {

// How many ranges of `size` hold n.
constexpr int64_t parts(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}
constexpr int64_t round_up(int64_t n, int64_t to) {
    return parts(n, to) * to;
}

struct Range {
    int64_t begin, count;
};
// The index-th range of `size`, of n.
constexpr Range range(int64_t index, int64_t size, int64_t n) {
    return {index * size, std::min(size, n - index * size)};
}

}  // namespace plimsoll::cpu
