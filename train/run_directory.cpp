#include "train/run_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// The JSON-lines files.
constexpr const char* kLines[] = {"metrics.jsonl", "evals.jsonl", "probes.jsonl", "samples.jsonl", "cad.jsonl"};

// Keys that may change between the parts of one run: none changes what the steps already done would have been, but for
// the order of sums.
constexpr std::string_view kFree[] = {"run.dir",
                                      "run.threads",
                                      "run.name",
                                      "train.max_steps",
                                      "train.max_tokens",
                                      "train.eval_every",
                                      "train.save_every",
                                      "train.keep",
                                      "train.keep_every",
                                      "train.async_save",
                                      "train.log_every",
                                      "probes.enabled",
                                      "probes.max_share",
                                      "train.recompute",
                                      "run.graphs",
                                      "run.gemm_cache",
                                      "run.measure_peak",
                                      "train.micro_batch",
                                      "train.sample_every",
                                      "train.sample_prompt",
                                      "train.sample_tokens",
                                      "train.max_seconds",
                                      "train.max_restarts",
                                      "loss.logits_mib"};

// What ranks share may change too: another order of sums, the same data.
bool may_change(const std::string& difference) {
    return difference.starts_with("parallel.") || difference.starts_with("cad.") ||
           std::any_of(std::begin(kFree), std::end(kFree),
                       [&](std::string_view key) { return difference.starts_with(std::string(key) + ":"); });
}

}  // namespace

RunDirectory::RunDirectory(const RunConfig& config, Resume resume) : path_(config.directory()) {
    try {
        existed_ = fs::exists(file("config.toml"));
        if (existed_ && resume == Resume::kFresh) {
            for (const char* name : {"config.toml", "run.json", "attention_maps.json", "tokenizer.json", "log.txt",
                                     "restarts.jsonl", "checkpoints"})
                fs::remove_all(file(name));
            for (const char* name : kLines) fs::remove_all(file(name));
            existed_ = false;
        }
        if (existed_ && resume == Resume::kNever)
            fail_input(
                "run directory '{}' already holds a run; --resume auto goes on with it, --fresh deletes it and starts "
                "again, "
                "--run-dir names another",
                path_);
        if (existed_) {
            const RunConfig there = load_config({.file = file("config.toml"), .variant = {}, .overrides = {}});
            std::vector<std::string> differences = config_differences(config, there);
            std::erase_if(differences, may_change);
            if (!differences.empty())
                fail_input(
                    "run directory '{}' belongs to another configuration ({}); --run-dir names another directory, "
                    "--fresh "
                    "deletes this one",
                    path_, fmt::join(differences, "; "));
        }
        fs::create_directories(path_);
    } catch (const fs::filesystem_error& error) {
        fail_io("run directory '{}' cannot be used: {}; --run-dir names another", path_, error.what());
    }
    write_file_atomically(file("config.toml"), {resolved_toml(config)});
}

RunDirectory RunDirectory::follower(const RunConfig& config, bool existed) {
    RunDirectory directory;
    directory.path_ = config.directory(), directory.existed_ = existed, directory.writes_ = false;
    return directory;
}

void RunDirectory::write_json(const std::string& name, const nlohmann::json& value) {
    if (!writes_) return;
    write_held();
    write_file_atomically(file(name), {value.dump(1), "\n"});
}

nlohmann::json RunDirectory::read_json(const std::string& name) const {
    if (!fs::exists(file(name))) return {};
    return nlohmann::json::parse(read_file(file(name), "run file"), nullptr, false);
}

// All of the held lines of a file, or none: half a line would spoil the one after it.
void RunDirectory::write_held() {
    for (auto held = held_.begin(); held != held_.end(); held = held_.erase(held)) {
        const auto& [name, lines] = *held;
        std::error_code error;
        const uintmax_t size = fs::exists(file(name), error) ? fs::file_size(file(name), error) : 0;
        std::ofstream out(file(name), std::ios::app);
        out << lines;
        if (out.flush()) continue;
        const std::string reason = std::strerror(errno);
        out.close();
        if (!error) fs::resize_file(file(name), size, error);
        fail_io("cannot append to '{}': {}", file(name), reason);
    }
}

std::string RunDirectory::append(const std::string& name, const nlohmann::json& line) {
    if (!writes_) return {};
    held_[name] += line.dump() + "\n";
    try {
        write_held();
        return {};
    } catch (const Error& error) {
        return error.what();
    }
}

// As append(): what a disk refuses does not stop training.
void RunDirectory::flush_lines() const {
    for (const char* name : kLines) {
        const int fd = writes_ ? ::open(file(name).c_str(), O_WRONLY | O_CLOEXEC) : -1;
        if (fd < 0) continue;
        ::fsync(fd);
        ::close(fd);
    }
}

void RunDirectory::truncate_after(int64_t step) {
    if (!writes_) return;
    write_held();
    for (const char* name : kLines) {
        if (!fs::exists(file(name))) continue;
        std::string kept;
        std::ifstream in(file(name));
        for (std::string line; std::getline(in, line);) {
            const auto entry = nlohmann::json::parse(line, nullptr, false);
            if (entry.is_object() && entry.value("step", step + 1) <= step) kept += line + "\n";
        }
        write_file_atomically(file(name), {kept});
    }
}

}  // namespace plimsoll
