#include "data/permutation.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

std::vector<int64_t> images(int64_t n, uint64_t seed, uint64_t epoch) {
    const KeyedPermutation permutation(n, seed, "test", epoch);
    std::vector<int64_t> result;
    for (int64_t i = 0; i < n; ++i) result.push_back(permutation(i));
    return result;
}

TEST(KeyedPermutation, IsABijectionForEverySizeUpTo300AndForOddLargeOnes) {
    std::vector<int64_t> sizes{1023, 1024, 1025, 4097, 99991};
    for (int64_t n = 1; n <= 300; ++n) sizes.push_back(n);
    for (const int64_t n : sizes) {
        std::vector<bool> seen(static_cast<size_t>(n), false);
        for (const int64_t image : images(n, 7, 3)) {
            ASSERT_TRUE(image >= 0 && image < n) << "n = " << n;
            ASSERT_FALSE(seen[static_cast<size_t>(image)]) << "n = " << n << ", twice " << image;
            seen[static_cast<size_t>(image)] = true;
        }
    }
}

TEST(KeyedPermutation, DependsOnEverythingInItsKey) {
    const auto base = images(101, 1, 0);
    EXPECT_EQ(base, images(101, 1, 0));
    EXPECT_NE(base, images(101, 1, 1));
    EXPECT_NE(base, images(101, 2, 0));
    const KeyedPermutation other_name(101, 1, "other", 0);
    std::vector<int64_t> other;
    for (int64_t i = 0; i < 101; ++i) other.push_back(other_name(i));
    EXPECT_NE(base, other);
}

// Over 2,000 keys each of the 7 x 7 (index, image) pairs is expected 286 times with a standard deviation of 15.6; five
// of them bound all 49 pairs with a chance of error below 1 in 30,000, and the keys are fixed.
TEST(KeyedPermutation, SendsEachIndexEverywhereEquallyOften) {
    std::vector<int> counts(49, 0);
    for (uint64_t epoch = 0; epoch < 2000; ++epoch) {
        const auto image = images(7, 5, epoch);
        for (size_t i = 0; i < 7; ++i) ++counts[i * 7 + static_cast<size_t>(image[i])];
    }
    for (const int count : counts) EXPECT_NEAR(count, 2000.0 / 7, 78.0);
}

TEST(KeyedPermutation, WorksBeyondThirtyTwoBits) {
    const int64_t n = (int64_t{1} << 40) + 1;
    const KeyedPermutation permutation(n, 1, "test", 0);
    for (const int64_t index : {int64_t{0}, int64_t{1}, n - 1}) {
        EXPECT_GE(permutation(index), 0);
        EXPECT_LT(permutation(index), n);
    }
    EXPECT_NE(permutation(0), permutation(n - 1));
}

TEST(KeyedPermutation, RefusesAnIndexOutside) {
    expect_error(ExitCode::kInternal, {"index 5 outside a permutation of 5"},
                 [] { KeyedPermutation(5, 1, "test", 0)(5); });
    expect_error(ExitCode::kInternal, {"permutation of 0"}, [] { KeyedPermutation(0, 1, "test", 0); });
}

}  // namespace
}  // namespace plimsoll
