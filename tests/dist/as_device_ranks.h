// Threads as ranks whose tensors lie on one device.
#pragma once

#include <array>
#include <memory>

#include "dist/as_ranks.h"
#include "support/cuda_test.h"
#include "support/fake_nccl.h"

namespace plimsoll {

// A stream of its own for each rank; kept for the next test, opening a device takes long.
inline Exec exec_of_rank(int rank) {
    static std::array<cuda::Context, 4> contexts;
    return {.device = Device::kCuda, .threads = 1, .cuda = &contexts.at(static_cast<size_t>(rank))};
}

inline std::unique_ptr<Transport> over_host_memory(std::shared_ptr<Transport> host, const Exec& exec,
                                                   std::chrono::nanoseconds /*timeout*/) {
    return staged_transport(std::move(host), exec);
}
inline std::unique_ptr<Transport> over_fake_nccl(std::shared_ptr<Transport> host, const Exec& exec,
                                                 std::chrono::nanoseconds timeout) {
    return nccl_transport_with(fake_nccl(), std::move(host), exec, timeout);
}

// Runs `body` as every rank, its communicator bound to the device, where everything is done as late as it may be. Ranks
// wait for one that computes on the emulator, beside other programs for minutes; ctest ends the tests after six.
inline void as_device_ranks(int size, const DeviceTransport& make, const std::function<void(Communicator&)>& body,
                            std::chrono::nanoseconds timeout = std::chrono::minutes(5)) {
    set_late_streams(true);
    as_ranks(size, [&](Communicator& world) {
        world.set_timeout(timeout);
        world.bind(exec_of_rank(world.rank()), make);
        body(world);
    });
    set_late_streams(false);
}

}  // namespace plimsoll
