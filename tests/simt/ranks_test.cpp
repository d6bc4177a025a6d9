// Ranks whose GPU never comes to an end. Emulated only: a GPU cannot be told to.
#include <gtest/gtest.h>

#include "dist/as_device_ranks.h"
#include "dist/communicator_cases.h"
#include "simt/host_runtime.h"

namespace plimsoll {
namespace {

std::string message_of_a_stuck_gpu(const DeviceTransport& make) {
    std::string message;
    as_device_ranks(1, make, [&](Communicator& world) {
        world.set_timeout(std::chrono::milliseconds(300));
        Values<float> data(world, std::vector<float>(6));
        simt::host_state().stuck = true;
        message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(data.tensor(), split_range({0, 6}, 1, 1)).wait();
        });
        simt::host_state().stuck = false;
    });
    return message;
}

TEST(StuckGpu, IsATimeoutOfTheRankItself) {
    const std::string message = message_of_a_stuck_gpu(over_host_memory);
    EXPECT_NE(message.find("all_gather number 1 of group 'world'"), std::string::npos) << message;
    EXPECT_NE(message.find("nothing from ranks 0"), std::string::npos) << message;
}

// The event stands in the stream, and is never reached: the watchdog's to find.
TEST(StuckGpu, IsFoundByTheWatchdog) {
    reset_fake_nccl();
    const std::string message = message_of_a_stuck_gpu(over_fake_nccl);
    EXPECT_NE(message.find("all_gather number 1"), std::string::npos) << message;
    EXPECT_EQ(fake_nccl_calls(0), (std::vector<std::string>{"init 1", "abort"}));
}

}  // namespace
}  // namespace plimsoll
