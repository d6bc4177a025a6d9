// What every communicator must do, with tensors on a device: through host memory and by NCCL (a fake one), on the
// emulated device, whose streams do everything as late as their order allows, or on one GPU that all ranks share.
#include <gtest/gtest.h>

#include "dist/as_device_ranks.h"
#include "dist/communicator_cases.h"
#include "kernels/error.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

class DeviceCommunicator : public testing::TestWithParam<std::tuple<int, bool, CommunicatorCase>> {};

TEST_P(DeviceCommunicator, DoesWhatItMust) {
    const auto& [ranks, nccl, one] = GetParam();
    reset_fake_nccl();
    as_device_ranks(ranks, nccl ? over_fake_nccl : over_host_memory, one.run);
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

INSTANTIATE_TEST_SUITE_P(Ranks, DeviceCommunicator,
                         testing::Combine(testing::Values(1, 2, 4), testing::Bool(),
                                          testing::ValuesIn(kCommunicatorCases)),
                         [](const auto& info) {
                             return std::string(std::get<2>(info.param).name) +
                                    (std::get<1>(info.param) ? "FakeNccl" : "Staged") + "_" +
                                    std::to_string(std::get<0>(info.param));
                         });

TEST(DeviceCommunicatorChecks, TensorsOnAGpuNeedOneThatIsBound) {
    Communicator world(single_transport());
    const OnDevice<float> data(std::vector<float>(8));
    const std::vector<ElementRange> all{{0, 8}};
    EXPECT_THROW(world.reduce_scatter(data.tensor({8}), all), Error);
    EXPECT_THROW(world.send(data.tensor({8}), 0), Error);
    world.bind(on_gpu(), over_host_memory);
    world.reduce_scatter(data.tensor({8}), all).wait();
    EXPECT_THROW(world.bind(on_gpu(), over_host_memory), Error);
}

// Two ranks on one GPU: NCCL would refuse them, so they go through host memory without being asked to.
TEST(DeviceCommunicatorChecks, RanksThatShareAGpuAreStaged) {
    as_ranks(2, [](Communicator& world) {
        world.bind(exec_of_rank(world.rank()));
        EXPECT_EQ(world.rank_on_machine(), world.rank());
        sums_are_made_in_rank_order<float>(world);
    });
}

// Rank 1 never comes.
TEST(DeviceCommunicatorFaults, ASilentRankIsNamed) {
    as_device_ranks(2, over_host_memory, [](Communicator& world) {
        world.set_timeout(std::chrono::milliseconds(200));
        Values<float> data(world, std::vector<float>(30));
        world.barrier();
        if (world.rank() == 1) return;
        const std::string message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(data.tensor(), split_range({0, 30}, 2, 1)).wait();
        });
        EXPECT_NE(message.find("all_gather number 2 of group 'world' (60 bytes from rank 0): nothing from ranks 1"),
                  std::string::npos)
            << message;
    });
}

TEST(DeviceCommunicatorFaults, AnAbortReachesWhatIsUnderWay) {
    as_device_ranks(2, over_host_memory, [](Communicator& world) {
        Values<float> data(world, std::vector<float>(30));
        if (world.rank() == 1) return world.abort("rank 1 ran out of luck");
        const std::string message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(data.tensor(), split_range({0, 30}, 2, 1)).wait();
        });
        EXPECT_NE(message.find("ran out of luck"), std::string::npos) << message;
    });
}

}  // namespace
}  // namespace plimsoll
