// Threads as ranks, for tests.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "dist/communicator.h"

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

}  // namespace plimsoll
