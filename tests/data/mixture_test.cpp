#include "data/mixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

TEST(Mixture, IndexIsTheNumberOfEarlierSamplesOfThatSource) {
    for (const std::vector<double>& weights : {std::vector<double>{1.0},
                                               {0.5, 0.5},
                                               {0.7, 0.2, 0.1},
                                               {1.0, 1.0, 1.0},
                                               {1e-4, 3.0},
                                               {0.3, 0.1, 0.25, 0.35}}) {
        const Mixture mixture(weights);
        std::vector<int64_t> counts(weights.size(), 0);
        for (int64_t sample = 0; sample < 5000; ++sample) {
            for (size_t s = 0; s < weights.size(); ++s) {
                ASSERT_EQ(mixture.count(static_cast<int64_t>(s), sample), counts[s])
                    << "source " << s << " at " << sample;
            }
            const Mixture::Place place = mixture.place(sample);
            ASSERT_EQ(place.index, counts[static_cast<size_t>(place.source)]++) << "sample " << sample;
        }
    }
}

TEST(Mixture, KeepsEachShareToWithinOneSamplePerEarlierSource) {
    const std::vector<double> weights{3.0, 1.0, 5.0, 1.0};
    const Mixture mixture(weights);
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int64_t samples = 1; samples < 3000; ++samples) {
        for (size_t s = 0; s < weights.size(); ++s) {
            const double expected = weights[s] / total * static_cast<double>(samples);
            const double count = static_cast<double>(mixture.count(static_cast<int64_t>(s), samples));
            ASSERT_LE(std::abs(count - expected), static_cast<double>(s) + 1.0)
                << "source " << s << " after " << samples;
        }
    }
}

TEST(Mixture, RefusesWeightsThatAreNotPositive) {
    for (const double weight : {0.0, -1.0, std::nan("")}) {
        expect_error(ExitCode::kInternal, {"not positive"}, [&] { Mixture(std::vector<double>{1.0, weight}); });
    }
}

}  // namespace
}  // namespace plimsoll
