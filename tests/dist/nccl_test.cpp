// The NCCL transport over a library of this test's own: what it calls, and what it does when that goes wrong.
#include <gtest/gtest.h>

#include <atomic>

#include "dist/as_device_ranks.h"
#include "dist/communicator_cases.h"

namespace plimsoll {
namespace {

using std::chrono::milliseconds;
using Calls = std::vector<std::string>;

// Runs ranks over the fake and returns what each called between connecting and leaving.
std::vector<Calls> calls_of(int ranks, const std::function<void(Communicator&)>& body) {
    reset_fake_nccl();
    as_device_ranks(ranks, over_fake_nccl, body);
    std::vector<Calls> all;
    for (int r = 0; r < ranks; ++r) {
        Calls calls = fake_nccl_calls(r);
        EXPECT_GE(calls.size(), 3u);
        EXPECT_EQ(calls.front(), "init " + std::to_string(ranks));
        EXPECT_EQ(Calls(calls.end() - 2, calls.end()), (Calls{"finalize", "destroy"}));
        all.emplace_back(calls.begin() + 1, calls.end() - 2);
    }
    return all;
}

void expect_parts(const std::string& message, std::initializer_list<std::string_view> parts) {
    for (const std::string_view part : parts)
        EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
}

// fp32 shards of 1, 2 and 3 elements: each rank sends the others' and takes its own twice.
TEST(Nccl, SumsAreOneGroupOfMessagesInRankOrder) {
    const std::vector<ElementRange> shards{{0, 1}, {1, 3}, {3, 6}};
    const std::vector<Calls> calls = calls_of(3, [&](Communicator& world) {
        Values<float> data(world, std::vector<float>(6));
        world.reduce_scatter(data.tensor(), shards).wait();
    });
    EXPECT_EQ(calls[0], (Calls{"group_start", "send 8 to 1", "send 12 to 2", "receive 4 from 1", "receive 4 from 2",
                               "group_end"}));
    EXPECT_EQ(calls[1], (Calls{"group_start", "send 4 to 0", "send 12 to 2", "receive 8 from 0", "receive 8 from 2",
                               "group_end"}));
    EXPECT_EQ(calls[2], (Calls{"group_start", "send 4 to 0", "send 8 to 1", "receive 12 from 0", "receive 12 from 1",
                               "group_end"}));
}

TEST(Nccl, NothingEmptyIsSent) {
    const std::vector<ElementRange> shards{{0, 4}, {4, 4}};
    const std::vector<Calls> calls = calls_of(2, [&](Communicator& world) {
        Values<double> data(world, std::vector<double>(4));
        world.all_gather(data.tensor(), shards).wait();
        world.all_gather(data.tensor(), std::vector<ElementRange>{{0, 0}, {0, 0}}).wait();
        const Tensor empty = data.tensor().slice_rows(0, 0);
        (world.rank() == 0 ? world.send(empty, 1) : world.receive(empty, 0)).wait();
    });
    EXPECT_EQ(calls[0], (Calls{"group_start", "send 32 to 1", "group_end"}));
    EXPECT_EQ(calls[1], (Calls{"group_start", "receive 32 from 0", "group_end"}));
}

// A rank's part of its own is a copy on the device.
TEST(Nccl, PartsForItselfAreNotSent) {
    const std::vector<Calls> calls = calls_of(2, [](Communicator& world) {
        Values<int32_t> from(world, {10 * world.rank(), 10 * world.rank() + 1}), to(world, {-1, -1});
        const std::array<int64_t, 2> sizes{4, 4}, offsets{0, 4};
        world.all_to_all_v(from.tensor(), sizes, offsets, to.tensor(), sizes, offsets).wait();
        EXPECT_EQ(to.read(), (std::vector<int32_t>{world.rank(), 10 + world.rank()}));
    });
    EXPECT_EQ(calls[0], (Calls{"group_start", "send 4 to 1", "receive 4 from 1", "group_end"}));
    EXPECT_EQ(calls[1], (Calls{"group_start", "send 4 to 0", "receive 4 from 0", "group_end"}));
}

// What goes one way is held back until this rank waits, so that both ways are one group: apart, each rank would wait
// for its message to be taken before it takes the other's.
TEST(Nccl, MessagesBothWaysAreOneGroup) {
    const std::vector<Calls> calls = calls_of(2, [](Communicator& world) {
        Values<float> out(world, {1, 2}), in(world, {0, 0});
        Work sent = world.send(out.tensor(), 1 - world.rank());
        Work received = world.receive(in.tensor(), 1 - world.rank());
        received.wait(), sent.wait();
    });
    EXPECT_EQ(calls[0], (Calls{"group_start", "send 8 to 1", "receive 8 from 1", "group_end"}));
    EXPECT_EQ(calls[1], (Calls{"group_start", "send 8 to 0", "receive 8 from 0", "group_end"}));
}

TEST(Nccl, SmallThingsGoThroughTheHost) {
    for (const Calls& calls : calls_of(2, small_things_arrive)) EXPECT_EQ(calls, Calls{});
}

// A stream beside the one that computes; one for each group of ranks.
TEST(Nccl, EveryGroupOfRanksHasAStreamOfItsOwn) {
    reset_fake_nccl();
    as_device_ranks(2, over_fake_nccl, [](Communicator& world) {
        Communicator group = world.split(0, world.rank(), "group");
        Values<float> data(world, std::vector<float>(8));
        const std::vector<ElementRange> shards = split_range({0, 8}, 2, 1);
        for (int i = 0; i < 2; ++i) {
            world.all_gather(data.tensor(), shards).wait();
            group.all_gather(data.tensor(), shards).wait();
        }
        const std::vector<cudaStream_t> streams = fake_nccl_streams(world.rank());
        EXPECT_EQ(streams.size(), 2u);
        for (cudaStream_t stream : streams) EXPECT_NE(stream, world.exec().cuda->stream());
    });
}

TEST(NcclStart, ConnectingTakesItsTime) {
    reset_fake_nccl({.polls_to_connect = 20});
    as_device_ranks(3, over_fake_nccl, sums_are_made_in_rank_order<float>);
    for (int r = 0; r < 3; ++r)
        for (const std::string& call : fake_nccl_calls(r)) EXPECT_EQ(call.find("AFTER THE END"), std::string::npos);
}

// Runs three ranks that try to connect; `body` is called as each before it tries. Returns what they read.
std::vector<std::string> messages_of_connecting(const std::function<bool(int rank)>& comes) {
    std::vector<std::string> messages(3);
    const auto start = std::chrono::steady_clock::now();
    as_ranks(3, [&](Communicator& world) {
        world.set_timeout(milliseconds(1500));  // ranks meet before they wait, also on a busy machine
        if (!comes(world.rank())) return;
        messages[static_cast<size_t>(world.rank())] =
            message_of(ExitCode::kTransient, [&] { world.bind(exec_of_rank(world.rank()), over_fake_nccl); });
    });
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));  // busy machines are slow
    return messages;
}

TEST(NcclStart, RanksThatDoNotConnectAreNamedByAll) {
    reset_fake_nccl({.never_connect = {1, 2}});
    for (const std::string& message : messages_of_connecting([](int) { return true; }))
        expect_parts(message, {"NCCL: ranks 1, 2 of 3 did not connect within 1.5 s"});
    for (int r = 0; r < 3; ++r) EXPECT_EQ(fake_nccl_calls(r), (Calls{"init 3", "abort"}));
}

TEST(NcclStart, ARankThatDoesNotComeIsNamed) {
    reset_fake_nccl();
    const std::vector<std::string> messages = messages_of_connecting([](int rank) { return rank != 2; });
    expect_parts(messages[0], {"ranks 2 "});
}

// An error that NCCL learns about by itself ends all that is under way on the rank, in every group.
TEST(NcclFaults, AnErrorAbortsEveryCommunicatorOfTheRank) {
    reset_fake_nccl({.error_at_rank = 0});
    std::atomic<int> told = 0;
    as_device_ranks(
        3, over_fake_nccl,
        [&](Communicator& world) {
            const Communicator group = world.split(0, world.rank(), "group");
            if (world.rank() == 2) {  // goes on once the others are through
                while (told < 2) std::this_thread::yield();
                return;
            }
            Values<float> data(world, std::vector<float>(6));
            const auto gather = [&] { world.all_gather(data.tensor(), split_range({0, 6}, 3, 1)).wait(); };
            const std::string first = message_of(ExitCode::kTransient, gather);
            expect_parts(first, {"all_gather number 1 of group 'world' (16 bytes from rank", "with ranks ", "2: "});
            if (world.rank() == 0) expect_parts(first, {"with ranks 1, 2: NCCL: remote process exited"});
            expect_parts(message_of(ExitCode::kTransient, gather), {"all_gather number 2"});
            ++told;
        },
        milliseconds(1500));
    EXPECT_EQ(told, 2);
    const Calls calls = fake_nccl_calls(0);
    EXPECT_EQ(std::ranges::count(calls, "abort"), 2);  // world and group
    EXPECT_EQ(std::ranges::count(calls, "destroy"), 0);
    for (const std::string& call : calls) EXPECT_EQ(call.find("AFTER THE END"), std::string::npos) << call;
}

// Rank 1 never sends: the watchdog ends it, whether or not anybody waits.
TEST(NcclFaults, ASilentRankIsATimeout) {
    reset_fake_nccl();
    as_device_ranks(
        2, over_fake_nccl,
        [](Communicator& world) {
            Values<float> data(world, std::vector<float>(6));
            world.set_timeout(milliseconds(300));
            world.barrier();
            if (world.rank() == 1) return std::this_thread::sleep_for(milliseconds(800));
            const std::string message = message_of(ExitCode::kTransient, [&] {
                world.all_gather(data.tensor(), split_range({0, 6}, 2, 1)).wait();
            });
            expect_parts(message, {"all_gather number 2 of group 'world' (12 bytes from rank 0), with ranks 1: ",
                                   "is not done in time"});
        },
        std::chrono::seconds(30));
    EXPECT_EQ(std::ranges::count(fake_nccl_calls(0), "abort"), 1);
}

// A call that is refused leaves no group open, and the communicator is not used again.
TEST(NcclFaults, ARefusedMessageEndsTheGroupAndTheCommunicator) {
    reset_fake_nccl({.send_result = ncclInvalidUsage});
    as_device_ranks(
        2, over_fake_nccl,
        [](Communicator& world) {
            Values<float> data(world, std::vector<float>(6));
            const std::string message = message_of(ExitCode::kTransient, [&] {
                world.all_gather(data.tensor(), split_range({0, 6}, 2, 1)).wait();
            });
            expect_parts(message, {"ncclSend: invalid usage"});
        },
        milliseconds(500));
    EXPECT_EQ(fake_nccl_calls(0), (Calls{"init 2", "group_start", "send 12 to 1", "group_end", "abort"}));
}

TEST(NcclFaults, WhatWasGivenUpIsAborted) {
    reset_fake_nccl();
    as_device_ranks(2, over_fake_nccl, [](Communicator& world) {
        Values<float> data(world, std::vector<float>(6));
        { const Work work = world.all_gather(data.tensor(), split_range({0, 6}, 2, 1)); }
        const std::string message = message_of(ExitCode::kTransient, [&] {
            world.all_gather(data.tensor(), split_range({0, 6}, 2, 1)).wait();
        });
        expect_parts(message, {"all_gather number 2", "all_gather number 1", "was given up"});
    });
}

}  // namespace
}  // namespace plimsoll
