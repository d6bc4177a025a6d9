#include "train/stream_probe.h"

#include <gtest/gtest.h>

#include <map>

namespace plimsoll {
namespace {

std::map<std::string, double> metrics(std::vector<double> h, int64_t T, int64_t C) {
    std::map<std::string, double> found;
    for (const auto& [name, value] : stream_metrics(Tensor(h.data(), DType::kF64, {T, C}))) found[name] = value;
    return found;
}

TEST(StreamProbe, ComparesTokensWithTheFirst) {
    // |h_0| = 5, |h_1| = 10, |h_2| = 5; h_1.h_0 = 48, h_2.h_0 = -25.
    const auto found = metrics({3, 4, 8, 6, -3, -4}, 3, 2);
    EXPECT_DOUBLE_EQ(found.at("cosine_with_first"), (48.0 / 50 - 1) / 2);
    EXPECT_DOUBLE_EQ(found.at("residual_norm"), 5);
    EXPECT_DOUBLE_EQ(found.at("residual_peak"), -2.5);
    EXPECT_DOUBLE_EQ(found.at("residual_peak_ratio"), 5 / 7.5);
    EXPECT_DOUBLE_EQ(found.at("max_abs"), 8);
    EXPECT_DOUBLE_EQ(found.at("massive_at_first"), 0);
    // Whatever its length: a zero state has no direction.
    EXPECT_DOUBLE_EQ(metrics({3, 4, 0, 0, 300, 400}, 3, 2).at("cosine_with_first"), 0.5);
}

TEST(StreamProbe, KeepsTheKurtosisOfTheFirstTokenApart) {
    // Of (1, 1, -1, -1): 1 - 3. Of (3, -1, -1, -1): (81 + 3) / 4 / 9 - 3 = -2/3. Of (0, 0, 0, 0): none.
    const auto found = metrics({3, -1, -1, -1, 1, 1, -1, -1, 0, 0, 0, 0}, 3, 4);
    EXPECT_DOUBLE_EQ(found.at("kurtosis_first"), 84.0 / 36 - 3);
    EXPECT_DOUBLE_EQ(found.at("kurtosis_rest"), -1);
}

}  // namespace
}  // namespace plimsoll
