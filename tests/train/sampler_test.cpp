#include "train/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "data/data_test_support.h"
#include "kernels/random.h"
#include "support/kernel_test.h"

namespace plimsoll {
namespace {

// What each id should be drawn with, by sorting all of them.
std::vector<double> oracle(const std::vector<double>& logits, const SamplingOptions& o, size_t ids) {
    std::vector<size_t> order(ids);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    std::vector<double> p(ids);
    for (size_t i = 0; i < ids; ++i) p[i] = std::exp((logits[i] - logits[order[0]]) / o.temperature);
    size_t kept = o.top_k ? std::min<size_t>(ids, static_cast<size_t>(o.top_k)) : ids;
    double total = 0, sum = 0;
    for (size_t i = 0; i < kept; ++i) total += p[order[i]];
    size_t nucleus = 0;
    while (nucleus < kept && sum < o.top_p * total) sum += p[order[nucleus++]];
    if (o.top_p < 1) kept = nucleus;
    for (size_t i = kept; i < ids; ++i) p[order[i]] = 0;
    total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= total;
    return p;
}

Tensor row(std::vector<double>& logits) {
    return view(logits, {1, static_cast<int64_t>(logits.size())});
}

// Numbers that divide [0, 1) evenly hit every id as often as its probability says, to one hit.
TEST(Sampler, DrawsByTheProbabilitiesOfTheDefinition) {
    std::vector<double> logits = normals<double>(300, "logits", 2);
    logits[7] = logits[8] = logits[9] = 3.5;
    constexpr int kDraws = 1000;
    for (const double temperature : {0.3, 1.0, 2.5})
        for (const int64_t top_k : {0, 1, 2, 40, 299, 300, 1000})
            for (const double top_p : {1.0, 0.95, 0.5, 1e-6}) {
                const SamplingOptions options{temperature, top_k, top_p};
                Sampler sampler(options, 290);
                std::vector<int> hits(290);
                for (int i = 0; i < kDraws; ++i)
                    ++hits.at(static_cast<size_t>(sampler.draw(row(logits), (i + 0.5) / kDraws)));
                const std::vector<double> p = oracle(logits, options, 290);
                for (size_t id = 0; id < p.size(); ++id) {
                    ASSERT_NEAR(hits[id], p[id] * kDraws, 1.01)
                        << "temperature " << temperature << " k " << top_k << " p " << top_p << " id " << id;
                    if (p[id] == 0) ASSERT_EQ(hits[id], 0) << id;
                }
            }
}

TEST(Sampler, TakesTheMostLikelyAtTemperatureZero) {
    std::vector<double> logits{1, 5, 2, 5, 9};
    Sampler some({.temperature = 0}, 4), all({.temperature = 0}, 5);
    EXPECT_EQ(some.draw(row(logits), 0.99), 1);  // of equal ones the first; 4 is no id
    EXPECT_EQ(all.draw(row(logits), 0.0), 4);
    std::vector<float> narrow{1, 5, 2, 6, 9};
    EXPECT_EQ(some.draw(view(narrow, {1, 5}), 0.5), 3);
}

TEST(Sampler, StaysWithinTheIdsAtTheEndsOfTheUnitInterval) {
    std::vector<double> logits(50, 0.1);
    Sampler sampler({}, 50);
    EXPECT_EQ(sampler.draw(row(logits), 0), 0);
    EXPECT_EQ(sampler.draw(row(logits), std::nextafter(1.0, 0.0)), 49);
    std::vector<double> far{-1e300, 0, -1e300};
    for (const double u : {0.0, 0.5, std::nextafter(1.0, 0.0)}) EXPECT_EQ(Sampler({}, 3).draw(row(far), u), 1);
}

TEST(Sampler, RefusesOptionsAndLogitsThatMeanNothing) {
    const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    for (const double value : {-0.1, nan, infinity})
        expect_error(ExitCode::kBadInput, {"--temperature"}, [&] { Sampler({.temperature = value}, 5); });
    expect_error(ExitCode::kBadInput, {"--top-k is -1"}, [&] { Sampler({.top_k = -1}, 5); });
    for (const double value : {0.0, -1.0, 1.5, nan})
        expect_error(ExitCode::kBadInput, {"--top-p"}, [&] { Sampler({.top_p = value}, 5); });
    for (const double value : {nan, infinity, -infinity}) {
        std::vector<double> logits{0, value, 1};
        for (const double temperature : {0.0, 1.0})
            expect_error(ExitCode::kInternal, {"not finite"},
                         [&] { Sampler({.temperature = temperature}, 3).draw(row(logits), 0.5); });
    }
}

}  // namespace
}  // namespace plimsoll
