// Ranks over TCP as threads of one process: messages, meetings, and who is not let in. What ends a process is in
// tests/python/tcp_check.py.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "dist/communicator_cases.h"
#include "dist/tcp_ranks.h"

namespace plimsoll {
namespace {

using std::chrono::milliseconds;

class TcpCommunicator : public testing::TestWithParam<std::tuple<int, CommunicatorCase>> {};

TEST_P(TcpCommunicator, DoesWhatItMust) {
    as_tcp_ranks(std::get<0>(GetParam()), std::get<1>(GetParam()).run);
}

INSTANTIATE_TEST_SUITE_P(Ranks, TcpCommunicator,
                         testing::Combine(testing::Values(1, 2, 3, 4, 7), testing::ValuesIn(kCommunicatorCases)),
                         [](const auto& info) {
                             return std::string(std::get<1>(info.param).name) + "_" +
                                    std::to_string(std::get<0>(info.param));
                         });

std::vector<std::byte> pattern(size_t count, size_t seed) {
    std::vector<std::byte> bytes(count);
    for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>((i * 131 + i / 251 + seed) & 0xff);
    return bytes;
}

TEST(TcpMessages, OfAnySizeToAnybodyAndToOneself) {
    as_tcp_ranks(3, [](Communicator& world) {
        const int n = world.size(), me = world.rank();
        std::vector<std::vector<std::byte>> out, in;
        std::vector<Work> works;
        // Around the size of the buffer that small messages share, and beyond what a socket holds.
        for (const size_t size : {size_t{0}, size_t{1}, size_t{24}, size_t{65535}, size_t{65536}, size_t{65560},
                                  size_t{131072}, size_t{2'000'001}})
            for (int r = 0; r < n; ++r) {
                out.push_back(pattern(size, static_cast<size_t>(me)));
                in.emplace_back(size);
                works.push_back(world.send(out.back(), r));
                works.push_back(world.receive(in.back(), r));
            }
        for (size_t w = works.size(); w-- > 0;) works[w].wait();
        for (size_t i = 0; i < in.size(); ++i)
            EXPECT_EQ(in[i], pattern(in[i].size(), i % static_cast<size_t>(n))) << "message " << i;
    });
}

// Receives are posted when everything has come, and while it is still coming.
TEST(TcpMessages, ThatComeEarlyAreKept) {
    as_tcp_ranks(2, [](Communicator& world) {
        constexpr size_t kMessages = 9, kBytes = 1'000'000;
        if (world.rank() == 0) {
            for (size_t m = 0; m < kMessages; ++m) world.send(pattern(kBytes + m, m), 1).wait();
            std::vector<std::byte> last(8);
            world.receive(last, 1).wait();
            return;
        }
        for (size_t m = 0; m < kMessages; ++m) {
            std::vector<std::byte> bytes(kBytes + m);
            if (m % 7 == 0) std::this_thread::sleep_for(milliseconds(20));
            world.receive(bytes, 0).wait();
            ASSERT_EQ(bytes, pattern(kBytes + m, m));
        }
        world.send(std::vector<std::byte>(8), 0).wait();
    });
}

// Two groups of the same ranks: a message of one is not taken by the other, whichever is asked for first.
TEST(TcpMessages, OfGroupsDoNotMix) {
    as_tcp_ranks(2, [](Communicator& world) {
        Communicator a = world.split(0, world.rank(), "a"), b = world.split(0, world.rank(), "b");
        Communicator c = a.split(0, -world.rank(), "c");
        const int other = 1 - world.rank();
        std::array<Communicator*, 4> groups{&world, &a, &b, &c};
        std::array<std::array<std::byte, 1>, 4> out{}, in{};
        std::vector<Work> works;
        for (size_t g = 0; g < 4; ++g) {
            out[g][0] = static_cast<std::byte>(g);
            works.push_back(groups[g]->send(out[g], g == 3 ? world.rank() : other));  // c counts backwards
        }
        for (size_t g = 4; g-- > 0;) works.push_back(groups[g]->receive(in[g], g == 3 ? world.rank() : other));
        for (Work& work : works) work.wait();
        EXPECT_EQ(in, out);
    });
}

// Threads of a rank use groups of their own at the same time.
TEST(TcpMessages, OfSeveralThreads) {
    as_tcp_ranks(3, [](Communicator& world) {
        std::vector<Communicator> groups;
        for (int t = 0; t < 4; ++t) groups.push_back(world.split(0, world.rank(), "thread"));
        std::vector<std::jthread> threads;
        for (Communicator& group : groups)
            threads.emplace_back([&group] {
                for (int i = 0; i < 50; ++i) {
                    std::array<double, 2> values{1.0 + i, 2};
                    group.sum(values);
                    EXPECT_EQ(values[0], 3.0 * (1 + i));
                }
            });
    });
}

TEST(TcpMessages, OfAnotherSizeAreRefusedByTheReceiver) {
    as_tcp_ranks(2, [](Communicator& world) {
        std::vector<std::byte> bytes(world.rank() ? 8 : 16), after(4);
        if (world.rank() == 0) {
            world.send(bytes, 1).wait();
            world.send(after, 1).wait();
            return;
        }
        const std::string message = message_of(ExitCode::kInternal, [&] { world.receive(bytes, 0).wait(); });
        EXPECT_NE(message.find("rank 0: a message of 16 bytes, 8 were expected"), std::string::npos) << message;
        world.receive(after, 0).wait();  // what follows is whole
    });
}

TEST(TcpMessages, GivenUpLeaveTheRestWhole) {
    as_tcp_ranks(2, [](Communicator& world) {
        const std::vector<std::byte> wanted = pattern(100, 5);
        if (world.rank() == 0) {
            {
                const std::vector<std::byte> large = pattern(8'000'000, 1);
                const Work gone = world.send(large, 1);  // its memory goes before it has left
            }
            std::vector<std::byte> given_up(1);
            world.receive(given_up, 1).wait();
            world.send(wanted, 1).wait();
        } else {
            std::vector<std::byte> large(8'000'000), bytes(100);
            world.receive(large, 0).wait();
            EXPECT_EQ(large, pattern(large.size(), 1));
            { const Work gone = world.receive(large, 0); }
            world.send(std::vector<std::byte>(1), 0).wait();
            world.receive(bytes, 0).wait();
            EXPECT_EQ(bytes, wanted);
        }
        world.barrier();
    });
}

// Whoever is done may go: the others still talk to each other, and are told if they wait for it.
TEST(TcpEnd, OfOneRankIsNoFailure) {
    as_tcp_ranks(3, [](Communicator& world) {
        world.set_timeout(std::chrono::seconds(10));
        world.barrier();
        if (world.rank() == 1) return std::this_thread::sleep_for(milliseconds(100));
        const int other = 2 - world.rank();
        std::vector<std::byte> bytes(10), got(10), never(10);
        Work before = world.receive(never, 1);
        std::this_thread::sleep_for(milliseconds(300));
        Work sent = world.send(bytes, other);
        world.receive(got, other).wait();
        sent.wait();
        Work after = world.receive(never, 1), to = world.send(bytes, 1);
        for (Work* work : {&before, &after, &to}) {
            const std::string message = message_of(ExitCode::kTransient, [&] { work->wait(); });
            EXPECT_NE(message.find("rank 1 has ended"), std::string::npos) << message;
        }
    });
}

TEST(TcpEnd, SilentRanksAreNamedByTheirRankInTheGroup) {
    const int port = free_port();
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < 3; ++rank)
        threads.emplace_back([rank, port] {
            const std::unique_ptr<Transport> world = tcp_transport(launch_of(rank, 3, port));
            const std::unique_ptr<Transport> backwards = world->split(0, -rank);
            std::array<std::byte, 4> in{}, late{};
            if (rank == 2) {
                const std::array<ReceiveFrom, 2> receives{{{1, in}, {2, late}}};
                const auto waiting = backwards->exchange({}, receives);
                while (waiting->silent().size() > 1) std::this_thread::yield();
                EXPECT_FALSE(waiting->wait(milliseconds(50)));
                EXPECT_EQ(waiting->silent(), std::vector<int>{2});  // rank 0 of the world
            } else if (rank == 1) {
                const std::array<SendTo, 1> sends{{{0, in}}};
                EXPECT_TRUE(backwards->exchange(sends, {})->wait(std::chrono::seconds(5)));
            }
            world->split(0, 0);  // all have done their part
        });
}

TEST(TcpMeeting, ByNameAndBothFamilies) {
    as_tcp_ranks(3, small_things_arrive, "localhost");
    std::string problem;
    if (tcp::listen_at(tcp::resolve("::1", 0, problem).front())) as_tcp_ranks(3, small_things_arrive, "::1");
}

// Rank 0 comes late, and last.
TEST(TcpMeeting, InAnyOrder) {
    const int port = free_port();
    as_ranks(
        3,
        [&](int rank) {
            std::this_thread::sleep_for(milliseconds(150 * (2 - rank)));
            return tcp_transport(launch_of(rank, 3, port));
        },
        small_things_arrive);
}

TEST(TcpMeeting, MissingRanksAreNamedByAll) {
    const int port = free_port();
    std::atomic<int> told = 0;
    std::vector<std::jthread> threads;
    for (const int rank : {0, 2})
        threads.emplace_back([&, rank] {
            TcpLaunch launch = launch_of(rank, 5, port);
            launch.deadline = milliseconds(400);
            const std::string message = message_of(ExitCode::kTransient, [&] { tcp_transport(launch); });
            EXPECT_NE(message.find("ranks 1, 3, 4 of 5 did not come to rank 0 at 127.0.0.1:"), std::string::npos)
                << message;
            ++told;
        });
    threads.clear();
    EXPECT_EQ(told, 2);
}

TEST(TcpMeeting, WithoutRankZeroIsAnErrorWithItsAddress) {
    TcpLaunch launch = launch_of(1, 2, free_port());
    launch.deadline = milliseconds(200);
    const std::string message = message_of(ExitCode::kTransient, [&] { tcp_transport(launch); });
    EXPECT_NE(message.find("rank 0 at " + launch.rendezvous() + " was not reached"), std::string::npos) << message;
    launch.host = "no-such-host.invalid";
    const std::string nowhere = message_of(ExitCode::kTransient, [&] { tcp_transport(launch); });
    EXPECT_NE(nowhere.find("cannot resolve 'no-such-host.invalid'"), std::string::npos) << nowhere;
}

TEST(TcpMeeting, ElsewhereThanOnThisMachineIsRefused) {
    const std::string message =
        message_of(ExitCode::kBadInput, [&] { tcp_transport(launch_of(0, 2, 29400, "192.0.2.77")); });
    EXPECT_NE(message.find("rank 0 cannot listen there"), std::string::npos) << message;
}

// A meeting of two ranks with somebody else at the door, who must be told `wanted`.
void expect_refused(ExitCode code, const std::string& wanted, const std::function<void(TcpLaunch&)>& other) {
    const int port = free_port();
    std::mutex mutex;
    std::string notes;
    std::jthread first([&] {
        TcpLaunch launch = launch_of(0, 3, port);
        launch.note = [&](const std::string& note) {
            const std::lock_guard lock(mutex);
            notes += note + "\n";
        };
        Communicator world(tcp_transport(launch));
        small_things_arrive(world);
    });
    std::jthread second([&] {
        Communicator world(tcp_transport(launch_of(1, 3, port)));
        small_things_arrive(world);
    });
    TcpLaunch stranger = launch_of(2, 3, port);
    other(stranger);
    // As the second of its number, it must come after the first.
    if (stranger.rank == 1) std::this_thread::sleep_for(milliseconds(200));
    const std::string message = message_of(code, [&] { tcp_transport(stranger); });
    EXPECT_NE(message.find(wanted), std::string::npos) << message;
    Communicator world(tcp_transport(launch_of(2, 3, port)));
    small_things_arrive(world);
    const std::lock_guard lock(mutex);
    EXPECT_NE(notes.find(wanted), std::string::npos) << notes;
    EXPECT_NE(notes.find("refused a connection from 127.0.0.1:"), std::string::npos) << notes;
}

TEST(TcpMeeting, RefusesOtherJobs) {
    expect_refused(ExitCode::kTransient, "it belongs to job 'other', not 'test'",
                   [](TcpLaunch& launch) { launch.job = "other"; });
}
TEST(TcpMeeting, RefusesOtherSizes) {
    expect_refused(ExitCode::kBadInput, "it counts 4 ranks, not 3", [](TcpLaunch& launch) { launch.ranks = 4; });
}
TEST(TcpMeeting, RefusesASecondOfARank) {
    expect_refused(ExitCode::kBadInput, "rank 1 is there already", [](TcpLaunch& launch) { launch.rank = 1; });
}
TEST(TcpMeeting, RefusesRanksThatDoNotExist) {
    expect_refused(ExitCode::kBadInput, "it calls itself rank 3; wanted 1 .. 2",
                   [](TcpLaunch& launch) { launch.rank = 3, launch.ranks = 3; });
}

// What plays the environment of a process.
class Environment {
  public:
    Environment() {
        for (const char* name : {"PLIMSOLL_RENDEZVOUS", "PLIMSOLL_RANK", "PLIMSOLL_RANKS", "PLIMSOLL_JOB_KEY",
                                 "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}) {
            const char* value = std::getenv(name);
            before_.emplace_back(name, value ? std::optional<std::string>(value) : std::nullopt);
            unsetenv(name);
        }
    }
    ~Environment() {
        for (const auto& [name, value] : before_)
            if (value)
                setenv(name, value->c_str(), 1);
            else
                unsetenv(name);
    }
    void set(const char* name, const std::string& value) { setenv(name, value.c_str(), 1); }

  private:
    std::vector<std::pair<const char*, std::optional<std::string>>> before_;
};

TEST(TcpLaunchOfEnvironment, OwnNamesBeforeSlurms) {
    Environment environment;
    EXPECT_FALSE(tcp_launch());
    environment.set("SLURM_PROCID", "3"), environment.set("SLURM_NTASKS", "8"), environment.set("SLURM_JOB_ID", "77");
    EXPECT_FALSE(tcp_launch());
    environment.set("PLIMSOLL_RENDEZVOUS", "node1:29400");
    TcpLaunch launch = *tcp_launch();
    EXPECT_EQ(launch.host, "node1");
    EXPECT_EQ(launch.port, 29400);
    EXPECT_EQ(launch.rank, 3);
    EXPECT_EQ(launch.ranks, 8);
    EXPECT_EQ(launch.job, "77.0");
    EXPECT_EQ(launch.rendezvous(), "node1:29400");
    environment.set("SLURM_RESTART_COUNT", "2");
    environment.set("PLIMSOLL_RANK", "0"), environment.set("PLIMSOLL_RANKS", "2");
    environment.set("PLIMSOLL_RENDEZVOUS", "[fe80::1]:5");
    launch = *tcp_launch();
    EXPECT_EQ(launch.host, "fe80::1");
    EXPECT_EQ(launch.rank, 0);
    EXPECT_EQ(launch.ranks, 2);
    EXPECT_EQ(launch.job, "77.2");
    EXPECT_EQ(launch.rendezvous(), "[fe80::1]:5");
    environment.set("PLIMSOLL_JOB_KEY", "mine");
    EXPECT_EQ(tcp_launch()->job, "mine");
}

TEST(TcpLaunchOfEnvironment, SaysWhatIsWrong) {
    Environment environment;
    const auto expect = [&](const std::string& wanted) {
        const std::string message = message_of(ExitCode::kBadInput, [] { tcp_launch(); });
        EXPECT_NE(message.find(wanted), std::string::npos) << message;
    };
    for (const char* bad : {"node1", ":5", "a:b:5", "fe80::1:5", "["}) {
        environment.set("PLIMSOLL_RENDEZVOUS", bad);
        expect(fmt::format("PLIMSOLL_RENDEZVOUS is '{}', wanted host:port", bad));
    }
    for (const char* port : {"", "0", "65536", "5x", "-1", "99999999999999"}) {
        environment.set("PLIMSOLL_RENDEZVOUS", fmt::format("node1:{}", port));
        expect(fmt::format("the port of PLIMSOLL_RENDEZVOUS is '{}', wanted a number in 1 .. 65535", port));
    }
    environment.set("PLIMSOLL_RENDEZVOUS", "node1:5");
    expect("neither of PLIMSOLL_RANKS and SLURM_NTASKS is");
    environment.set("PLIMSOLL_RANKS", "4");
    expect("neither of PLIMSOLL_RANK and SLURM_PROCID is");
    environment.set("SLURM_PROCID", "4");
    expect("SLURM_PROCID is '4', wanted a number in 0 .. 3");
    environment.set("PLIMSOLL_RANK", "one");
    expect("PLIMSOLL_RANK is 'one'");
    environment.set("PLIMSOLL_RANK", "1"), environment.set("PLIMSOLL_JOB_KEY", std::string(129, 'x'));
    expect("PLIMSOLL_JOB_KEY has 129 bytes, at most 128 fit");
}

}  // namespace
}  // namespace plimsoll
