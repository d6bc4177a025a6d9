// Products of blocks of 32 x 32, and what becomes of the sums. With AMX a core's tiles and its vectors work at the same
// time, as far as it sees the instructions of both: so a block is finished while the next one is multiplied, a few rows
// between two steps of K. Without, vectors multiply, and round in another order.
#pragma once

#include "kernels/cpu/avx512_bf16/tiles.h"

namespace plimsoll::cpu::avx512_bf16 {

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

// How a block of sums gets where it belongs.
enum class BlockStore : uint8_t {
    kWrite,
    kAdd,
    kStream,  // written past the caches, where lines are whole: others see it when the TileScope ends
};

// What follows element by element, in bf16: of the element, rounded, and the one of another matrix in its place.
enum class Following : uint8_t {
    kNothing,
    kRelu,  // other = f(element)
    kGelu,
    kReluInPlace,   // f(element) instead of element
    kReluGradient,  // element * f'(other), rounded again, instead of element
    kGeluGradient,
};

// What becomes of a block of sums (rows, columns; at most 32 of each): to = sums + bias, or +=, rounded to what `to`
// is, and what follows. Rows are *_row elements apart. A sum of squares runs in fp64, in an order that depends on
// nothing.
struct Finish {
    const float* sums = nullptr;
    int64_t sums_row = kBlock;
    int64_t rows = 0, columns = 0;
    const float* bias = nullptr;  // (columns), may be null
    float* wide = nullptr;        // where it belongs: one of both, the other one null
    bf16* narrow = nullptr;
    int64_t to_row = 0;
    double* squares = nullptr;  // gets the sum of squares of what `wide` gets, if it is not null
    BlockStore how = BlockStore::kWrite;
    Following following = Following::kNothing;  // else `how` is kWrite, to bf16
    bf16* other = nullptr;                      // may be what `narrow` is, for gradients
    int64_t other_row = 0;
};

void finish(const Finish& block);

// Operands by reference: copies on the stack would wait for the tiles stored before them.
// c (32, 32) = a b, or += for `accumulate`: `depth` tiles of K, in ascending order. c's rows are c_row apart.
// Meanwhile a block is finished, if `last` is not null, that shares no memory with operands and c.
void multiply(float* c, int64_t c_row, const Left& a, const Right& b, int64_t depth, bool accumulate,
              const Finish* last = nullptr);

}  // namespace plimsoll::cpu::avx512_bf16
