// The communicator's cases on the ranks of an MPI job: mpirun -n 3 build/dist_mpi_test. With PLIMSOLL_TEST_GPU set,
// their tensors lie on the first GPU, which all share.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "dist/process_ranks.h"
#include "kernels/gpu.h"

namespace plimsoll {

Communicator& world_of_processes() {
    static const std::shared_ptr<cuda::Context> gpu = std::getenv("PLIMSOLL_TEST_GPU") ? open_gpu() : nullptr;
    static Communicator value = [] {
        Communicator all(mpi_transport());
        all.bind({.device = gpu ? Device::kCuda : Device::kCpu, .cuda = gpu.get()});
        return all;
    }();
    return value;
}

namespace {

// Each process is a rank of one world, not a world of its own.
TEST(MpiCommunicatorWorld, IsTheWholeJob) {
    if (const char* ranks = std::getenv("OMPI_COMM_WORLD_SIZE"))
        EXPECT_EQ(std::to_string(world_of_processes().size()), ranks);
}

}  // namespace
}  // namespace plimsoll
