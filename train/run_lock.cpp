#include "train/run_lock.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "data/file.h"
#include "dist/machine_name.h"
#include "kernels/error.h"
#include "train/checkpoint_file.h"

namespace plimsoll {
namespace {

using nlohmann::json;

std::string environment(const char* name, const std::string& otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

std::string lock_path(const std::string& run_directory) {
    return run_directory + "/run.lock";
}

// What a lock's text says under a key.
std::string said(const json& owner, const char* key) {
    return owner.is_object() && owner.contains(key) && owner[key].is_string() ? owner[key].get<std::string>() : "?";
}

// Two files of one name differ in one of these; zeros where there is none.
std::pair<uint64_t, int64_t> identity_of(const std::string& path) {
    struct stat there = {};
    if (::stat(path.c_str(), &there) != 0) return {};
    return {there.st_ino, there.st_mtim.tv_sec * 1'000'000'000 + there.st_mtim.tv_nsec};
}

}  // namespace

JobStart job_start() {
    return {.job = environment("SLURM_JOB_ID", fmt::format("pid {}", ::getpid())),
            .restart = environment("SLURM_RESTART_COUNT", "0")};
}

std::string RunLock::generation_in(const std::string& run_directory) {
    try {
        return said(json::parse(read_file(lock_path(run_directory), "run lock"), nullptr, false), "generation");
    } catch (const Error&) {
        return {};
    }
}

RunLock::RunLock(const std::string& run_directory) : path_(lock_path(run_directory)) {
    std::random_device random;
    generation_ = fmt::format("{:08x}{:08x}", random(), random());
    const JobStart start = job_start();
    const json owner{{"generation", generation_}, {"job", start.job}, {"restart", start.restart}, {"boot", boot_id()}};
    // A name of its own: two starts at once must not write into one file.
    const std::string temporary = path_ + "." + generation_;
    write_flushed(temporary, owner.dump(1) + "\n");
    std::error_code error;
    std::filesystem::rename(temporary, path_, error);
    if (error) fail_io("cannot rename '{}' to '{}': {}", temporary, path_, error.message());
    flush_folder(run_directory);
    file_ = identity_of(path_);
}

bool RunLock::is_untouched() const {
    return identity_of(path_) == file_;
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
    if (said(owner, "generation") == generation_) return;
    throw Error(ExitCode::kTransient,
                fmt::format("{}: generation {} (job {}, restart {}) started this run after generation {}, which is "
                            "this one; nothing was written",
                            path_, said(owner, "generation"), said(owner, "job"), said(owner, "restart"), generation_));
}

}  // namespace plimsoll
