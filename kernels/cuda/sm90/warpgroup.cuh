// Products of tiles by a warpgroup: 64 rows of sums, rows 16 w .. + 15 with warp w. In a warp lane l holds rows l / 4
// and l / 4 + 8; sums[4 c + e] is column 8 c + 2 (l % 4) + e % 2 of row l / 4 + 8 (e / 2) (native/wgmma.cuh).
#pragma once

#include "kernels/cuda/sm90/swizzled_tile.cuh"

namespace plimsoll::cuda {

inline constexpr int kGroupThreads = 128, kGroupRows = 64, kGroupWarps = 4;

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

// Row of the group's 64 that this lane's lower row is; the other is 8 behind.
PLIMSOLL_DEVICE int first_row_of_lane() {
    return static_cast<int>(threadIdx.x) / 32 % kGroupWarps * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}

// Has each warp write its 16 rows of tiles in shared memory, by write(its first row), once all warps of the group have
// read what was there; then bulk stores may read them. barrier: a named barrier of the group's own.
template <class F>
PLIMSOLL_DEVICE void write_group_rows(int barrier, F&& write) {
    device::named_barrier_sync(barrier, kGroupThreads);
    write(static_cast<int>(threadIdx.x) / 32 % kGroupWarps * 16);
    device::fence_proxy_async();
    device::named_barrier_sync(barrier, kGroupThreads);
}
// True in one thread of a group.
PLIMSOLL_DEVICE bool stores_for_group() {
    return static_cast<int>(threadIdx.x) / 32 % kGroupWarps == 0 && device::elect_one();
}
// Stores 64 rows of sums at `row` of a head, through a tile that nobody but this group reads, and has read by then.
// reusable: an mbarrier that is told when the tile may be written again.
template <int kColumns>
PLIMSOLL_DEVICE void store_group_rows(const device::TensorMap& map, int row, int head,
                                      SwizzledTile<kGroupRows, kColumns> tile, const float (&sums)[kColumns / 2],
                                      int lane, int barrier, device::Mbarrier& reusable) {
    write_group_rows(barrier, [&](int row0) { write_rows(tile, row0, sums, lane); });
    if (!stores_for_group()) return;
    device::tma_store(&map, tile.data, 0, row, 0, head);
    device::bulk_commit();
    device::bulk_wait_read<0>();
    device::mbarrier_arrive(&reusable);
}

}  // namespace plimsoll::cuda
