// bf16 in tiles: what Intel's matrix extensions (AMX) multiply, and vectors (AVX512_BF16) where a CPU has no AMX.
//
// A tile register holds 16 rows of 64 bytes. One instruction adds to a tile of fp32 (16, 16) the product of a left tile
// of bf16 (16 rows, 32 of K) and a right one (32 of K, 16 columns), whose element (k, n) lies at [k / 2][n][k % 2].
// A packed tile is kTileElements elements in that order, 64-byte aligned. Operands: Intel 64 and IA-32 Architectures
// Software Developer's Manual, volume 1, chapter 18; results are rounded to nearest, subnormals are zero.
//
// This header names no type of others' headers: its functions are compiled for AVX-512, and nothing inline may leak
// from there into code for any CPU.
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

inline constexpr int64_t kTileRows = 16;       // rows of a left tile, columns of a right one
inline constexpr int64_t kTileDepth = 32;      // how much of K a tile has
inline constexpr int64_t kTileElements = 512;  // of bf16
inline constexpr int64_t kBlock = 32;          // rows and columns of a block of sums (blocks.h): 2 by 2 tiles

// Whether this CPU has AVX-512 with AVX512_BF16: what is declared in this folder can be called. PLIMSOLL_AVX512=0 in
// the environment answers no.
bool available();
// Whether it also has AMX for bf16, and the operating system lets this process use it (asked for once): else vectors
// multiply what tiles would. PLIMSOLL_AMX=0 in the environment answers no.
bool has_tiles();
// Whether products in bf16 are faster than in fp32: with tiles, and on AMD's CPUs, whose vectors multiply bf16 twice as
// fast (measured on Zen 4, 464 against 232 GFLOP/s on two cores); Intel's without tiles do not.
bool is_fast();

// The calling thread's tile registers are set up while one of these lives. Cheap (tens of nanoseconds); does not nest.
class TileScope {
  public:
    TileScope();
    ~TileScope();
    TileScope(const TileScope&) = delete;
};

// Packing of 32 x 32 elements into two tiles, `apart` elements from one to the other. `from` has `rows` rows of
// `columns` contiguous elements (at most 32 of each), `stride` elements apart; what the tiles have beyond them is zero,
// and nothing beyond them is read. Right tiles of columns 0-15 and 16-31, from rows of K.
void pack_right(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns);
// The same, from rows of N.
void pack_right_turned(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns);
// Left tiles of rows 0-15 and 16-31, from rows of M.
void pack_left(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns);
// The same, from rows of K. `sums` (32), if not null, get the sums of the columns of `from` added, in fp32.
void pack_left_turned(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns,
                      float* sums = nullptr);

// The same from fp32, rounded to nearest.
void pack_left(bf16* to, int64_t apart, const float* from, int64_t stride, int64_t rows, int64_t columns);
void pack_left_turned(bf16* to, int64_t apart, const float* from, int64_t stride, int64_t rows, int64_t columns);

}  // namespace plimsoll::cpu::avx512_bf16
