// What the instructions of hopper.cuh should give, element by element: shares nothing with tiles and the emulator.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "simt/conformance.h"

namespace plimsoll {

// out (64, N) = a (64, K) b (N, K)^T of bf16 words, a first.
inline std::vector<double> expected_product(const std::vector<uint32_t>& in, size_t N, size_t K) {
    const auto number = [&](size_t i) {
        return static_cast<double>(std::bit_cast<float>((in[i / 2] >> 16 * (i % 2)) << 16));
    };
    std::vector<double> out;
    for (size_t i = 0; i < 64; ++i)
        for (size_t n = 0; n < N; ++n) {
            double sum = 0;
            for (size_t k = 0; k < K; ++k) sum += number(i * K + k) * number(64 * K + n * K + k);
            out.push_back(sum);
        }
    return out;
}

// Rows -8 .. 23 of head 1 of a tensor (20, 3, HS), zeros where there are none; then its first 64 words.
inline std::vector<uint32_t> expected_load(const std::vector<uint32_t>& in, int HS) {
    std::vector<uint32_t> out;
    for (int row = -8; row < 24; ++row)
        for (int i = 0; i < HS / 2; ++i)
            out.push_back(row < 0 || row >= 20 ? 0 : in[static_cast<size_t>((row * 3 + 1) * HS / 2 + i)]);
    out.insert(out.end(), in.begin(), in.begin() + 64);
    return out;
}

// A tensor (40, 2, HS) of ones in every bit, with the first 30 of 64 rows in rows 10 .. 39 of head 1.
inline std::vector<uint32_t> expected_store(const std::vector<uint32_t>& in, int HS) {
    std::vector<uint32_t> out;
    for (int row = 0; row < 40; ++row)
        for (int head = 0; head < 2; ++head)
            for (int i = 0; i < HS / 2; ++i)
                out.push_back(row < 10 || head == 0 ? ~0u : in[static_cast<size_t>((row - 10) * HS / 2 + i)]);
    return out;
}

}  // namespace plimsoll
