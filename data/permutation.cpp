#include "data/permutation.h"

#include <algorithm>
#include <bit>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Four rounds of a random function give a pseudorandom permutation (Luby and Rackoff, 1988); twice that costs little
// and hides the small domains.
constexpr uint64_t kRounds = 8;

}  // namespace

KeyedPermutation::KeyedPermutation(int64_t n, uint64_t seed, std::string_view name, uint64_t epoch)
    : n_(static_cast<uint64_t>(n)),
      half_bits_(std::max(1, (static_cast<int>(std::bit_width(static_cast<uint64_t>(n) - 1)) + 1) / 2)),
      stream_(seed, "permutation", name, epoch) {
    check(n >= 1, "a permutation of {} numbers", n);
}

int64_t KeyedPermutation::operator()(int64_t index) const {
    uint64_t value = static_cast<uint64_t>(index);
    check(value < n_, "index {} outside a permutation of {} numbers", index, n_);
    do value = encrypt(value);
    while (value >= n_);
    return static_cast<int64_t>(value);
}

uint64_t KeyedPermutation::encrypt(uint64_t value) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
        const uint64_t mixed = left ^ (stream_.bits64(round << 32 | right) & mask);
        left = right;
        right = mixed;
    }
    return left << half_bits_ | right;
}

}  // namespace plimsoll
