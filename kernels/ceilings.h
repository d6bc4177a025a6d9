// What this machine's processor and memory give at most, measured: the denominators of a roofline.
#pragma once

#include <cstdint>

namespace plimsoll {

// Of all threads together.
struct Ceilings {
    double bf16_products = 0;  // FLOP/s of bf16 blocks that are in registers and L1; 0 without AVX512_BF16
    double fp32 = 0;           // FLOP/s of fused multiply-adds in registers, in the widest vectors this CPU has
    double read = 0;           // bytes/s of a sum over memory far larger than the caches
    double triad = 0;          // bytes/s of a = b + s c there (STREAM's; the reading of lines before they are written
                               // is not counted)

    // FLOP/s of matrix products: without AVX512_BF16 bf16 operands are multiplied in fp32.
    double products(bool bf16) const { return bf16 && bf16_products > 0 ? bf16_products : fp32; }
    double memory() const { return read > triad ? read : triad; }
};

// Takes about two seconds. Best of several measurements. `memory` bytes are read and written; 0: twice the last cache,
// at most a quarter of the free memory.
Ceilings measure_ceilings(int threads, int64_t memory = 0);

}  // namespace plimsoll
