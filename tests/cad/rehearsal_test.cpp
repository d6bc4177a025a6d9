// The simulator against ranks that sleep instead of computing. Alone on the machine: ctest runs it by itself.
#include "dist/simulator/rehearsal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <numeric>

#include "data/document_lengths.h"
#include "dist/as_ranks.h"

namespace plimsoll {
namespace {

constexpr int64_t kTokens = 4096;  // of a rank and nano batch
constexpr int kTries = 3;          // the best counts: whatever else runs on the machine only adds

enum class Lengths { kEqual, kSkewed, kMixed };

struct Scenario {
    std::string name;
    int columns, stages;
    int64_t micro_batches;
    Lengths lengths;
    bool cad;

    Schedule schedule() const {
        return make_schedule(cad ? "same-phase" : "1f1b",
                             {.stages = stages, .micro_batches = micro_batches, .costs = {}});
    }
};

// Lengths by micro batch, nano batch and column. Skewed: one rank in four has a document that fills its nano batch, the
// others have short ones. Mixed: as in pretraining data, at this context.
StepPlacement placement(const Scenario& s) {
    const DocumentLengths drawn("pretrain", {.context = 131072, .long_weight = 2, .short_weight = 0.9}, 5);
    int64_t next = 0;
    std::vector<std::vector<std::vector<Documents>>> all;
    for (int64_t m = 0; m < s.micro_batches; ++m) {
        std::vector<std::vector<Documents>>& nanos = all.emplace_back();
        for (int nano = 0; nano < 2; ++nano) {
            std::vector<Documents>& columns = nanos.emplace_back();
            for (int c = 0; c < s.columns; ++c) {
                Documents& here = columns.emplace_back();
                const bool giant = s.lengths == Lengths::kSkewed && (m + c) % 4 == 0;
                for (int64_t rest = kTokens; rest > 0; rest -= here.back()) {
                    const int64_t length = giant                          ? kTokens
                                           : s.lengths == Lengths::kMixed ? drawn(next++) * kTokens / 65536
                                                                          : 512;
                    here.push_back(std::clamp<int64_t>(length, 16, rest));
                    if (rest < 16) here.back() = rest;
                }
            }
        }
    }
    return place_whole(all);
}

// A nano batch's linear pieces take 6 ms in a block, forward, far more than waking a rank; the pairs of one document of
// 4,096 tokens take 12. Backward takes twice and 2.5 times that.
StepCosts costs() {
    StepCosts c;
    c.blocks = 2;
    c.forward.token = 6e-3 / kTokens, c.backward.token = 12e-3 / kTokens;
    c.forward.pair = 12e-3 / static_cast<double>(causal_pairs(kTokens)), c.backward.pair = 2.5 * c.forward.pair;
    return c;
}

CadOptions options() {
    return {.spread = 1, .copy_local = false};
}

struct Result {
    double simulated, measured;
};

Result run(const Scenario& s) {
    const StepPlacement documents = placement(s);
    const Schedule schedule = s.schedule();
    const CadOptions cad = options();
    std::mutex mutex;
    Result result{0, 1e9};
    as_ranks(s.columns * s.stages, [&](Communicator& world) {
        const StepCosts calibrated = rehearsal_costs(costs(), {}, world);
        for (int i = 0; i < kTries; ++i) {
            const double seconds = rehearse(world, documents, schedule, calibrated, s.cad ? &cad : nullptr);
            const std::lock_guard lock(mutex);
            result.measured = std::min(result.measured, seconds);
        }
        if (world.rank() == 0)
            result.simulated = (s.cad ? simulate_cad_step(documents, schedule, calibrated, cad)
                                      : simulate_step(documents, schedule, calibrated))
                                   .seconds;
    });
    return result;
}

double rank_correlation(const std::vector<Result>& results) {
    const auto ranks = [&](auto value) {
        std::vector<double> rank;
        for (const Result& a : results)
            rank.push_back(static_cast<double>(
                std::ranges::count_if(results, [&](const Result& b) { return value(b) < value(a); })));
        return rank;
    };
    const std::vector<double> x = ranks([](const Result&r) { return r.simulated; }),
                              y = ranks([](const Result&r) { return r.measured; });
    const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size()),
                 mean_y = std::accumulate(y.begin(), y.end(), 0.0) / static_cast<double>(y.size());
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        xy += (x[i] - mean_x) * (y[i] - mean_y);
        xx += (x[i] - mean_x) * (x[i] - mean_x), yy += (y[i] - mean_y) * (y[i] - mean_y);
    }
    return xy / std::sqrt(xx * yy);
}

// The thresholds of the specification: median error 10 %, none above 20 %, rank correlation 0.9.
TEST(RehearsalAlone, TwelveStepsTakeAsLongAsSimulated) {
    std::vector<Result> results;
    std::vector<double> errors;
    for (const auto& [columns, stages, micro_batches, lengths, name] :
         {std::tuple{4, 1, int64_t{3}, Lengths::kSkewed, "4 data ranks, skewed"},
          {8, 1, int64_t{2}, Lengths::kMixed, "8 data ranks, mixed"},
          {2, 2, int64_t{3}, Lengths::kMixed, "2 x 2 stages, mixed"},
          {1, 4, int64_t{5}, Lengths::kSkewed, "4 stages, skewed"},
          {2, 4, int64_t{4}, Lengths::kSkewed, "2 x 4 stages, skewed"},
          {4, 4, int64_t{3}, Lengths::kMixed, "4 x 4 stages, mixed"}})
        for (const bool cad : {false, true}) {
            const Result r = run({name, columns, stages, micro_batches, lengths, cad});
            results.push_back(r);
            errors.push_back(std::abs(r.simulated / r.measured - 1));
            fmt::print("{:<24}{:<20} simulated {:7.1f} ms, measured {:7.1f} ms, {:+.1f} %\n", name,
                       cad ? "by plan, ping-pong" : "1f1b, each its own", 1e3 * r.simulated, 1e3 * r.measured,
                       100 * (r.simulated / r.measured - 1));
        }
    const double correlation = rank_correlation(results);
    std::ranges::sort(errors);
    fmt::print("median error {:.1f} %, largest {:.1f} %, rank correlation {:.3f}\n", 100 * errors[errors.size() / 2],
               100 * errors.back(), correlation);
    EXPECT_LE(errors[errors.size() / 2], 0.10);
    EXPECT_LE(errors.back(), 0.20);
    EXPECT_GE(correlation, 0.9);
}

TEST(RehearsalAlone, SkewedBatchesGainAFifth) {
    for (const auto& [columns, stages] : {std::pair{1, 4}, {2, 4}}) {
        const Result fixed = run({"", columns, stages, 8, Lengths::kSkewed, false}),
                     cad = run({"", columns, stages, 8, Lengths::kSkewed, true});
        fmt::print("{} x {} stages, 8 micro batches, skewed: {:.1f} ms with 1f1b, {:.1f} ms by plan, {:.2f} x\n",
                   columns, stages, 1e3 * fixed.measured, 1e3 * cad.measured, fixed.measured / cad.measured);
        EXPECT_GE(fixed.measured / cad.measured, 1.2);
    }
}

TEST(RehearsalAlone, EqualLengthsLoseNothing) {
    const Result off = run({"", 4, 1, 4, Lengths::kEqual, false}), on = run({"", 4, 1, 4, Lengths::kEqual, true});
    fmt::print("4 data ranks, equal lengths: {:.1f} ms each its own, {:.1f} ms by plan, {:.3f}\n", 1e3 * off.measured,
               1e3 * on.measured, on.measured / off.measured);
    EXPECT_LE(on.measured / off.measured, 1.01);
}

}  // namespace
}  // namespace plimsoll
