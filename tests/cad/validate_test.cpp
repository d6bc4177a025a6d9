// Damaged plans: the validator, and the oracle that paints rows, notice each of them.
#include <gtest/gtest.h>

#include <functional>

#include "support/cad_oracles.h"

namespace plimsoll {
namespace {

struct Damage {
    const char* name;
    std::function<void(CaPlan&, size_t)> apply;  // at a task
    bool rows;                                   // some row is lost, or has two tasks
};

const std::vector<Damage>& damages() {
    static const std::vector<Damage> all{
        {"a task dropped", [](CaPlan& p, size_t i) { p.tasks.erase(p.tasks.begin() + static_cast<long>(i)); }, true},
        {"a task twice",
         [](CaPlan& p, size_t i) { p.tasks.insert(p.tasks.begin() + static_cast<long>(i), p.tasks[i]); }, true},
        {"a row dropped at the end", [](CaPlan& p, size_t i) { --p.tasks[i].end; }, true},
        {"a row dropped at the begin", [](CaPlan& p, size_t i) { ++p.tasks[i].begin; }, true},
        {"a row too many", [](CaPlan& p, size_t i) { ++p.tasks[i].end; }, true},
        {"another segment's rows", [](CaPlan& p, size_t i) { ++p.tasks[i].segment; }, true},
        {"no such segment", [](CaPlan& p, size_t i) { p.tasks[i].segment = -1; }, true},
        {"no such rank", [](CaPlan& p, size_t i) { p.tasks[i].server = 64; }, true},
        {"a negative rank", [](CaPlan& p, size_t i) { p.tasks[i].server = -1; }, true},
        {"empty", [](CaPlan& p, size_t i) { p.tasks[i].end = p.tasks[i].begin; }, true},
        {"order", [](CaPlan& p, size_t i) { std::swap(p.tasks[i], p.tasks[(i + 1) % p.tasks.size()]); }, false},
        {"an unaligned edge",
         [](CaPlan& p, size_t i) {
             CaTask& task = p.tasks[i];
             const CaTask rest{task.segment, task.server, task.begin + 1, task.end};
             task.end = task.begin + 1;
             p.tasks.insert(p.tasks.begin() + static_cast<long>(i) + 1, rest);
         },
         false},
        {"moves that are denied", [](CaPlan& p, size_t) { p.moves = false; }, false},
    };
    return all;
}

TEST(CadValidate, DamageIsNoticed) {
    CaRandom random(21);
    for (int round = 0; round < 200; ++round) {
        std::vector<std::vector<int64_t>> lengths{{random.within(600, 2000), random.within(200, 400)}, {}, {40}, {}};
        const CaCase c = documents_of("damaged", lengths);
        CaOptions options = llama_8b(4);
        options.block = 16;
        const CaPlan plan = plan_core_attention(c.segments, options);
        ASSERT_TRUE(plan.moves);
        ASSERT_EQ(problem_with(plan, c.segments, options), "");
        ASSERT_EQ(loads_by_rows(plan, c, options), loads_of(plan, c.segments, options));
        for (const Damage& damage : damages()) {
            CaPlan damaged = plan;
            damage.apply(damaged, static_cast<size_t>(random.within(0, static_cast<int64_t>(plan.tasks.size()) - 1)));
            EXPECT_NE(problem_with(damaged, c.segments, options), "") << damage.name;
            if (damage.rows) EXPECT_TRUE(loads_by_rows(damaged, c, options).empty()) << damage.name;
        }
        // A task on another rank is a plan like any other; the loads differ.
        CaPlan moved = plan;
        moved.tasks[0].server = (moved.tasks[0].server + 1) % 4;
        EXPECT_EQ(problem_with(moved, c.segments, options), "");
        EXPECT_NE(loads_of(moved, c.segments, options), loads_of(plan, c.segments, options));
        EXPECT_EQ(loads_of(moved, c.segments, options), loads_by_rows(moved, c, options));
    }
}

TEST(CadValidate, DamagedKeysAreNoticed) {
    const CaCase c = documents_of("a giant", {{1000}, {}, {}, {}});
    CaOptions options = llama_8b(4);
    options.block = 16;
    const CaPlan plan = plan_core_attention(c.segments, options);
    const CaKeys keys = keys_of(plan, c.segments, options);
    ASSERT_EQ(KeyDelivery(plan, keys, c, options).run(), "");
    const std::vector<std::pair<const char*, std::function<void(CaKeys&)>>> all{
        {"a piece dropped", [](CaKeys& k) { k.pieces.pop_back(); }},
        {"a piece twice", [](CaKeys& k) { k.pieces.push_back(k.pieces.back()); }},
        {"a row dropped", [](CaKeys& k) { --k.pieces.front().end; }},
        {"a row too many", [](CaKeys& k) { ++k.pieces.back().end; }},
        {"a server left out", [](CaKeys& k) { --k.pieces.front().last_server; }},
        {"a stranger as relay", [](CaKeys& k) { k.pieces.front().relay = 0; }},
        {"keys to their owner", [](CaKeys& k) { k.servers.front() = 0; }},
        {"a range too short", [](CaKeys& k) { --k.ranges.back().end; }},
        {"a range too late", [](CaKeys& k) { k.ranges.back().begin += 16; }},
        {"a task without a range", [](CaKeys& k) { --k.ranges.back().last_task; }},
    };
    for (const auto& [name, damage] : all) {
        CaKeys damaged = keys;
        damage(damaged);
        EXPECT_NE(KeyDelivery(plan, damaged, c, options).run(), "") << name;
    }
}

}  // namespace
}  // namespace plimsoll
