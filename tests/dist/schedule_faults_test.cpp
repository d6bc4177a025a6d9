// Schedules that are wrong: what problem_with and simulate say about them.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "dist/pipeline/simulate.h"
#include "dist/pipeline/validate.h"
#include "dist/schedule_oracle.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

using Kind = ActionKind;

Schedule two_stages(std::vector<Action> first, std::vector<Action> second) {
    return {.name = "by hand", .stages = 2, .chunks = 1, .micro_batches = 1, .actions = {first, second}};
}
const std::vector<Action> kFirst{
    {Kind::kForward}, {Kind::kSendForward}, {Kind::kReceiveBackward}, {Kind::kBackward}, {Kind::kWeight}};
const std::vector<Action> kSecond{
    {Kind::kReceiveForward}, {Kind::kForward}, {Kind::kBackward}, {Kind::kWeight}, {Kind::kSendBackward}};

bool mentions(const std::string& text, std::initializer_list<const char*> parts) {
    for (const char* part : parts)
        if (text.find(part) == std::string::npos) return false;
    return true;
}

TEST(ScheduleFaults, TimesByHand) {
    const PipelineCosts costs{.forward = {1, 2}, .backward = {5, 3}, .weight = {7, 4}, .send = 0.5};
    const Simulation run = simulate(two_stages(kFirst, kSecond), costs);
    EXPECT_EQ(run.stuck, "");
    // The first stage posts both messages at 1; the group ends when the gradient comes, at 1.5 + 2 + 3 + 4 + 0.5 = 11.
    EXPECT_EQ(run.times[0][0].end, 1);
    EXPECT_EQ(run.times[0][1].end, 1.5);
    EXPECT_EQ(run.times[1][0].start, 0);
    EXPECT_EQ(run.times[1][1].start, 1.5);
    EXPECT_EQ(run.times[0][2].start, 1);
    EXPECT_EQ(run.times[0][2].end, 11);
    EXPECT_EQ(run.times[0][4].end, 23);
    EXPECT_EQ(run.makespan, 23);
    EXPECT_EQ(run.busy, (std::vector<double>{13, 9}));
    EXPECT_DOUBLE_EQ(run.bubble, 1 - 22.0 / 46);
    EXPECT_EQ(run.peak_in_flight, (std::vector<int64_t>{1, 1}));
}

// Times do not depend on whether the lists make sense.
TEST(ScheduleFaults, TheLaterSideAndTheSlowestStageSetTheTime) {
    const PipelineCosts costs{.forward = {1, 3}, .backward = {1, 1}, .weight = {1, 4}, .send = 0.5};
    const Simulation late = simulate(
        two_stages({{Kind::kForward}, {Kind::kSendForward}}, {{Kind::kWeight}, {Kind::kReceiveForward}}), costs);
    EXPECT_EQ(late.times[0][1].end, 4.5);
    EXPECT_EQ(late.times[1][1].end, 4.5);
    const std::vector<Action> ticks{{Kind::kForward, 0, 0, 0}, {Kind::kForward, 1, 0, 1}};
    const Simulation joint = simulate(two_stages(ticks, ticks), costs);
    EXPECT_EQ(joint.times[0][1].start, 3);
    EXPECT_EQ(joint.makespan, 6);
}

TEST(ScheduleFaults, DeadlocksNameWhatWaits) {
    // Both send first, in groups of their own: without buffers neither comes to its receive.
    Schedule schedule = one_forward_one_backward(2, 2);
    std::vector<Action>& second = schedule.actions[1];
    // rf0 F0 B0 W0 [rf1 sb0] F1 ...: the second stage wants micro batch 1 before it has sent what the first waits for.
    const auto send = std::ranges::find(second, Action{Kind::kSendBackward, 0});
    ASSERT_NE(send, second.end());
    second.erase(send);
    second.insert(std::ranges::find(second, Action{Kind::kBackward, 1}), {Kind::kSendBackward, 0});
    EXPECT_EQ(problem_with(schedule), std::nullopt);  // it only waits longer

    // The first stage sends micro batch 1 in a group of its own after its first backward.
    std::vector<Action>& first = schedule.actions[0];
    std::erase(first, Action{Kind::kSendForward, 1});
    first.insert(std::ranges::find(first, Action{Kind::kBackward, 1}), {Kind::kSendForward, 1});
    const std::string stuck = simulate(schedule, unit_costs(2)).stuck;
    EXPECT_TRUE(mentions(stuck, {"stage 0 waits", "receive backward of micro batch 0", "from 1", "stage 1 waits",
                                 "receive forward of micro batch 1", "from 0"}))
        << stuck;
    EXPECT_EQ(problem_with(schedule), "pipeline schedule 1f1b: " + stuck);
}

TEST(ScheduleFaults, EachRuleIsNamed) {
    const auto expect = [](std::vector<Action> first, std::vector<Action> second,
                           std::initializer_list<const char*> parts) {
        const std::string problem = problem_with(two_stages(std::move(first), std::move(second))).value_or("none");
        EXPECT_TRUE(mentions(problem, parts)) << problem;
    };
    EXPECT_EQ(problem_with(two_stages(kFirst, kSecond)), std::nullopt);
    const auto without = [](std::vector<Action> list, size_t index) {
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(index));
        return list;
    };
    const auto with = [](std::vector<Action> list, size_t index, Action action) {
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(index), action);
        return list;
    };
    expect(kFirst, without(kSecond, 3), {"stage 1 has no weight gradient"});
    expect(kFirst, without(kSecond, 0), {"stage 1", "forward", "before its receive forward"});
    expect(without(kFirst, 2), kSecond, {"stage 0", "backward", "before its receive backward"});
    expect(without(kFirst, 1), kSecond, {"stage 0 has no send forward"});
    expect(with(kFirst, 0, {Kind::kForward}), kSecond, {"stage 0 has forward", "twice"});
    expect(with(kFirst, 0, {Kind::kReceiveForward}), kSecond, {"stage 0 has nobody to receive forward"});
    expect(with(kFirst, 0, {Kind::kForward, 1}), kSecond, {"forward of micro batch 1", "of 1 micro batches"});
    expect(with(kFirst, 0, {Kind::kServeForward, -1, 0, 0}), kSecond, {"in tick"});
    expect(with(kFirst, 0, {static_cast<Kind>(200)}), kSecond, {"unknown kind 200"});
    expect({}, kSecond, {"stage 0 has 0 actions"});

    Schedule swapped = one_forward_one_backward(1, 2);
    for (Action& action : swapped.actions[0])
        if (action.kind == Kind::kBackward || action.kind == Kind::kWeight) action.micro_batch = 1 - action.micro_batch;
    EXPECT_TRUE(mentions(*problem_with(swapped), {"before its forward"}));
    swapped.actions[0] = {{Kind::kForward, 0}, {Kind::kForward, 1},  {Kind::kBackward, 1},
                          {Kind::kWeight, 1},  {Kind::kBackward, 0}, {Kind::kWeight, 0}};
    EXPECT_TRUE(mentions(*problem_with(swapped), {"backward of micro batch 1", "order"}));

    const Schedule phases = same_phase(2, 4, 3);
    EXPECT_TRUE(mentions(*problem_with(phases, 2), {"stage 0 holds 3", "at most 2"}));
    for (Schedule sizes : {Schedule{.stages = 0}, Schedule{.stages = 3, .micro_batches = 1},
                           Schedule{.micro_batches = 0, .actions = {{}}},
                           Schedule{.micro_batches = int64_t{1} << 60, .actions = {kFirst}},
                           Schedule{.chunks = 1 << 30, .micro_batches = 1, .actions = {kFirst}}})
        EXPECT_NE(problem_with(sizes), std::nullopt);
    EXPECT_THROW(simulate(two_stages(kFirst, kSecond), unit_costs(3)), Error);
    EXPECT_THROW(simulate(two_stages(kSecond, kFirst), unit_costs(2)), Error);
}

Schedule random_schedule(std::mt19937_64& random) {
    const int stages = 1 + static_cast<int>(random() % 4);
    const auto m = 1 + static_cast<int64_t>(random() % 5);
    switch (random() % 5) {
        case 0:
            return one_forward_one_backward(stages, m);
        case 1:
            return interleaved(stages, stages * (1 + m % 2), 2);
        case 2:
            return zero_bubble_h1(stages, m);
        case 3:
            return zero_bubble_greedy(stages, m, unit_costs(stages), 1 + m);
        default:
            return same_phase(stages, m, stages + static_cast<int64_t>(random() % static_cast<uint64_t>(stages)));
    }
}

// Swaps, drops, doubles, moves or changes an action.
std::string mutate(Schedule& schedule, std::mt19937_64& random) {
    std::vector<Action>& list = schedule.actions[random() % schedule.actions.size()];
    const auto at = [&](size_t i) { return list.begin() + static_cast<std::ptrdiff_t>(i); };
    const size_t i = random() % list.size(), j = random() % list.size(), k = random() % (list.size() - 1);
    const int64_t shift = random() % 2 ? 1 : -1;
    switch (random() % 9) {
        case 0:
            std::swap(list[i], list[j]);
            return "swap";
        case 1:
            std::swap(list[k], list[k + 1]);
            return "swap neighbours";
        case 2:
            list.erase(at(i));
            return "drop";
        case 3:
            list.insert(at(j), Action(list[i]));
            return "double";
        case 4: {
            const Action moved = list[i];
            list.erase(at(i));
            list.insert(at(k), moved);
            return "move";
        }
        case 5:
            list[i].micro_batch += shift;
            return "shift micro batch";
        case 6:
            list[i].chunk += static_cast<int>(shift);
            return "shift chunk";
        case 7:
            list[i].kind = static_cast<Kind>(random() % 9);
            return "change kind";
        default:
            list[i].tick += shift;
            return "shift tick";
    }
}

// problem_with knows rules, the oracle carries the schedule out: both must call the same schedules wrong.
TEST(ScheduleFaults, MutationsAreFoundExactlyWhereTheyHarm) {
    std::mt19937_64 random(1);
    int harmful = 0, harmless = 0;
    for (int round = 0; round < 20'000; ++round) {
        Schedule schedule = random_schedule(random);
        ASSERT_TRUE(ScheduleOracle(schedule).trains()) << schedule.name;
        const Schedule before = schedule;
        std::string what;
        for (uint64_t times = 1 + random() % 2; times > 0; --times) what += mutate(schedule, random) + ", ";
        const bool trains = ScheduleOracle(schedule).trains();
        ASSERT_EQ(!problem_with(schedule).has_value(), trains)
            << "round " << round << ": " << what << schedule.name << ", " << schedule.stages << " stages, "
            << schedule.micro_batches << " micro batches: " << problem_with(schedule).value_or("no problem found");
        if (schedule.actions != before.actions) ++(trains ? harmless : harmful);
    }
    // Both judgements must be put to the test.
    EXPECT_GT(harmful, 10'000);
    EXPECT_GT(harmless, 400);
    RecordProperty("harmful", harmful), RecordProperty("harmless", harmless);
}

}  // namespace
}  // namespace plimsoll
