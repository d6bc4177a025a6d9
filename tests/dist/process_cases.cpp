// The communicator's cases on ranks that are processes: linked with a main that says how they find each other.
#include <gtest/gtest.h>

#include "dist/communicator_cases.h"
#include "dist/process_ranks.h"

namespace plimsoll {
namespace {

class ProcessCommunicator : public testing::TestWithParam<CommunicatorCase> {};

TEST_P(ProcessCommunicator, DoesWhatItMust) {
    GetParam().run(world_of_processes());
}

INSTANTIATE_TEST_SUITE_P(Cases, ProcessCommunicator, testing::ValuesIn(kCommunicatorCases),
                         [](const auto& info) { return info.param.name; });

// Many operations under way at once, of several kinds, waited for in another order than they were begun in.
TEST(ProcessCommunicatorLoad, ManyAtOnce) {
    constexpr int kOperations = 60;
    constexpr int64_t kCount = 5000;
    Communicator& world = world_of_processes();
    std::vector<Values<float>> data;
    std::vector<Work> works;
    const std::vector<ElementRange> shards = split_range({0, kCount}, world.size(), 16);
    for (int i = 0; i < kOperations; ++i) data.emplace_back(world, rough_vector<float>(world.rank(), kCount));
    for (Values<float>& values : data) works.push_back(world.reduce_scatter(values.tensor(), shards));
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    for (Values<float>& values : data) world.all_gather(values.tensor(), shards).wait();
    for (Values<float>& values : data)
        for (size_t i = 0; i < kCount; i += 97) ASSERT_EQ(values.read()[i], sum_over_ranks<float>(world.size(), i));
}

}  // namespace
}  // namespace plimsoll
