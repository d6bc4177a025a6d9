// Tiles in shared memory as TMA writes and wgmma reads them.
//
// A tile of kRows x kColumns bf16 is kBoxes boxes side by side, one behind the other in memory. Rows of a box have
// kSwizzle bytes; their 16-byte units are permuted by the row (address bits 4 .. 6 ^= bits 7 .. 9 for 128 bytes, fewer
// for fewer), so that eight rows of one column lie in different banks. PTX ISA, "Asynchronous warpgroup level matrix
// shared memory layout" and "Swizzling modes".
#pragma once

#include <hopper.cuh>

namespace plimsoll::cuda {

template <int kRows, int kColumns>
struct SwizzledTile {
    static_assert(kRows % 8 == 0 && kColumns % 16 == 0);
    // The longest rows that divide a tile's. A box narrower than its tile's remainder is no layout wgmma knows.
    static constexpr int kSwizzle = kColumns % 64 == 0 ? 128 : kColumns % 32 == 0 ? 64 : 32;
    static constexpr int kBoxColumns = kSwizzle / 2, kBoxes = kColumns / kBoxColumns;
    static constexpr int kBytes = kRows * kColumns * 2;

    uint8_t* data;  // 1024-byte aligned

    // Where element (row, column) is, with column a multiple of 8: 16 bytes are together.
    PLIMSOLL_DEVICE uint8_t* at(int row, int column) const {
        const int offset = column / kBoxColumns * kRows * kSwizzle + row * kSwizzle + column % kBoxColumns * 2;
        return data + (offset ^ (offset >> 7 & (kSwizzle / 16 - 1)) << 4);
    }
    // An operand whose rows or columns are this tile's rows from row0 on (a multiple of 8), reduced over 16 columns
    // from `column` on: K-major.
    PLIMSOLL_DEVICE uint64_t k_major(int row0, int column) const {
        const int offset = column / kBoxColumns * kRows * kSwizzle + row0 * kSwizzle + column % kBoxColumns * 2;
        return descriptor(offset, 16);
    }
    // An operand whose rows or columns are this tile's columns, reduced over 16 rows from row0 on: MN-major,
    // "transposed".
    PLIMSOLL_DEVICE uint64_t mn_major(int row0) const { return descriptor(row0 * kSwizzle, kRows * kSwizzle); }

  private:
    // PTX ISA, "Matrix descriptor format". leading: bytes from box to box, not used K-major; 8 rows are 8 kSwizzle
    // bytes.
    PLIMSOLL_DEVICE uint64_t descriptor(int offset, int leading) const {
        constexpr uint64_t kMode = kSwizzle == 128 ? 1 : kSwizzle == 64 ? 2 : 3;
        const uint64_t start = device::shared_address(data + offset) >> 4 & 0x3fff;
        return start | static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(8 * kSwizzle >> 4) << 32 |
               kMode << 62;
    }
};

}  // namespace plimsoll::cuda
