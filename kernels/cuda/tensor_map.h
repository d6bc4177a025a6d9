// Tensor maps: what TMA needs to know of a tensor and of the box that is copied at a time.
#pragma once

#include <tensor_map_type.h>

#include <cstdint>

#include "kernels/error.h"

namespace plimsoll::cuda {

// A map of rank 4 over bf16, dimension 0 the fastest. stride in bytes, stride[0] is an element's.
struct TensorMapSpec {
    const void* base;
    uint64_t size[4], stride[4];
    uint32_t box[4];
    uint32_t swizzle_bytes;
};

// Tiles of `tile_rows` rows of one head of a tensor (rows, heads, HS) with a stride between rows (in elements), in the
// layout of SwizzledTile<tile_rows, HS>. A tile from row n of head h on is the box at (0, n, 0, h); rows that are not
// there are zeros when loaded, and not stored.
inline TensorMapSpec head_tiles(const void* base, int64_t rows, int64_t heads, int64_t HS, int64_t row_stride,
                                int tile_rows) {
    const int64_t columns = HS % 64 == 0 ? 64 : HS % 32 == 0 ? 32 : 16;
    check(reinterpret_cast<uintptr_t>(base) % 16 == 0 && row_stride % 8 == 0 && HS % columns == 0,
          "a tensor map wants 16-byte aligned rows, got rows of {} elements, heads of {}", row_stride, HS);
    check(tile_rows >= 1 && tile_rows <= 256 && HS / columns <= 256 && rows >= 1 && heads >= 1,
          "a tensor map of {} rows and {} heads in boxes of {} rows", rows, heads, tile_rows);
    check(row_stride < int64_t{1} << 39, "a tensor map: a row stride of {} elements", row_stride);
    const auto bytes = [](int64_t elements) { return static_cast<uint64_t>(2 * elements); };
    const auto count = [](int64_t n) { return static_cast<uint64_t>(n); };
    return {base,
            {count(columns), count(rows), count(HS / columns), count(heads)},
            {2, bytes(row_stride), bytes(columns), bytes(HS)},
            {static_cast<uint32_t>(columns), static_cast<uint32_t>(tile_rows), static_cast<uint32_t>(HS / columns), 1},
            static_cast<uint32_t>(2 * columns)};
}

// Throws Error if the driver refuses.
device::TensorMap make_tensor_map(const TensorMapSpec& spec);

}  // namespace plimsoll::cuda
