// NCCL itself, as far as one GPU goes: a world of one rank connects, splits, is watched over, and ends.
#include <gtest/gtest.h>

#include <thread>

#include "dist/as_device_ranks.h"
#include "dist/communicator_cases.h"

namespace plimsoll {
namespace {

void over_nccl(const std::function<void(Communicator&)>& body) {
    Communicator world(single_transport());
    world.bind(exec_of_rank(0), nccl_transport);
    body(world);
}

TEST(NcclItself, AWorldOfOneDoesWhatItMust) {
    ASSERT_TRUE(has_nccl());
    over_nccl([](Communicator& world) {
        for (const CommunicatorCase& one : kCommunicatorCases) {
            if (std::string_view(one.name) == "GroupsAreWorldsOfTheirOwn") continue;  // there is nobody to part from
            one.run(world);
        }
        Communicator group = world.split(0, 0, "group");
        sums_are_made_in_rank_order<float>(group);
        parts_of_tensors_go_where_they_belong(group);
    });
}

// The GPU is busy for longer than the exchange may take: the watchdog ends it, and the communicator with it.
TEST(NcclItself, ABusyGpuIsATimeout) {
    over_nccl([](Communicator& world) {
        Values<float> data(world, std::vector<float>(64));
        world.set_timeout(std::chrono::milliseconds(300));
        const auto sleep = [](void*) { std::this_thread::sleep_for(std::chrono::seconds(2)); };
        cuda::check_cuda(cudaLaunchHostFunc(world.exec().cuda->stream(), sleep, nullptr), "cudaLaunchHostFunc");
        const auto gather = [&] { world.all_gather(data.tensor(), std::vector<ElementRange>{{0, 64}}).wait(); };
        const std::string message = message_of(ExitCode::kTransient, gather);
        EXPECT_NE(message.find("all_gather number 1 of group 'world'"), std::string::npos) << message;
        message_of(ExitCode::kTransient, gather);
    });
}

TEST(NcclItself, AnAbortEndsWhatComesLater) {
    over_nccl([](Communicator& world) {
        world.abort("out of luck");
        Values<float> data(world, std::vector<float>(64));
        const std::string message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(data.tensor(), std::vector<ElementRange>{{0, 64}}).wait();
        });
        EXPECT_NE(message.find("out of luck"), std::string::npos) << message;
    });
}

}  // namespace
}  // namespace plimsoll
