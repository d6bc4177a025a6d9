// How far a result may lie from an oracle in double, and types of ops under test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels/dtype.h"

namespace plimsoll {

using AllFloats = testing::Types<double, float, bf16>;
using WideFloats = testing::Types<double, float>;

// The relative error of one rounding of arithmetic on T.
template <class T>
inline constexpr double kRounding = std::is_same_v<Accumulator<T>, double> ? 0x1p-53 : 0x1p-24;

// Half a unit in the last place of T as storage, where that is coarser than arithmetic: bf16 keeps 8 bits.
template <class T>
double storage_error(double value) {
    return std::is_same_v<T, bf16> ? std::abs(value) * 0x1p-8 : 0;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
    std::vector<double> result;
    for (const T value : values) result.push_back(static_cast<double>(static_cast<Accumulator<T>>(value)));
    return result;
}

// Expects |actual - expected| <= roundings * kRounding * (magnitude + |expected|) + storage error. `magnitude`: of the
// intermediate results whose roundings reach the end (1 for normal inputs unless they cancel).
template <class T>
void expect_close(const std::vector<T>& actual, const std::vector<double>& expected, double roundings, const char* name,
                  double magnitude = 1) {
    ASSERT_EQ(actual.size(), expected.size()) << name;
    for (size_t i = 0; i < actual.size(); ++i) {
        const double arithmetic = roundings * kRounding<T> * (magnitude + std::abs(expected[i]));
        EXPECT_NEAR(static_cast<double>(static_cast<Accumulator<T>>(actual[i])), expected[i],
                    arithmetic + storage_error<T>(std::abs(expected[i]) + arithmetic))
            << name << "[" << i << "]";
    }
}

// Expects finite values whose distance from the wanted ones is at most `tolerance` times their size: both are Euclidean
// norms. `terms`: the norm of terms that may cancel in them, added to the size.
inline void expect_near(const std::vector<double>& seen, const std::vector<double>& wanted, double tolerance,
                        const char* name, double terms = 0) {
    ASSERT_EQ(seen.size(), wanted.size());
    double difference = 0, size = terms * terms;
    for (size_t i = 0; i < seen.size(); ++i) {
        difference += std::pow(seen[i] - wanted[i], 2), size += std::pow(wanted[i], 2);
        ASSERT_TRUE(std::isfinite(seen[i])) << name << "[" << i << "]";
    }
    EXPECT_LE(std::sqrt(difference), tolerance * (std::sqrt(size) + 1e-6)) << name;
}

// |a - b| / |b| in the Euclidean norm, of vectors or spans; 0 where they are equal.
template <class A, class B>
double relative_l2(const A& a, const B& b) {
    EXPECT_EQ(a.size(), b.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        const double wanted = static_cast<double>(b[i]), distance = static_cast<double>(a[i]) - wanted;
        difference += distance * distance, size += wanted * wanted;
    }
    return difference == 0 ? 0 : std::sqrt(difference / size);
}

// Equality of bits, so that NaNs and signs of zero count.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    if (a.size() != b.size()) return false;
    const auto* left = reinterpret_cast<const unsigned char*>(a.data());
    const auto* right = reinterpret_cast<const unsigned char*>(b.data());
    return std::equal(left, left + a.size() * sizeof(T), right);
}

}  // namespace plimsoll
