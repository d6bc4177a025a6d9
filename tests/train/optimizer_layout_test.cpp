// Muon, OrthoAdam and groups of parameters in layouts of ranks, and over a resume: equal bits.
#include <gtest/gtest.h>

#include "layout_runs.h"

namespace plimsoll {
namespace {

class OptimizerLayout : public LayoutTest, public testing::WithParamInterface<std::string> {
  protected:
    void SetUp() override {
        change_ = [](RunConfig& c) {
            c.optimizer.kind = GetParam(), c.optimizer.lr = 3e-3;
            c.optimizer.groups = {{.match = {"blocks.1.*", "wte.weight"}, .lr_scale = 0.5, .weight_decay = 0.2},
                                  {.match = {"*.gain", "*.bias"}, .weight_decay = 0.01}};
        };
    }
};

// ZeRO-1 with whole matrices, without it, in pipelines, with a tied table.
TEST_P(OptimizerLayout, HasTheBitsOfOneProcess) {
    const Layout layouts[] = {{.data_ranks = 2},
                              {.data_ranks = 3, .zero1 = false},
                              {.data_ranks = 4, .tied = true},
                              {.stages = 2, .tied = true},
                              {.data_ranks = 2, .stages = 2, .schedule = "zb-h1", .tied = true}};
    int number = 0;
    for (const Layout& layout : layouts) {
        SCOPED_TRACE(layout.name());
        const char* precision = number++ % 2 ? "fp64" : "fp32";
        const Outcome one = alone("gated", precision, layout, 3), ranks = as_threads("gated", precision, layout, 3);
        EXPECT_EQ(ranks, one);
    }
}

// Two ranks, then one process in their place, then two again: as if nothing had happened.
TEST_P(OptimizerLayout, ResumesToTheBitOnOtherRanks) {
    const Layout layout{.data_ranks = 2};
    const Outcome whole = alone("gated", "fp32", layout, 6);
    RunConfig c = config("gated", "fp32", layout, 2 * layout.micro_batches(), 6);
    const auto as_two = [&] {
        as_ranks(2, [&](Communicator& world) {
            world.set_timeout(kTimeout);
            EXPECT_EQ(Trainer(c, {.resume = Resume::kAuto}, world.split(0, world.rank(), "run")).train(),
                      ExitCode::kOk);
        });
    };
    c.train.max_steps = 2;
    as_two();
    c.train.max_steps = 4, c.parallel.virtual_ranks = 2;
    EXPECT_EQ(Trainer(c, {.resume = Resume::kAuto}).train(), ExitCode::kOk);
    c.train.max_steps = 6, c.parallel.virtual_ranks = 1;
    as_two();
    EXPECT_EQ(outcome(c), whole);
}

INSTANTIATE_TEST_SUITE_P(All, OptimizerLayout, testing::Values("muon", "orthoadam"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace plimsoll
