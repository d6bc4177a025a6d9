#include "train/run_lock.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "data/file.h"
#include "kernels/error.h"
#include "train/checkpoint_file.h"

namespace plimsoll {
namespace {

using nlohmann::json;

std::string environment(const char* name, const std::string& otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

std::string boot_id() {
    std::string id;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
    return id;
}

}  // namespace

RunLock::RunLock(const std::string& run_directory) : path_(run_directory + "/run.lock") {
    std::random_device random;
    generation_ = fmt::format("{:08x}{:08x}", random(), random());
    const json owner{{"generation", generation_},
                     {"job", environment("SLURM_JOB_ID", fmt::format("pid {}", ::getpid()))},
                     {"restart", environment("SLURM_RESTART_COUNT", "0")},
                     {"boot", boot_id()}};
    // A name of its own: two starts at once must not write into one file.
    const std::string temporary = path_ + "." + generation_;
    write_flushed(temporary, owner.dump(1) + "\n");
    std::error_code error;
    std::filesystem::rename(temporary, path_, error);
    if (error) fail_io("cannot rename '{}' to '{}': {}", temporary, path_, error.message());
    flush_folder(run_directory);
}

void RunLock::check_held() const {
    std::string text;
    try {
        text = read_file(path_, "run lock");
    } catch (const Error& error) {
        throw Error(ExitCode::kTransient, fmt::format("the lock this run took is gone ({}); was its directory moved or "
                                                      "deleted? Nothing was written",
                                                      error.what()));
    }
    const json owner = json::parse(text, nullptr, false);
    const auto said = [&](const char* key) {
        return owner.is_object() && owner.contains(key) && owner[key].is_string() ? owner[key].get<std::string>() : "?";
    };
    if (said("generation") == generation_) return;
    throw Error(ExitCode::kTransient,
                fmt::format("{}: generation {} (job {}, restart {}) started this run after generation {}, which is "
                            "this one; nothing was written",
                            path_, said("generation"), said("job"), said("restart"), generation_));
}

}  // namespace plimsoll
