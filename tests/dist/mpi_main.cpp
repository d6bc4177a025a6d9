// The communicator's cases on the ranks of an MPI job: mpirun -n 3 build/dist_mpi_test. With PLIMSOLL_TEST_GPU set,
// their tensors lie on the first GPU, which all share.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "dist/communicator_cases.h"
#include "kernels/gpu.h"

namespace plimsoll {
namespace {

Communicator& world() {
    static const std::shared_ptr<cuda::Context> gpu = std::getenv("PLIMSOLL_TEST_GPU") ? open_gpu() : nullptr;
    static Communicator value = [] {
        Communicator all(mpi_transport());
        all.bind({.device = gpu ? Device::kCuda : Device::kCpu, .cuda = gpu.get()});
        return all;
    }();
    return value;
}

class MpiCommunicator : public testing::TestWithParam<CommunicatorCase> {};

TEST_P(MpiCommunicator, DoesWhatItMust) {
    GetParam().run(world());
}

INSTANTIATE_TEST_SUITE_P(Cases, MpiCommunicator, testing::ValuesIn(kCommunicatorCases),
                         [](const auto& info) { return info.param.name; });

// Each process is a rank of one world, not a world of its own.
TEST(MpiCommunicatorWorld, IsTheWholeJob) {
    if (const char* ranks = std::getenv("OMPI_COMM_WORLD_SIZE")) EXPECT_EQ(std::to_string(world().size()), ranks);
    EXPECT_EQ(started_by_mpi(), std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr);
}

// Many operations under way at once, of several kinds, waited for in another order than they were begun in.
TEST(MpiCommunicatorLoad, ManyAtOnce) {
    constexpr int kOperations = 60;
    constexpr int64_t kCount = 5000;
    std::vector<Values<float>> data;
    std::vector<Work> works;
    const std::vector<ElementRange> shards = split_range({0, kCount}, world().size(), 16);
    for (int i = 0; i < kOperations; ++i) data.emplace_back(world(), rough_vector<float>(world().rank(), kCount));
    for (Values<float>& values : data) works.push_back(world().reduce_scatter(values.tensor(), shards));
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    for (Values<float>& values : data) world().all_gather(values.tensor(), shards).wait();
    for (Values<float>& values : data)
        for (size_t i = 0; i < kCount; i += 97) ASSERT_EQ(values.read()[i], sum_over_ranks<float>(world().size(), i));
}

}  // namespace
}  // namespace plimsoll
