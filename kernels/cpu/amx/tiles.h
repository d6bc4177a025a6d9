// bf16 products by AMX tiles: what a CPU with Intel's matrix extensions has, as functions of small blocks.
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

namespace plimsoll::cpu::amx {

inline constexpr int64_t kTileRows = 16;       // rows of a left tile, columns of a right one
inline constexpr int64_t kTileDepth = 32;      // how much of K a tile has
inline constexpr int64_t kTileElements = 512;  // of bf16
inline constexpr int64_t kBlock = 32;          // rows and columns of the blocks that multiply() makes: 2 by 2 tiles

// Whether this CPU has AMX for bf16 and AVX-512, and the operating system lets this process use it (asked for once).
// PLIMSOLL_AMX=0 in the environment answers no.
bool available();

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

// 32 rows of a left operand: row r of tile t begins at data + (r / 16) * down + (r % 16) * row + t * next.
struct Left {
    const bf16* data;
    int64_t row, down, next;
};
// 32 columns of a right operand in packed tiles: tile t of columns 16 j .. is at data + j * across + t * next.
struct Right {
    const bf16* data;
    int64_t across, next;
};

// Operands by reference: copies on the stack would wait for the tiles stored before them.
// c (32, 32) = a b, or += for `accumulate`: `depth` tiles of K, in ascending order. c's rows are c_row apart.
void multiply(float* c, int64_t c_row, const Left& a, const Right& b, int64_t depth, bool accumulate);

// What becomes of a block of sums.
enum class BlockStore : uint8_t {
    kWrite,
    kAdd,
    kStream,  // written past the caches, where lines are whole: others see it when the TileScope ends
};

// to (rows, columns) = block + bias, or += for kAdd; rows of `to` are to_row apart, those of `block` block_row. bias
// may be null. At most 32 columns.
template <class T>
void store_block(T* to, int64_t to_row, const float* block, int64_t block_row, int64_t rows, int64_t columns,
                 const float* bias, BlockStore how);

}  // namespace plimsoll::cpu::amx
