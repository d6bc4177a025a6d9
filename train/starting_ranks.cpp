#include "train/starting_ranks.h"

#include <fmt/ranges.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "dist/transport.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

const char* first_of(std::initializer_list<const char*> names) {
    for (const char* name : names)
        if (const char* value = std::getenv(name)) return value;
    return nullptr;
}

// A name for the job that all its ranks know, fit for a file.
std::string job_name() {
    const char* job = first_of({"PMIX_NAMESPACE", "SLURM_JOB_ID", "OMPI_MCA_ess_base_jobid"});
    std::string name = job ? job : "job";
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    return name;
}

}  // namespace

StartingRanks::StartingRanks(const std::string& run_directory)
    : folder_(run_directory + "/starting." + job_name()), file_(fmt::format("{}/{}", folder_, rank_of_launch())) {
    if (const char* ranks = first_of({"OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"})) ranks_ = std::atoi(ranks);
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
