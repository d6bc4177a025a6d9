// The simulator's engine: sizes small enough to know the answer.
#include <gtest/gtest.h>

#include <numeric>

#include "dist/pipeline/simulate.h"
#include "dist/simulator/exchange.h"
#include "dist/simulator/policies.h"
#include "dist/simulator/study.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

// Lengths in [1, most], most of them short.
std::function<int64_t(int64_t)> skewed(int64_t most, uint64_t seed = 1) {
    return [=](int64_t index) {
        const double u = RandomStream(seed, "simulator test").uniform(static_cast<uint64_t>(index));
        return 1 + static_cast<int64_t>(u * u * u * u * static_cast<double>(most - 1));
    };
}

int64_t sum_of(const std::vector<int64_t>& values) {
    return std::reduce(values.begin(), values.end());
}

// Whole seconds: a token of a block takes 1 (backward 2), a pair 1/1024 (backward 2.5/1024).
StepCosts round_costs() {
    StepCosts costs;
    costs.forward.token = 1, costs.backward.token = 2;
    costs.forward.pair = 1.0 / 1024, costs.backward.pair = 2.5 / 1024;
    costs.forward.bytes = {.query_out = 64, .query_back = 64, .key_out = 32};
    costs.backward.bytes = {.query_out = 128, .query_back = 64, .key_out = 32, .key_back = 32};
    costs.memory = {.fixed = 1000, .token_block = 2, .key_block = 1};
    return costs;
}

PolicySetting setting_of(const StepCosts& costs, int64_t columns, int64_t stages, int64_t micro_batches,
                         int64_t tokens) {
    PolicySetting setting{.parallel = {.tensor = 1, .stages = stages, .columns = columns},
                          .costs = costs,
                          .micro_batches = micro_batches,
                          .tokens = tokens,
                          .memory = 1e12};
    setting.cad.spread = 1;
    return setting;
}

Study study_of(const PolicySetting& setting, const std::function<int64_t(int64_t)>& length, int64_t steps = 1) {
    std::vector<std::vector<PolicyRun>> runs;
    int64_t first = 0;
    for (int64_t i = 0; i < steps; ++i) {
        const StepDocuments documents =
            draw_step(length, first, setting.micro_batches, setting.columns() * setting.tokens);
        first += documents.drawn;
        runs.push_back(simulate_policies(documents, setting));
    }
    return summarize(runs, setting.memory);
}

TEST(SimulatorTest, AStepsDocumentsFillItsHalvesExactly) {
    const StepDocuments step = draw_step(skewed(9000), 5, 3, 8 * 4096);
    ASSERT_EQ(step.micro_batches.size(), 3u);
    int64_t pairs[2] = {0, 0};
    for (const MicroBatchDocuments& micro_batch : step.micro_batches)
        for (size_t h : {0, 1}) {
            EXPECT_EQ(tokens_in(micro_batch.halves[h]), 4 * 4096);
            pairs[h] += causal_pairs(micro_batch.halves[h]);
        }
    EXPECT_NEAR(static_cast<double>(pairs[0]) / static_cast<double>(pairs[1]), 1, 0.2);
    EXPECT_EQ(tokens_in(step.all()), 3 * 8 * 4096);
    // A document longer than a half becomes two.
    const StepDocuments one = draw_step([](int64_t) { return 4096; }, 0, 1, 4096);
    EXPECT_EQ(one.micro_batches[0].halves[0], Documents{2048});
    EXPECT_EQ(one.micro_batches[0].halves[1], Documents{2048});
}

TEST(SimulatorTest, PlacingInOrderCutsNoPairs) {
    const Documents lengths{10, 3000, 1, 1085};
    const std::vector<CaSegment> segments = place_in_order(lengths, 4);
    std::vector<int64_t> tokens(4, 0);
    int64_t pairs = 0;
    for (const CaSegment& s : segments) {
        tokens[static_cast<size_t>(s.home)] += s.end - s.begin;
        pairs += causal_pairs(s.begin, s.end);
    }
    EXPECT_EQ(tokens, (std::vector<int64_t>{1024, 1024, 1024, 1024}));
    EXPECT_EQ(pairs, causal_pairs(lengths));
    EXPECT_EQ(problem_with(plan_nothing(segments), segments, {.servers = 4}), "");
}

TEST(SimulatorTest, PackingLongestFirstKeepsEveryDocumentAndItsCap) {
    const Documents lengths = draw_step(skewed(2000), 0, 1, 64 * 2048).all();
    const std::vector<Bin> bins = pack_longest_first(lengths, 16, 1.1 * 64 * 2048 / 16, 1, 0.01);
    int64_t tokens = 0, pairs = 0;
    for (const Bin& bin : bins) {
        tokens += bin.tokens, pairs += bin.pairs;
        EXPECT_LE(bin.tokens, 1.1 * 64 * 2048 / 16);
    }
    EXPECT_EQ(tokens, tokens_in(lengths));
    EXPECT_EQ(pairs, causal_pairs(lengths));
}

TEST(SimulatorTest, TrafficIsWhatThePlannerCounts) {
    for (const int64_t ranks_per_node : {1, 2, 8})
        for (const bool two_hop : {false, true}) {
            const std::vector<CaSegment> segments = place_in_order(draw_step(skewed(30000), 0, 1, 8 * 8192).all(), 8);
            const CaOptions options{
                .servers = 8,
                .costs = {.query_out = 64, .query_back = 48, .key_out = 32, .key_back = 16, .pair_out = 4},
                .two_hop = two_hop};
            const CaPlan plan = plan_core_attention(segments, options);
            ASSERT_TRUE(plan.moves);
            const CaBytes bytes = bytes_of(plan, keys_of(plan, segments, options), segments, options);
            const PlanTraffic traffic = traffic_of(plan, segments, options, ranks_per_node);
            EXPECT_EQ(traffic.sent(), bytes.sent);
            EXPECT_EQ(traffic.received(), bytes.received);
            EXPECT_EQ(traffic.out_again.empty(), !two_hop);
            if (ranks_per_node == 8) {
                EXPECT_EQ(sum_of(traffic.out.sent_outside), 0);
            }
        }
}

TEST(SimulatorTest, AnAllToAllTakesItsSlowestRank) {
    Exchange exchange(4);
    exchange.add(0, 1, 100, 2);
    exchange.add(0, 2, 30, 2);
    exchange.add(3, 2, 50, 2);
    exchange.add(1, 1, 999, 2);
    EXPECT_EQ(all_to_all_seconds(Exchange(4), {.intra_byte = 1, .inter_byte = 2, .latency = 5}), 0);
    EXPECT_DOUBLE_EQ(all_to_all_seconds(exchange, {.intra_byte = 1, .inter_byte = 2, .latency = 5}), 100 + 15);
    EXPECT_DOUBLE_EQ(all_to_all_seconds(exchange, {.intra_byte = 0, .inter_byte = 2, .latency = 0}), 60);
}

// Whole documents, as ranks of a rehearsal have them.
TEST(SimulatorTest, AStepWithoutPlansIsAsLongAsItsSlowestRank) {
    const StepPlacement placement = place_whole({{{{1024}, {512, 512}}}, {{{256}, {768, 256}}}});
    StepCosts costs = round_costs();
    costs.optimizer = 7;
    const Schedule schedule = one_forward_one_backward(1, 2);
    const SimulatedStep step = simulate_step(placement, schedule, costs);
    const auto seconds = [](std::initializer_list<int64_t> lengths) {
        return 3.0 * static_cast<double>(tokens_in(lengths)) +
               3.5 / 1024 * static_cast<double>(causal_pairs(std::vector<int64_t>(lengths)));
    };
    EXPECT_DOUBLE_EQ(step.busy[0], seconds({1024}) + seconds({256}) + 7);
    EXPECT_DOUBLE_EQ(step.busy[1], seconds({512, 512}) + seconds({768, 256}) + 7);
    EXPECT_DOUBLE_EQ(step.seconds, std::max(step.busy[0], step.busy[1]));
    EXPECT_DOUBLE_EQ(step.exposed, 0);
    EXPECT_EQ(step.sent, (std::vector<int64_t>{0, 0}));
    EXPECT_DOUBLE_EQ(step.memory[1], 1000 + 2 * 1024);
}

TEST(SimulatorTest, EqualMicroBatchesTakeWhatThePipelineFormulaSays) {
    const StepCosts costs = round_costs();
    const Schedule schedule = one_forward_one_backward(4, 8);
    const StepPlacement placement =
        place_whole(std::vector<std::vector<std::vector<Documents>>>(8, {{{512, 512}, {512, 512}}}));
    const double each = 3.0 * 1024 + 3.5 / 1024 * static_cast<double>(2 * causal_pairs(512));
    const SimulatedStep step = simulate_step(placement, schedule, costs);
    EXPECT_NEAR(step.seconds, (8 + 3) * each, 1e-9 * step.seconds);
    EXPECT_NEAR(step.idle(), bubble_of_one_forward_one_backward(4, 8), 1e-9);
    EXPECT_DOUBLE_EQ(step.memory[0], 1000 + 4 * 2 * 1024);
    EXPECT_DOUBLE_EQ(step.memory[2 * 3], 1000 + 1 * 2 * 1024);
}

TEST(SimulatorTest, PingPongHidesWhatFits) {
    // One document of 1024 tokens against four of 256: core attention moves from rank 0 to rank 1.
    const std::vector<Documents> nano{{1024}, {256, 256, 256, 256}};
    const StepPlacement one = place_whole({{nano}}), two = place_whole({{nano, nano}});
    const Schedule schedule = same_phase(1, 1, 1);
    const CadOptions options{.spread = 1, .copy_local = false};
    StepCosts costs = round_costs();
    const SimulatedStep free = simulate_cad_step(two, schedule, costs, options);
    EXPECT_DOUBLE_EQ(free.exposed, 0);
    EXPECT_GT(sum_of(free.sent), 0);
    EXPECT_GT(free.imbalance_before, 1.5);
    EXPECT_LT(free.imbalance, 1.25);  // blocks of 128 rows of 1024
    EXPECT_EQ(free.pairs, 2 * (causal_pairs(1024) + 4 * causal_pairs(256)));

    costs.network.inter_byte = 1e-3;  // some 50 kB: hides under 1024 s of linear pieces
    EXPECT_DOUBLE_EQ(simulate_cad_step(two, schedule, costs, options).seconds, free.seconds);
    const SimulatedStep waits = simulate_cad_step(one, schedule, costs, options);
    EXPECT_GT(waits.exposed, 10);
    EXPECT_NEAR(waits.seconds, free.seconds / 2 + waits.exposed, 1e-9 * waits.seconds);

    costs.network.inter_byte = 1;  // hides nothing to speak of: the four ticks are the two ways of two nano batches
    const SimulatedStep slow = simulate_cad_step(two, schedule, costs, options);
    EXPECT_NEAR(slow.seconds, 1000 * 2 * waits.exposed, 1e-6 * slow.seconds);
    EXPECT_DOUBLE_EQ(
        simulate_cad_step(two, schedule, costs, {.spread = 1, .copy_local = false, .free_traffic = true}).seconds,
        free.seconds);
}

TEST(SimulatorTest, StagesWithoutWorkServe) {
    const StepPlacement placement =
        place_whole(std::vector<std::vector<std::vector<Documents>>>(4, {{{4096}}, {{4096}}}));
    const Schedule schedule = same_phase(4, 4, 7);
    StepCosts costs = round_costs();
    costs.forward.token = costs.backward.token = 0;  // core attention alone
    const SimulatedStep step = simulate_cad_step(placement, schedule, costs, {.spread = 1, .copy_local = false});
    // Four servers share what one or more stages have in every tick: no bubble but a block's remainder.
    EXPECT_LT(step.idle(), 0.03);
    const SimulatedStep alone = simulate_step(placement, one_forward_one_backward(4, 4), costs);
    EXPECT_NEAR(alone.idle(), 3.0 / 7, 1e-9);
    EXPECT_GT(sum_of(step.sent), 0);
}

TEST(SimulatorTest, AllPoliciesComputeTheSamePairs) {
    for (const int64_t stages : {1, 2})
        for (const uint64_t seed : {1, 2, 3}) {
            const PolicySetting setting = setting_of(round_costs(), 8, stages, 4, 4096);
            const StepDocuments documents = draw_step(skewed(20000, seed), 0, 4, 8 * 4096);
            std::vector<bool> seen(std::size(kPolicies), false);
            for (const PolicyRun& run : simulate_policies(documents, setting)) {
                EXPECT_EQ(run.result.pairs, causal_pairs(documents.all())) << name_of(run.policy) << run.layout;
                seen[static_cast<size_t>(run.policy)] = true;
                EXPECT_GE(run.result.idle(), -1e-9);
            }
            EXPECT_EQ(std::ranges::count(seen, true), std::ssize(kPolicies));
        }
}

TEST(SimulatorTest, EqualLengthsGainNothingAndLoseNothing) {
    for (const int64_t length : {256, 4096}) {
        const Study study = study_of(setting_of(round_costs(), 8, 1, 2, 4096), [=](int64_t) { return length; });
        EXPECT_NEAR(study.speed_up_over_best(), 1, 0.01);
        EXPECT_EQ(study.of(Policy::kCad).as_fixed, 1);
    }
}

TEST(SimulatorTest, OneRankGainsNothing) {
    const Study study = study_of(setting_of(round_costs(), 1, 1, 2, 8192), skewed(8192), 3);
    for (const PolicySummary& p : study.policies)
        EXPECT_NEAR(study.speed_up_over(p.policy), 1, 1e-6) << name_of(p.policy);
    EXPECT_EQ(study.of(Policy::kCad).sent_most, 0);
}

TEST(SimulatorTest, InfiniteBandwidthIsFreeTraffic) {
    StepCosts costs = round_costs();
    for (const int64_t stages : {1, 2}) {
        const PolicySetting infinite = setting_of(costs, 8, stages, 4, 4096);
        const Study study = study_of(infinite, skewed(20000), 3);
        EXPECT_DOUBLE_EQ(study.of(Policy::kCad).mean, study.of(Policy::kCadFreeTraffic).mean);
        EXPECT_DOUBLE_EQ(study.of(Policy::kCadNoPingPong).exposed, 0);
        EXPECT_GT(study.speed_up_over(Policy::kFixed), 1.02);
        PolicySetting slow = infinite;
        slow.costs.network.inter_byte = 1e-3;
        const Study slower = study_of(slow, skewed(20000), 3);
        EXPECT_GT(slower.of(Policy::kCadNoPingPong).mean, slower.of(Policy::kCadFreeTraffic).mean);
        EXPECT_DOUBLE_EQ(slower.of(Policy::kCadFreeTraffic).mean, study.of(Policy::kCadFreeTraffic).mean);
    }
}

TEST(SimulatorTest, ALayoutThatDoesNotFitIsNoBaseline) {
    StepCosts costs = round_costs();
    costs.memory.buffer_byte = 0;
    PolicySetting setting = setting_of(costs, 8, 1, 1, 4096);
    setting.memory = 1000 + 2 * 4096;  // exactly the tokens of a rank
    const Study study = study_of(setting, skewed(20000), 2);
    EXPECT_TRUE(study.of(Policy::kFixed).fits);
    EXPECT_FALSE(study.of(Policy::kDocumentContext).fits);  // gathered keys come on top
    EXPECT_EQ(study.speed_up_over(Policy::kDocumentContext), 0);
    EXPECT_GT(study.speed_up_over_best(), 1);
    setting.costs.memory.buffer_byte = 1;
    EXPECT_EQ(study_of(setting, skewed(20000), 2).speed_up_over_best(), 0);  // CAD's buffers come on top as well
}

TEST(SimulatorTest, PercentilesLieBetweenNeighbours) {
    EXPECT_DOUBLE_EQ(percentile({3, 1, 2}, 0.5), 2);
    EXPECT_DOUBLE_EQ(percentile({1, 2}, 0.5), 1.5);
    EXPECT_DOUBLE_EQ(percentile({1, 2, 3}, 1), 3);
}

}  // namespace
}  // namespace plimsoll
