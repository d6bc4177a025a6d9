#include "dist/pipeline/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <random>

#include "dist/pipeline/simulate.h"
#include "dist/pipeline/validate.h"
#include "dist/schedule_oracle.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int kRounds = 10'000;
constexpr double kRounding = 1e-12;  // sums of up to a few thousand positive numbers, relative

struct Case {
    int stages;
    int64_t micro_batches;
    int chunks;
    int64_t cap;  // of zb-greedy; moved into its range for same-phase
    PipelineCosts costs;
    std::string text() const {
        return fmt::format("stages {}, micro batches {}, chunks {}, cap {}", stages, micro_batches, chunks, cap);
    }
};

class Random {
  public:
    explicit Random(uint64_t seed) : bits_(seed) {}
    int64_t within(int64_t low, int64_t high) { return low + static_cast<int64_t>(bits_() % uint64_t(high - low + 1)); }
    double cost() { return std::ldexp(static_cast<double>(within(1, 1 << 20)), static_cast<int>(within(-22, -18))); }

    // Mostly small; one in fifty up to 16 stages and 64 micro batches.
    Case next(bool multiple, bool chunked) {
        const bool large = within(1, 50) == 1;
        Case c{.stages = static_cast<int>(within(1, large ? 16 : 5)), .micro_batches = within(1, large ? 64 : 9)};
        c.chunks = chunked ? static_cast<int>(within(2, large ? 4 : 3)) : 1;
        if (multiple) c.micro_batches = (c.micro_batches + c.stages - 1) / c.stages * c.stages;
        c.cap = within(1, 2 * c.stages);
        const auto virtual_stages = static_cast<size_t>(c.stages * c.chunks);
        for (std::vector<double>* list : {&c.costs.forward, &c.costs.backward, &c.costs.weight})
            for (size_t i = 0; i < virtual_stages; ++i) list->push_back(cost());
        c.costs.send = within(0, 1) ? cost() / 4 : 0;
        return c;
    }

  private:
    std::mt19937_64 bits_;
};

PipelineCosts uniform(int virtual_stages, double forward, double backward, double weight) {
    PipelineCosts costs = unit_costs(virtual_stages);
    std::ranges::fill(costs.forward, forward);
    std::ranges::fill(costs.backward, backward);
    std::ranges::fill(costs.weight, weight);
    return costs;
}

// No order can be faster: one micro batch has to go through, and a stage starts after those before it.
double lower_bound(const Case& c) {
    double path = c.costs.weight[0], before = 0, bound = 0;
    const int last = c.stages * c.chunks - 1;
    const double send = c.stages == 1 ? 0 : c.costs.send;
    for (size_t v = 0; v <= static_cast<size_t>(last); ++v) path += c.costs.forward[v] + c.costs.backward[v];
    for (size_t s = 0; s < static_cast<size_t>(c.stages); ++s) {
        double busy = 0;
        for (size_t v = s; v <= static_cast<size_t>(last); v += static_cast<size_t>(c.stages))
            busy += c.costs.forward[v] + c.costs.backward[v] + c.costs.weight[v];
        bound = std::max(bound, before + busy * static_cast<double>(c.micro_batches));
        before += c.costs.forward[s] + send;
    }
    return std::max(bound, path + 2 * last * send);
}

// What must hold for any schedule; `peaks`: what each stage holds at most.
void expect_sound(const Schedule& schedule, const Case& c, const std::function<int64_t(int)>& peak, bool exact) {
    ASSERT_EQ(problem_with(schedule), std::nullopt) << c.text();
    const Simulation run = simulate(schedule, c.costs);
    ASSERT_EQ(run.stuck, "") << c.text();
    ASSERT_GE(run.makespan, lower_bound(c) * (1 - kRounding)) << c.text();
    int64_t largest = 0;
    for (int s = 0; s < c.stages; ++s) {
        const int64_t held = run.peak_in_flight[static_cast<size_t>(s)];
        largest = std::max(largest, held);
        if (exact)
            ASSERT_EQ(held, peak(s)) << "stage " << s << ", " << c.text();
        else
            ASSERT_LE(held, peak(s)) << "stage " << s << ", " << c.text();
    }
    ASSERT_EQ(problem_with(schedule, largest), std::nullopt) << c.text();
    ASSERT_NE(problem_with(schedule, largest - 1), std::nullopt) << c.text();
}

TEST(Schedule, OneForwardOneBackwardIsSound) {
    Random random(1);
    for (int round = 0; round < kRounds; ++round) {
        const Case c = random.next(false, false);
        const auto peak = [&](int s) { return std::min<int64_t>(c.micro_batches, c.stages - s); };
        ASSERT_NO_FATAL_FAILURE(expect_sound(one_forward_one_backward(c.stages, c.micro_batches), c, peak, true));
    }
}

TEST(Schedule, InterleavedIsSound) {
    Random random(2);
    for (int round = 0; round < kRounds; ++round) {
        const Case c = random.next(true, true);
        const auto peak = [&](int s) {
            return std::min(c.micro_batches * c.chunks, int64_t{2} * (c.stages - s) - 1 + c.stages * (c.chunks - 1));
        };
        ASSERT_NO_FATAL_FAILURE(expect_sound(interleaved(c.stages, c.micro_batches, c.chunks), c, peak, true));
    }
}

TEST(Schedule, ZeroBubbleH1IsSound) {
    Random random(3);
    for (int round = 0; round < kRounds; ++round) {
        const Case c = random.next(false, false);
        const auto peak = [&](int) { return std::min<int64_t>(c.micro_batches, c.stages); };
        ASSERT_NO_FATAL_FAILURE(expect_sound(zero_bubble_h1(c.stages, c.micro_batches), c, peak, true));
    }
}

TEST(Schedule, ZeroBubbleGreedyIsSound) {
    Random random(4);
    for (int round = 0; round < kRounds; ++round) {
        const Case c = random.next(false, false);
        const auto peak = [&](int) { return std::min(c.micro_batches, c.cap); };
        const Schedule schedule = zero_bubble_greedy(c.stages, c.micro_batches, c.costs, c.cap);
        ASSERT_NO_FATAL_FAILURE(expect_sound(schedule, c, peak, false));
        if (c.cap < std::min<int64_t>(c.stages, c.micro_batches)) continue;
        for (const Schedule& other :
             {zero_bubble_h1(c.stages, c.micro_batches), one_forward_one_backward(c.stages, c.micro_batches)})
            ASSERT_LE(simulate(schedule, c.costs).makespan, simulate(other, c.costs).makespan) << c.text();
    }
}

TEST(Schedule, SamePhaseIsSound) {
    Random random(5);
    for (int round = 0; round < kRounds; ++round) {
        Case c = random.next(false, false);
        c.cap = random.within(c.stages, 2 * c.stages - 1);
        const auto peak = [&](int s) { return std::min({c.micro_batches, c.cap, 2 * int64_t{c.stages - s} - 1}); };
        ASSERT_NO_FATAL_FAILURE(expect_sound(same_phase(c.stages, c.micro_batches, c.cap), c, peak, true));
    }
}

void expect_bubble(const Schedule& schedule, double forward, double backward, double weight, double bubble) {
    const Simulation run = simulate(schedule, uniform(schedule.stages * schedule.chunks, forward, backward, weight));
    const double busy = static_cast<double>(schedule.micro_batches) * schedule.chunks * (forward + backward + weight);
    ASSERT_NEAR(run.makespan * (1 - bubble), busy, kRounding * busy)
        << schedule.name << ", " << schedule.stages << " stages, " << schedule.micro_batches << " micro batches";
    ASSERT_NEAR(run.bubble, bubble, kRounding);
    for (const double part : run.busy) ASSERT_NEAR(part, busy, kRounding * busy);
}

// 1F1B for any cost of forward and backward; interleaved and split schedules where their messages make nobody wait.
TEST(Schedule, BubblesHaveTheirClosedForm) {
    for (const int stages : {1, 2, 3, 4, 7, 8, 16})
        for (const int64_t m : {1, 2, 3, 4, 8, 12, 16, 33, 64}) {
            for (const double backward : {0.25, 1.0, 3.0})
                expect_bubble(one_forward_one_backward(stages, m), 1, backward, 0.5,
                              bubble_of_one_forward_one_backward(stages, m));
            for (const int chunks : {2, 3, 4})
                if (m % stages == 0)
                    expect_bubble(interleaved(stages, m, chunks), 1, 1, 1, bubble_of_interleaved(stages, m, chunks));
            if (m < stages) continue;
            const double h1 = bubble_of_zero_bubble_h1(stages, m, 1, 1, 1);
            expect_bubble(zero_bubble_h1(stages, m), 1, 1, 1, h1);
            expect_bubble(zero_bubble_greedy(stages, m, unit_costs(stages), stages), 1, 1, 1, h1);
        }
    // Figures: 8 stages, 8 micro batches.
    EXPECT_DOUBLE_EQ(bubble_of_one_forward_one_backward(8, 8), 7.0 / 15);
    EXPECT_DOUBLE_EQ(bubble_of_interleaved(8, 8, 2), 7.0 / 23);
    EXPECT_DOUBLE_EQ(bubble_of_zero_bubble_h1(8, 8, 1, 1, 1), 7.0 / 31);
}

TEST(Schedule, ZeroBubbleBeatsOneForwardOneBackward) {
    for (int stages = 2; stages <= 16; ++stages)
        for (const int64_t m : {2, 3, 8, 20, 64}) {
            const auto makespan = [&](const Schedule& schedule) {
                return simulate(schedule, unit_costs(stages)).makespan;
            };
            EXPECT_LT(makespan(zero_bubble_h1(stages, m)), makespan(one_forward_one_backward(stages, m)))
                << stages << " stages, " << m << " micro batches";
        }
    // With more memory and equal costs nearly nothing is left: ZB-2P of the paper.
    const Schedule wide = zero_bubble_greedy(4, 16, unit_costs(4), 7);
    EXPECT_LE(simulate(wide, unit_costs(4)).makespan, simulate(zero_bubble_h1(4, 16), unit_costs(4)).makespan);
}

// The loops that the same-phase schedule stands for: in forward tick t stage s has micro batch t - s, in backward tick
// u micro batch u - (stages - 1 - s); the first and the last stages - 1 ticks are forward and backward ticks alone.
TEST(Schedule, SamePhaseTicksAreTheLoops) {
    for (const int stages : {1, 2, 3, 5, 8})
        for (const int64_t m : {1, 2, 4, 9, 20}) {
            const Schedule schedule = same_phase(stages, m, 2 * stages - 1);
            for (int s = 0; s < stages; ++s) {
                std::vector<Action> expected;
                for (int64_t t = 0, u = 0, tick = 0; u < m + stages - 1;) {
                    const auto add = [&](ActionKind work, ActionKind serve, int64_t micro_batch) {
                        const bool works = 0 <= micro_batch && micro_batch < m;
                        expected.push_back({works ? work : serve, works ? micro_batch : -1, 0, tick});
                        if (works && work == ActionKind::kBackward)
                            expected.push_back({ActionKind::kWeight, micro_batch, 0, tick});
                        ++tick;
                    };
                    if (t < m + stages - 1) add(ActionKind::kForward, ActionKind::kServeForward, t++ - s);
                    if (t >= stages) add(ActionKind::kBackward, ActionKind::kServeBackward, u++ - (stages - 1 - s));
                }
                std::vector<Action> got = schedule.actions[static_cast<size_t>(s)];
                std::erase_if(got, [](const Action& action) { return communicates(action.kind); });
                EXPECT_EQ(got, expected) << "stage " << s << " of " << stages << ", " << m << " micro batches";
            }
            // Each tick takes what its slowest stage does; here all do the same.
            EXPECT_DOUBLE_EQ(simulate(schedule, uniform(stages, 1, 1.5, 1)).makespan,
                             3.5 * static_cast<double>(m + stages - 1));
        }
}

std::string words(const std::vector<Action>& list) {
    constexpr std::array<const char*, 9> kWords{"F", "B", "W", "sf", "rf", "sb", "rb", "f", "b"};
    std::string text;
    for (const Action& a : list) text += fmt::format("{}{} ", kWords[static_cast<size_t>(a.kind)], a.micro_batch);
    return text;
}

// By hand. Stages exchange what the one sends forward and the other backward in one group, as Megatron-LM does.
TEST(Schedule, SmallOnesByHand) {
    const Schedule plain = one_forward_one_backward(2, 3);
    EXPECT_EQ(words(plain.actions[0]), "F0 sf0 F1 sf1 rb0 B0 W0 F2 sf2 rb1 B1 W1 rb2 B2 W2 ");
    EXPECT_EQ(words(plain.actions[1]), "rf0 F0 B0 W0 rf1 sb0 F1 B1 W1 rf2 sb1 F2 B2 W2 sb2 ");
    const Schedule split = zero_bubble_h1(2, 2);
    EXPECT_EQ(words(split.actions[0]), "F0 sf0 F1 sf1 rb0 B0 W0 rb1 B1 W1 ");
    EXPECT_EQ(words(split.actions[1]), "rf0 F0 B0 rf1 sb0 F1 B1 sb1 W0 W1 ");
    const Schedule phases = same_phase(2, 1, 2);
    EXPECT_EQ(words(phases.actions[0]), "F0 sf0 f-1 b-1 rb0 B0 W0 ");
    EXPECT_EQ(words(phases.actions[1]), "f-1 rf0 F0 B0 W0 sb0 b-1 ");
}

TEST(Schedule, OneStageAloneHasNoMessages) {
    const ScheduleOptions options{.stages = 1, .micro_batches = 5};
    for (const char* name : {"1f1b", "zb-h1", "zb-greedy", "same-phase"}) {
        const Schedule schedule = make_schedule(name, options);
        for (const Action& action : schedule.actions[0]) EXPECT_FALSE(communicates(action.kind)) << name;
    }
    EXPECT_EQ(problem_with(interleaved(1, 5, 3)), std::nullopt);
}

TEST(Schedule, NamesAndOptions) {
    const ScheduleOptions options{.stages = 4, .micro_batches = 8};
    for (const char* name : {"1f1b", "zb-h1", "zb-greedy", "same-phase"}) {
        EXPECT_EQ(make_schedule(name, options).name, name);
        EXPECT_THROW(make_schedule(name, {.stages = 4, .micro_batches = 8, .chunks = 2}), Error) << name;
        EXPECT_THROW(make_schedule(name, {.stages = 0, .micro_batches = 8}), Error) << name;
        EXPECT_THROW(make_schedule(name, {.stages = 4, .micro_batches = 0}), Error) << name;
    }
    EXPECT_EQ(make_schedule("interleaved", {.stages = 4, .micro_batches = 8, .chunks = 2}).chunks, 2);
    EXPECT_EQ(peak_in_flight(make_schedule("zb-greedy", {.stages = 4, .micro_batches = 8, .in_flight_cap = 2}))[0], 2);
    EXPECT_EQ(peak_in_flight(make_schedule("same-phase", {.stages = 4, .micro_batches = 8, .in_flight_cap = 5}))[0], 5);
    EXPECT_EQ(peak_in_flight(make_schedule("same-phase", options))[0], 7);

    const auto refusal = [](const char* name, const ScheduleOptions& wrong) -> std::string {
        try {
            make_schedule(name, wrong);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kBadInput);
            return error.what();
        }
        return "none";
    };
    const std::string unknown = refusal("gpipe", options);
    for (const char* name : {"gpipe", "1f1b", "interleaved", "zb-h1", "zb-greedy", "same-phase"})
        EXPECT_NE(unknown.find(name), std::string::npos) << unknown;
    EXPECT_NE(refusal("interleaved", {.stages = 4, .micro_batches = 6, .chunks = 2}).find("6 micro batches on 4"),
              std::string::npos);
    EXPECT_NE(refusal("interleaved", options), "none");  // one chunk
    EXPECT_NE(refusal("1f1b", {.stages = 4, .micro_batches = 8, .in_flight_cap = 3}), "none");
    for (const int64_t cap : {-1, 3, 8})
        EXPECT_NE(refusal("same-phase", {.stages = 4, .micro_batches = 8, .in_flight_cap = cap}), "none") << cap;
    EXPECT_NE(refusal("zb-greedy", {.stages = 4, .micro_batches = 8, .in_flight_cap = -1}), "none");
    for (const double bad : {-1.0, std::nan(""), HUGE_VAL}) {
        ScheduleOptions costs{.stages = 2, .micro_batches = 2, .costs = unit_costs(2)};
        costs.costs.backward[1] = bad;
        EXPECT_NE(refusal("zb-greedy", costs), "none") << bad;
    }
    EXPECT_NE(refusal("zb-greedy", {.stages = 2, .micro_batches = 2, .costs = uniform(2, 0, 0, 0)}), "none");
}

// Actions that cost nothing or a billionth of others.
TEST(Schedule, GreedyTakesUnevenCosts) {
    PipelineCosts uneven = uniform(3, 1, 1, 0);
    uneven.forward[1] = 1e-9, uneven.backward[2] = 1e9;
    for (const PipelineCosts& costs : {uneven, uniform(3, 0, 1, 0), uniform(3, 1, 0, 1)})
        EXPECT_EQ(problem_with(zero_bubble_greedy(3, 9, costs, 3), 3), std::nullopt);
}

}  // namespace
}  // namespace plimsoll
