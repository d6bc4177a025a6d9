// A keyed permutation of 0 .. n-1 that needs no table.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/random.h"

namespace plimsoll {

// Shuffles indices without storing them: each number in [0, n) maps to another, all different, chosen by (seed, name,
// epoch). A balanced Feistel network over the next even number of bits, whose round function is Philox; a result
// outside [0, n) is fed back until it falls inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", CT-RSA 2002), fewer than 4 times on average. Equal keys give the same permutation on every machine.
class KeyedPermutation {
  public:
    // Requires n >= 1.
    KeyedPermutation(int64_t n, uint64_t seed, std::string_view name, uint64_t epoch);
    // Requires 0 <= index < n.
    int64_t operator()(int64_t index) const;

  private:
    uint64_t encrypt(uint64_t value) const;

    uint64_t n_;
    int half_bits_;
    RandomStream stream_;
};

}  // namespace plimsoll
