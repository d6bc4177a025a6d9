// How many launches an update is. Emulated only: the device counts them.
#include "support/network_updates.h"

#include <gtest/gtest.h>

#include "simt/host_runtime.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

struct Launches {
    int kernels, graphs;
};
Launches launches_of(const std::function<void()>& work) {
    const simt::HostState& state = simt::host_state();
    const Launches before{state.launches, state.graph_launches};
    work();
    return {state.launches - before.kernels, state.graph_launches - before.graphs};
}

// However many spans differ in their rate or decay.
TEST(OptimizerLaunches, ElementwiseRulesTakeOneForAllParameters) {
    for (const std::string kind : {"adamw", "sgd"}) {
        OptimizerSection section = optimizer_of_kind(kind);
        section.groups = {{.match = {"blocks.1.*"}, .lr_scale = 0.25, .weight_decay = {}}};
        NetworkUpdates network(section, on_gpu());
        for (int64_t step = 1; step <= 2; ++step) {
            const Launches seen = launches_of([&] { network.step(step, 0.01, 1, false); });
            EXPECT_EQ(seen.kernels, 1) << kind;
            EXPECT_EQ(seen.graphs, 0) << kind;
        }
    }
}

TEST(OptimizerLaunches, EveryKindIsOneGraphFromTheSecondUpdateOn) {
    for (const std::string kind : {"adamw", "sgd", "muon", "orthoadam"}) {
        NetworkUpdates network(optimizer_of_kind(kind), on_gpu());
        const Launches first = launches_of([&] { network.step(1, 0.01, 1, true); });
        EXPECT_EQ(first.graphs, 0) << kind;
        for (int64_t step = 2; step <= 4; ++step) {
            const Launches seen = launches_of([&] { network.step(step, 0.01, 1, true); });
            EXPECT_EQ(seen.kernels, step == 2 ? first.kernels : 0) << kind;  // the second is recorded
            EXPECT_EQ(seen.graphs, 1) << kind;
        }
    }
}

}  // namespace
}  // namespace plimsoll
