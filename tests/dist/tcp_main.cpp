// A rank over TCP, as the environment says (dist/transport.h): runs the communicator's cases, or one act in which the
// ranks do not play along. tests/python/tcp_check.py starts the ranks and looks at how they end.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "dist/process_ranks.h"
#include "kernels/error.h"

namespace plimsoll {

using std::chrono::milliseconds;

Communicator& world_of_processes() {
    static Communicator value = [] {
        TcpLaunch launch = tcp_launch().value();
        launch.deadline = std::chrono::seconds(5);
        launch.note = [](const std::string& note) { std::fprintf(stderr, "note: %s\n", note.c_str()); };
        return Communicator(tcp_transport(launch));
    }();
    return value;
}

namespace {

// A span of 2 GiB and a bit, which is one piece of memory many times: it costs little of it.
std::span<std::byte> large_span(std::byte fill) {
    constexpr size_t kPiece = size_t{64} << 20, kPieces = 33;
    const int file = memfd_create("piece", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, kPiece) != 0) fail_io("no memory for a large message");
    auto* all = static_cast<std::byte*>(mmap(nullptr, kPiece * kPieces, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kPieces; ++i)
        if (mmap(all + i * kPiece, kPiece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
            fail_io("no addresses for a large message");
    std::fill(all, all + kPiece, fill);
    return {all, kPiece * kPieces};
}

const std::map<std::string, void (*)(Communicator&)> kActs{
    {"abort",
     [](Communicator& world) {
         if (world.rank() == 1) world.abort("ran out of luck", ExitCode::kBadInput);
         if (world.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(60));  // computes
         world.barrier();
     }},
    {"abort-by-all", [](Communicator& world) { world.abort("nobody likes it", ExitCode::kBadInput); }},
    {"vanish",
     [](Communicator& world) {
         if (world.rank() == 1) std::_Exit(0);
         if (world.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(60));
         world.barrier();
     }},
    {"early",
     [](Communicator& world) {
         if (world.rank() == 1) return;
         std::this_thread::sleep_for(milliseconds(1500));  // longer than the other waits for goodbyes
         std::vector<std::byte> bytes(100);
         if (world.rank() == 0) world.send(bytes, 2).wait();
         if (world.rank() == 2) world.receive(bytes, 0).wait();
     }},
    {"silent",
     [](Communicator& world) {
         world.set_timeout(milliseconds(500));
         if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
         world.barrier();
     }},
    {"large",
     [](Communicator& world) {
         const std::span<std::byte> bytes = large_span(std::byte{static_cast<unsigned char>(7 * (world.rank() == 0))});
         std::array<std::byte, 3> after{std::byte{1}, std::byte{2}, std::byte{3}};
         if (world.rank() == 0) {
             Work work = world.send(bytes, 1);
             world.send(after, 1).wait();
             work.wait();
         } else {
             std::array<std::byte, 3> got{};
             world.receive(bytes, 0).wait();
             world.receive(got, 0).wait();
             check(std::ranges::count(bytes.last(1 << 20), std::byte{7}) == 1 << 20 && got == after, "other bytes");
         }
     }},
};

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
    using namespace plimsoll;
    testing::InitGoogleTest(&argc, argv);
    try {
        Communicator& world = world_of_processes();
        if (argc < 2) return RUN_ALL_TESTS();
        world.barrier();
        kActs.at(argv[1])(world);
        return 0;
    } catch (const Error& error) {
        std::fprintf(stderr, "rank %s: %s\n", std::getenv("PLIMSOLL_RANK"), error.what());
        return static_cast<int>(error.code());
    }
}
