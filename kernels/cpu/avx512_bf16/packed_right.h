// The right operand of bf16 products, packed in tiles.
#pragma once

#include "kernels/cpu/avx512_bf16/blocks.h"
#include "kernels/cpu/ranges.h"
#include "kernels/matrix.h"

namespace plimsoll::cpu::avx512_bf16 {

// To whole blocks.
constexpr int64_t padded(int64_t n) {
    return round_up(n, kBlock);
}

// Where an element of a bf16 matrix is.
inline const bf16* element(const Matrix& m, int64_t i, int64_t j) {
    return static_cast<const bf16*>(m.data) + i * m.row + j * m.column;
}

// A part of b (K, N) in packed tiles: those of 32 columns follow each other along K, as two rows of tiles.
class PackedRight {
  public:
    // Of these columns and this range of K, in memory of elements() bf16 that is 64-byte aligned; pack() fills it.
    PackedRight(const Matrix& b, bf16* to, Range columns, Range depth)
        : b_(b), data_(to), columns_(columns), depth_(depth) {}
    // All of b.
    PackedRight(const Matrix& b, bf16* to) : PackedRight(b, to, {0, b.columns}, {0, b.rows}) {}
    static constexpr int64_t elements(int64_t columns, int64_t depth) { return padded(columns) * padded(depth); }
    static constexpr int64_t elements(const Matrix& b) { return elements(b.columns, b.rows); }

    Range columns() const { return columns_; }
    Range depth() const { return depth_; }
    // Packing is done in units, in the order of memory: 32 rows of K, or columns. Every unit once, by any threads.
    int64_t units() const { return parts(by_depth() ? depth_.count : columns_.count, kBlock); }
    void pack(int64_t unit) const {
        if (by_depth())
            for (int64_t block = 0; block < parts(columns_.count, kBlock); ++block) pack(block, unit);
        else
            for (int64_t tile = 0; tile < parts(depth_.count, kTileDepth); ++tile) pack(unit, tile);
    }
    // The 32 columns from `column` of b on, from `k` of K on.
    Right at(int64_t column, int64_t k) const {
        const int64_t block = (column - columns_.begin) / kBlock, tile = (k - depth_.begin) / kTileDepth;
        return {data_ + 2 * block * row() + tile * kTileElements, row(), kTileElements};
    }

  private:
    bool by_depth() const { return b_.column == 1; }
    int64_t row() const { return parts(depth_.count, kTileDepth) * kTileElements; }
    void pack(int64_t block, int64_t tile) const {
        const Range n = range(block, kBlock, columns_.count), k = range(tile, kTileDepth, depth_.count);
        bf16* const to = data_ + 2 * block * row() + tile * kTileElements;
        const bf16* const from = element(b_, depth_.begin + k.begin, columns_.begin + n.begin);
        by_depth() ? pack_right(to, row(), from, b_.row, k.count, n.count)
                   : pack_right_turned(to, row(), from, b_.column, n.count, k.count);
    }

    Matrix b_;
    bf16* data_;
    Range columns_, depth_;
};

}  // namespace plimsoll::cpu::avx512_bf16
