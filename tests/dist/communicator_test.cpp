// Ranks as threads, and what happens when one of them does not play along.
#include "dist/communicator.h"

#include <gtest/gtest.h>

#include <atomic>

#include "dist/as_ranks.h"
#include "dist/communicator_cases.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

class ThreadCommunicator : public testing::TestWithParam<std::tuple<int, CommunicatorCase>> {};

TEST_P(ThreadCommunicator, DoesWhatItMust) {
    as_ranks(std::get<0>(GetParam()), std::get<1>(GetParam()).run);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicator,
                         testing::Combine(testing::Values(1, 2, 3, 4, 7), testing::ValuesIn(kCommunicatorCases)),
                         [](const auto& info) {
                             return std::string(std::get<1>(info.param).name) + "_" +
                                    std::to_string(std::get<0>(info.param));
                         });

TEST(SingleCommunicator, DoesWhatItMust) {
    Communicator world(single_transport());
    for (const CommunicatorCase& one : kCommunicatorCases) {
        if (std::string_view(one.name) == "GroupsAreWorldsOfTheirOwn") continue;  // there is nobody to part from
        one.run(world);
    }
}

// The cases can see a wrong order: adding from the last rank on gives other bits.
TEST(CommunicatorCases, SeeTheOrderOfSums) {
    int different = 0;
    for (size_t i = 0; i < 1000; ++i) {
        float backwards = rough<float>(3, i);
        for (int r = 2; r >= 0; --r) backwards += rough<float>(r, i);
        different += backwards != sum_over_ranks<float>(4, i);
    }
    EXPECT_GT(different, 100);
}

TEST(SplitRange, CoversEverythingInAlignedParts) {
    for (const int parts : {1, 2, 3, 8})
        for (const int64_t count : {0, 1, 15, 16, 100, 1000}) {
            const std::vector<ElementRange> ranges = split_range({32, 32 + count}, parts, 16);
            ASSERT_EQ(ranges.size(), static_cast<size_t>(parts));
            int64_t at = 32;
            for (const ElementRange& range : ranges) {
                EXPECT_EQ(range.begin, at);
                EXPECT_TRUE(range.begin % 16 == 0 || range.begin == 32 + count);
                EXPECT_LE(range.size(), (count / parts / 16 + 2) * 16);
                at = range.end;
            }
            EXPECT_EQ(at, 32 + count);
        }
}

// Rank 2 never comes: the others say what they waited for, and whom.
TEST(CommunicatorFaults, ASilentRankIsNamed) {
    std::atomic<int> told = 0;
    as_ranks(3, [&](Communicator& world) {
        world.set_timeout(std::chrono::milliseconds(200));
        world.barrier();
        if (world.rank() == 2) return;
        std::vector<float> data(30);
        const std::string message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(flat(data), split_range({0, 30}, 3, 1)).wait();
        });
        EXPECT_NE(message.find("all_gather number 2 of group 'world'"), std::string::npos) << message;
        EXPECT_NE(message.find("nothing from ranks 2"), std::string::npos) << message;
        told += 1;
    });
    EXPECT_EQ(told, 2);
}

// Asked to end, a rank does not wait until the timeout for one that has died; without patience it does.
TEST(CommunicatorFaults, ARankThatWasAskedToEndGivesUpSooner) {
    for (const bool limited : {true, false})
        as_ranks(2, [&](Communicator& world) {
            world.set_timeout(std::chrono::seconds(2));
            Communicator group = world.split(0, world.rank(), "group");
            if (world.rank() == 1) return;
            world.patience() = {[] { return true; }, limited ? 0.3 : 0.0};
            const auto start = std::chrono::steady_clock::now();
            const std::string message = message_of(ExitCode::kTransient, [&] { group.barrier(); });
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            EXPECT_EQ(message.find("a signal to end has come") != std::string::npos, limited) << message;
            EXPECT_EQ(seconds < 1.5, limited) << seconds;
        });
}

TEST(CommunicatorFaults, AnAbortEndsEveryRank) {
    std::atomic<int> ended = 0;
    as_ranks(4, [&](Communicator& world) {
        if (world.rank() == 3) return world.abort("rank 3 ran out of luck");
        const std::string message = message_of(ExitCode::kTransient, [&] { world.barrier(), world.barrier(); });
        EXPECT_NE(message.find("ran out of luck"), std::string::npos) << message;
        ended += 1;
    });
    EXPECT_EQ(ended, 3);
}

TEST(CommunicatorFaults, AMessageOfAnotherSizeIsRefusedByBoth) {
    as_ranks(2, [](Communicator& world) {
        std::vector<std::byte> bytes(world.rank() ? 8 : 16);
        const std::string message = message_of(
            ExitCode::kInternal, [&] { world.rank() ? world.receive(bytes, 0).wait() : world.send(bytes, 1).wait(); });
        EXPECT_NE(message.find("a message of 16 bytes, 8 were expected"), std::string::npos) << message;
    });
}

TEST(CommunicatorChecks, WrongShardsAndPartsAreRefused) {
    Communicator world(single_transport());
    std::vector<float> data(10);
    const std::vector<ElementRange> two{{0, 5}, {5, 10}}, outside{{0, 11}};
    EXPECT_THROW(world.reduce_scatter(flat(data), two), Error);
    EXPECT_THROW(world.all_gather(flat(data), outside), Error);
    std::vector<bf16> rounded(10);
    const std::vector<ElementRange> whole{{0, 10}};
    EXPECT_THROW(world.reduce_scatter(flat(rounded), whole), Error);
    const std::array<int64_t, 1> four{4}, zero{0}, nine{9};
    std::array<std::byte, 10> bytes{};
    EXPECT_THROW(world.all_to_all_v(bytes, four, nine, bytes, four, zero), Error);
}

}  // namespace
}  // namespace plimsoll
