// The tiles of attention's backward on sm_90a, two kernels without atomics.
#pragma once

#include "kernels/cuda/sm90/schedule.h"

namespace plimsoll::cuda {

// What is known of each query, kRowNumbers numbers, lies in tiles: (NH, tiles of kRowTile queries, kRowNumbers,
// kRowTile), so that one copy brings that of a tile. Rows are padded, to whole blocks of queries.
inline constexpr int kRowNumbers = 3, kRowTile = 64, kPaddedRows = 128;
constexpr int64_t padded_rows(int64_t N) {
    return (N + kPaddedRows - 1) / kPaddedRows * kPaddedRows;
}
// Where the first number of a query is; the others follow kRowTile behind one another.
constexpr int64_t row_at(int64_t head, int64_t i, int64_t N) {
    return kRowNumbers * (head * padded_rows(N) + i / kRowTile * kRowTile) + i % kRowTile;
}

// dQ: a block of two warpgroups of 64 queries each, which stay with their output gradients while tiles of `keys` keys
// and values pass in `stages` stages. Sums per thread: scores and dP keys / 2 each, their bf16 keys / 4, dQ HS / 2.
struct QueryGradientTile {
    int queries = 0, keys = 0, stages = 0;  // 0: there is no kernel for this head size

    constexpr bool exists() const { return queries > 0; }
    constexpr int tensor_bytes(int HS) const { return 4 * HS * (queries + stages * keys); }
    constexpr int registers(int HS) const { return keys + keys / 4 + HS / 2; }
};
constexpr QueryGradientTile query_gradient_tile(int64_t HS) {
    if (HS == 64) return {128, 128, 2};
    if (HS == 96) return {128, 96, 2};
    if (HS == 128) return {128, 80, 2};
    if (HS == 256) return {128, 32, 2};
    return {};
}

// dK and dV: a block of two warpgroups of 64 keys each, which stay with their values while tiles of `queries` queries
// and output gradients pass, and of three numbers for each query. Sums per thread: scores and dP queries / 2 each,
// their bf16 queries / 4 each, dK and dV HS / 2 each: too many for heads of 256.
struct KeyGradientTile {
    int keys = 0, stages = 0;  // 0: there is no kernel for this head size
    int queries = kRowTile;

    constexpr bool exists() const { return keys > 0; }
    constexpr int tensor_bytes(int HS) const { return 4 * HS * (keys + stages * queries) + row_bytes() * stages; }
    constexpr int row_bytes() const { return 4 * kRowNumbers * kRowTile; }  // of a stage
    constexpr int registers(int HS) const { return queries + queries / 2 + HS; }
};
constexpr KeyGradientTile key_gradient_tile(int64_t HS) {
    if (HS == 64) return {128, 3};
    if (HS == 96 || HS == 128) return {128, 2};
    return {};
}

}  // namespace plimsoll::cuda
