#include "train/starting_ranks.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "train/launch.h"

namespace plimsoll {

namespace fs = std::filesystem;

StartingRanks::StartingRanks(const std::string& run_directory, const Launch& launch)
    : folder_(run_directory + "/starting." + launch.job),
      file_(fmt::format("{}/{}", folder_, launch.rank)),
      ranks_(launch.ranks) {
    std::error_code ignored;
    fs::create_directories(folder_, ignored);
    std::ofstream(file_).put('\n');
}

void StartingRanks::withdraw() const {
    std::error_code ignored;
    fs::remove(file_, ignored);
    fs::remove(folder_, ignored);  // the last one removes it
}

std::string StartingRanks::missing() const {
    std::vector<int> ranks;
    std::error_code ignored;
    for (int rank = 0; rank < ranks_; ++rank)
        if (!fs::exists(fmt::format("{}/{}", folder_, rank), ignored)) ranks.push_back(rank);
    if (ranks.empty()) return "every rank that is known of has started, or started and ended";
    return fmt::format("ranks {} of {} have not started", fmt::join(ranks, ", "), ranks_);
}

}  // namespace plimsoll
