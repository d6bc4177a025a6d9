// Threads as ranks, for tests.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "dist/communicator.h"
#include "kernels/error.h"

namespace plimsoll {

// Runs `body` as every rank. An error of a rank is this test's, unless `body` catches it.
inline void as_ranks(int size, const std::function<void(Communicator&)>& body) {
    std::vector<std::unique_ptr<Transport>> transports = thread_transports(size);
    std::vector<std::jthread> threads;
    for (std::unique_ptr<Transport>& transport : transports)
        threads.emplace_back([&body, &transport] {
            Communicator world(std::move(transport));
            try {
                body(world);
            } catch (const std::exception& error) {
                ADD_FAILURE() << "rank " << world.rank() << ": " << error.what();
                world.abort(error.what());
            }
        });
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
