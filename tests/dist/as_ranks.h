// Threads as ranks, for tests.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <thread>

#include "dist/communicator.h"
#include "kernels/error.h"

namespace plimsoll {

// Runs `body` as every rank, whose transport `make` makes. An error of a rank is this test's, unless `body` catches it.
inline void as_ranks(int size, const std::function<std::unique_ptr<Transport>(int rank)>& make,
                     const std::function<void(Communicator&)>& body) {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank)
        threads.emplace_back([&body, &make, rank] {
            std::optional<Communicator> world;
            try {
                world.emplace(make(rank));
                body(*world);
            } catch (const std::exception& error) {
                ADD_FAILURE() << "rank " << rank << ": " << error.what();
                if (world) world->abort(error.what());
            }
        });
}

// Ranks that share memory.
inline void as_ranks(int size, const std::function<void(Communicator&)>& body) {
    std::vector<std::unique_ptr<Transport>> transports = thread_transports(size);
    as_ranks(
        size, [&](int rank) { return std::move(transports[static_cast<size_t>(rank)]); }, body);
}

// What the Error says that `call` throws, which must have this code.
template <class F>
std::string message_of(ExitCode code, F&& call) {
    try {
        call();
    } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
        return error.what();
    }
    return "no error";
}

}  // namespace plimsoll
