// Who runs where, and who shares a device.
#include "train/rank_table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "dist/as_ranks.h"

namespace plimsoll {
namespace {

RankInfo rank_on(const std::string& host, const std::string& device_id) {
    RankInfo rank;
    rank.host = host, rank.device = "NVIDIA H200 at " + device_id, rank.device_id = device_id;
    return rank;
}

TEST(SharedDevices, NobodySharesWhatIsOnesOwn) {
    EXPECT_EQ(find_shared_devices({}), "");
    const std::vector<RankInfo> cpus(3);
    EXPECT_EQ(find_shared_devices(cpus), "");
    // The same slot of two machines.
    const std::vector<RankInfo> gpus{rank_on("a", "boot1 0000:01"), rank_on("a", "boot1 0000:02"),
                                     rank_on("b", "boot2 0000:01"), RankInfo{}};
    EXPECT_EQ(find_shared_devices(gpus), "");
}

TEST(SharedDevices, AreNamedWithRanksHostAndDevice) {
    std::vector<RankInfo> ranks{rank_on("a", "boot1 0000:01"), rank_on("b", "boot2 0000:01"),
                                rank_on("b", "boot2 0000:02"), rank_on("b", "boot2 0000:01"),
                                rank_on("b", "boot2 0000:01")};
    ranks[1].assigned = "0,1";
    const std::string problem = find_shared_devices(ranks);
    EXPECT_NE(problem.find("ranks 1, 3, 4 use the same device of b (device 0000:01;"), std::string::npos) << problem;
    EXPECT_NE(problem.find("CUDA_VISIBLE_DEVICES=0,1"), std::string::npos) << problem;
    EXPECT_NE(problem.find("--gpus-per-task=1"), std::string::npos) << problem;
    EXPECT_EQ(problem.find("device of a"), std::string::npos) << problem;
}

TEST(SharedDevices, ManyAreCounted) {
    std::vector<RankInfo> ranks;
    for (int r = 0; r < 14; ++r) ranks.push_back(rank_on("a", fmt::format("boot {}", r / 2)));
    const std::string problem = find_shared_devices(ranks);
    EXPECT_NE(problem.find("ranks 6, 7 use"), std::string::npos) << problem;
    EXPECT_EQ(problem.find("ranks 8, 9 use"), std::string::npos) << problem;
    EXPECT_NE(problem.find("and 3 more devices are shared"), std::string::npos) << problem;
}

// Ids as long as they come: a machine's name, its boot id, a GPU's UUID. What tells two apart is at the end.
TEST(SharedDevices, LongIdsAreNotCutToBeEqual) {
    const std::string machine = std::string(64, 'h') + " " + std::string(36, 'b') + " MIG-" + std::string(35, 'u');
    const std::vector<RankInfo> ranks{rank_on("a", machine + "1"), rank_on("a", machine + "2")};
    EXPECT_EQ(find_shared_devices(ranks), "");
}

TEST(VisibleEntry, IsTheOnlyOneOrThatOfTheLocalRank) {
    EXPECT_EQ(visible_entry("3", 0), "3");
    EXPECT_EQ(visible_entry("3", 5), "3");
    EXPECT_EQ(visible_entry("4,2,GPU-a", 0), "4");
    EXPECT_EQ(visible_entry("4,2,GPU-a", 2), "GPU-a");
    EXPECT_EQ(visible_entry("4,2,GPU-a", 3), "4");
    for (const char* none : {"", "-1", "NoDevFiles", ",1"}) EXPECT_EQ(visible_entry(none, 1), "") << none;
    EXPECT_EQ(visible_entry("0,-1,2", 1), "0");  // CUDA reads no further
    EXPECT_EQ(visible_entry("0,", 1), "0");
}

TEST(CoreRanges, AreShort) {
    const std::vector<int> cores{0, 1, 2, 5, 8, 9};
    EXPECT_EQ(ranges_of(cores), "0-2,5,8-9");
    EXPECT_EQ(ranges_of({}), "");
}

TEST(RankTable, HoldsALineOfEveryRank) {
    as_ranks(3, [](Communicator& world) {
        const RunDevice device("cpu", 1);
        RunConfig config;
        config.run.device = "cpu";
        const int local = local_rank_of(world, world.rank() == 1 ? std::optional(5) : std::nullopt);
        const std::vector<RankInfo> ranks = gather_rank_table(world, device, config, local);
        ASSERT_EQ(ranks.size(), 3U);
        EXPECT_EQ(ranks[0].local_rank, 0);
        EXPECT_EQ(ranks[1].local_rank, 5);  // the launcher knows
        EXPECT_EQ(ranks[2].local_rank, 2);  // counted
        EXPECT_TRUE(ranks[0].device_id.text().empty());
        EXPECT_NE(line_of(ranks[1]).find(", local rank 5, cpu, cores "), std::string::npos) << line_of(ranks[1]);
    });
}

}  // namespace
}  // namespace plimsoll
