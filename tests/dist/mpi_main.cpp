// The communicator's cases on the ranks of an MPI job: mpirun -n 3 build/dist_mpi_test
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "dist/communicator_cases.h"

namespace plimsoll {
namespace {

Communicator& world() {
    static Communicator value(mpi_transport());
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
    std::vector<std::vector<float>> data;
    std::vector<Work> works;
    const std::vector<ElementRange> shards = split_range({0, kCount}, world().size(), 16);
    for (int i = 0; i < kOperations; ++i) data.push_back(rough_vector<float>(world().rank(), kCount));
    for (std::vector<float>& values : data) works.push_back(world().reduce_scatter(flat(values), shards));
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    for (std::vector<float>& values : data) world().all_gather(flat(values), shards).wait();
    for (const std::vector<float>& values : data)
        for (size_t i = 0; i < values.size(); i += 97) ASSERT_EQ(values[i], sum_over_ranks<float>(world().size(), i));
}

}  // namespace
}  // namespace plimsoll
