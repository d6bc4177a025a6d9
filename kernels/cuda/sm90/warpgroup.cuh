// Products of tiles by a warpgroup: 64 rows of sums, rows 16 w .. + 15 with warp w. In a warp lane l holds rows l / 4
// and l / 4 + 8; sums[4 c + e] is column 8 c + 2 (l % 4) + e % 2 of row l / 4 + 8 (e / 2) (native/wgmma.cuh).
#pragma once

#include "kernels/cuda/sm90/swizzled_tile.cuh"

namespace plimsoll::cuda {

inline constexpr int kGroupThreads = 128, kGroupRows = 64;

// Sums of 64 rows and kColumns columns, as operand a of the next product: rounded to bf16, in steps of 16 columns.
template <int kColumns>
struct RoundedRows {
    uint32_t step[kColumns / 16][4];

    PLIMSOLL_DEVICE void assign(const float (&sums)[kColumns / 2]) {
#pragma unroll
        for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i) step[k][i] = device::pack_bf16(sums[8 * k + 2 * i], sums[8 * k + 2 * i + 1]);
    }
};

// Starts sums (64, kRows) = rows of `a` times all rows of `b`, transposed. Needs wgmma_fence() before, and closes a
// group.
template <int kRowsOfA, int kRows, int kColumns>
PLIMSOLL_DEVICE void start_transposed_product(float (&sums)[kRows / 2], SwizzledTile<kRowsOfA, kColumns> a, int row0,
                                              SwizzledTile<kRows, kColumns> b) {
#pragma unroll
    for (int k = 0; k < kColumns; k += 16)
        device::wgmma_shared<false, false>(sums, a.k_major(row0, k), b.k_major(0, k), k > 0);
    device::wgmma_commit();
}

// Starts sums (64, kColumns) += a b. `a` must stay as it is until the product is waited for.
template <int kRows, int kColumns>
PLIMSOLL_DEVICE void start_product(float (&sums)[kColumns / 2], const RoundedRows<kRows>& a,
                                   SwizzledTile<kRows, kColumns> b) {
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k) device::wgmma_registers<true>(sums, a.step[k], b.mn_major(16 * k), true);
    device::wgmma_commit();
}

// Writes a warp's 16 rows, rounded to bf16, into rows row0 .. + 15 of a tile.
template <int kRows, int kColumns>
PLIMSOLL_DEVICE void write_rows(SwizzledTile<kRows, kColumns> to, int row0, const float (&sums)[kColumns / 2],
                                int lane) {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
        uint32_t r[4];  // 8 x 8 each: upper and lower rows of columns 0 .. 7, then of 8 .. 15
#pragma unroll
        for (int i = 0; i < 4; ++i) r[i] = device::pack_bf16(sums[8 * k + 2 * i], sums[8 * k + 2 * i + 1]);
        device::stmatrix_x4(to.at(row0 + lane % 8 + lane / 8 % 2 * 8, 16 * k + lane / 16 * 8), r);
    }
}

}  // namespace plimsoll::cuda
