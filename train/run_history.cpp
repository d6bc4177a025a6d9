#include "train/run_history.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "train/json_lines.h"
#include "train/ledger.h"
#include "train/run_lock.h"

namespace plimsoll {
namespace {

using nlohmann::json;

int64_t unix_seconds() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

// What the file says under a key, of whatever a hostile or damaged line may hold.
template <class T>
T value_or(const json& line, const char* key, T otherwise) {
    const auto found = line.find(key);
    if (found == line.end()) return otherwise;
    if constexpr (std::is_same_v<T, std::string>)
        return found->is_string() ? found->get<std::string>() : otherwise;
    else
        return found->is_number_integer() ? found->get<T>() : otherwise;
}

}  // namespace

std::vector<RecordedStart> recorded_starts(const std::vector<json>& lines) {
    std::vector<RecordedStart> starts;
    for (const json& line : lines) {
        const std::string event = value_or<std::string>(line, "event", "");
        const std::string generation = value_or<std::string>(line, "generation", "");
        if (event == "start") {
            starts.push_back({.generation = generation,
                              .newest = std::max<int64_t>(0, value_or<int64_t>(line, "newest", 0)),
                              .exit_code = {}});
            continue;
        }
        const auto start = std::ranges::find(starts, generation, &RecordedStart::generation);
        if (event != "end" || start == starts.end()) continue;
        start->exit_code = value_or<int>(line, "exit_code", static_cast<int>(ExitCode::kInternal));
        start->fenced = value_or<std::string>(line, "status", "") == name_of(RunStatus::kFenced);
    }
    return starts;
}

int64_t starts_without_progress(const std::vector<RecordedStart>& starts, int64_t newest) {
    int64_t count = 0;
    for (auto start = starts.rbegin(); start != starts.rend(); ++start) {
        if (start->fenced) continue;
        if (start->exit_code == static_cast<int>(ExitCode::kOk) || start->newest < newest) break;
        newest = start->newest;
        ++count;
    }
    return count;
}

void RunHistory::open(const Setting& setting) {
    setting_ = setting;
    const std::vector<RecordedStart> starts = recorded_starts(read_json_lines(file()));
    earlier_ = static_cast<int64_t>(starts.size());
    without_progress_ = starts_without_progress(starts, setting.newest);
    if (setting.max_restarts == 0 || without_progress_ < setting.max_restarts) return;
    std::vector<std::string> ends;
    for (const RecordedStart& start : starts)
        if (!start.fenced) ends.push_back(start.exit_code ? fmt::format("status {}", *start.exit_code) : "killed");
    ends.erase(ends.begin(), ends.end() - std::min<std::ptrdiff_t>(std::ssize(ends), 5));
    throw Error(ExitCode::kInternal,
                fmt::format("run '{0}': {1} starts in a row ended without a checkpoint past step {2} (the last: {3}); "
                            "train.max_restarts is {4}. See the end of {0}/log.txt. Once the cause is gone, --set "
                            "train.max_restarts={5} goes on, 0 sets no limit; the next checkpoint ends the count",
                            setting.directory, without_progress_, setting.newest, fmt::join(ends, ", "),
                            setting.max_restarts, without_progress_ + setting.max_restarts));
}

void RunHistory::begin(const std::string& generation) {
    const JobStart job = job_start();
    append_json_line(file(), {{"event", "start"},
                              {"time", unix_seconds()},
                              {"generation", generation},
                              {"job", job.job},
                              {"restart", job.restart},
                              {"ranks", setting_.ranks},
                              {"newest", setting_.newest}});
    generation_ = generation;
}

void RunHistory::resumed(int64_t step) {
    append_json_line(file(), {{"event", "resume"}, {"generation", generation_}, {"step", step}});
}

std::string RunHistory::describe() const {
    return fmt::format("start {} of this run, {} since the last progress", earlier_ + 1, without_progress_ + 1);
}

void RunHistory::end(ExitCode code) {
    if (generation_.empty() || ended_.test_and_set()) return;
    const bool fenced = code == ExitCode::kTransient && RunLock::generation_in(setting_.directory) != generation_;
    const RunStatus status = fenced                             ? RunStatus::kFenced
                             : code == ExitCode::kOk            ? RunStatus::kDone
                             : code == ExitCode::kSavedOnSignal ? RunStatus::kStopped
                                                                : RunStatus::kFailed;
    const auto try_to = [](const std::function<void()>& write) {
        try {
            write();
        } catch (const std::exception& error) {
            fmt::print(stderr, "plimsoll: warning: {}\n", error.what());
        }
    };
    try_to([&] {
        append_json_line(file(), {{"event", "end"},
                                  {"time", unix_seconds()},
                                  {"generation", generation_},
                                  {"exit_code", static_cast<int>(code)},
                                  {"status", name_of(status)}});
    });
    if (found_done_) return;
    try_to([&] {
        append_to_ledger({.directory = setting_.directory,
                          .parent = setting_.parent,
                          .code = code,
                          .status = status,
                          .ranks = setting_.ranks});
    });
}

}  // namespace plimsoll
