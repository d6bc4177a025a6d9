// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), keyed by what the number is for.
//
// A number is a pure function of (seed, purpose, name, step, index): it depends on no earlier draw, no thread and no
// rank, so every attention variant starts from bit-equal shared weights and reads bit-equal data.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace plimsoll {

// FNV-1a, 64 bit: turns a tensor or stream name into part of a key.
constexpr uint64_t hash_name(std::string_view text) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return hash;
}

constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{kMul0} * counter[0];
        const uint64_t p1 = uint64_t{kMul1} * counter[2];
        counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
                   static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
        key = {key[0] + kWeyl0, key[1] + kWeyl1};
    }
    return counter;
}

// One stream of random numbers. `purpose` and `name` say what it is for ("init", "blocks.0.mlp.up.weight").
class RandomStream {
  public:
    constexpr RandomStream(uint64_t seed, std::string_view purpose, std::string_view name = "", uint64_t step = 0)
        : step_(step) {
        const uint64_t mixed =
            seed * 0x9E3779B97F4A7C15ull ^ hash_name(purpose) ^ (hash_name(name) * 0xff51afd7ed558ccdull);
        key_ = {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
    }
    // Four independent 32-bit numbers for an index.
    constexpr std::array<uint32_t, 4> bits(uint64_t index) const {
        return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                           static_cast<uint32_t>(step_), static_cast<uint32_t>(step_ >> 32)},
                          key_);
    }
    constexpr uint64_t bits64(uint64_t index) const {
        const auto b = bits(index);
        return uint64_t{b[0]} | uint64_t{b[1]} << 32;
    }
    // Uniform in [0, 1), 53 bits.
    constexpr double uniform(uint64_t index) const { return static_cast<double>(bits64(index) >> 11) * 0x1.0p-53; }
    // Standard normal by Box-Muller, in double, from one counter value.
    double normal(uint64_t index) const {
        const auto b = bits(index);
        const double u1 = (static_cast<double>((uint64_t{b[0]} | uint64_t{b[1]} << 32) >> 11) + 1.0) * 0x1.0p-53;
        const double u2 = static_cast<double>((uint64_t{b[2]} | uint64_t{b[3]} << 32) >> 11) * 0x1.0p-53;
        return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
    }
    // Integer in [0, n), n > 0 (multiply-shift; bias below n / 2^64).
    constexpr uint64_t below(uint64_t index, uint64_t n) const {
        return static_cast<uint64_t>((static_cast<unsigned __int128>(bits64(index)) * n) >> 64);
    }

  private:
    std::array<uint32_t, 2> key_{};
    uint64_t step_;
};

}  // namespace plimsoll
