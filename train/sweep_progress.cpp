#include "train/sweep_progress.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dist/machine_name.h"
#include "kernels/error.h"
#include "train/json_lines.h"
#include "train/log.h"
#include "train/subprocess.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Tasks of these job arrays that SLURM has, "123_4" -> state; empty where it has none, or is not here.
std::map<std::string, std::string> tasks_of(const std::set<std::string>& arrays) {
    std::map<std::string, std::string> tasks;
    if (arrays.empty()) return tasks;
    std::istringstream lines(run_program({"squeue", "--noheader", "--array", "--me", "--format=%i %T"}).output);
    for (std::string task, state; lines >> task >> state;)
        if (arrays.contains(task.substr(0, task.find('_')))) tasks[task] = state;
    return tasks;
}

// Whether the process of a "begin" lives: on this machine, and not another one with its number.
bool lives(const json& begin, const SweepCell& cell) {
    if (begin.value("host", "") != host_name()) return false;
    std::ifstream in(fmt::format("/proc/{}/cmdline", begin.value("pid", 0)));
    const std::string line((std::istreambuf_iterator<char>(in)), {});
    return line.find(cell.dir) != std::string::npos;
}

}  // namespace

std::string_view name_of(CellState state) {
    constexpr std::string_view kNames[] = {"waiting", "queued", "running", "interrupted", "failed", "done"};
    return kNames[static_cast<size_t>(state)];
}

std::string path_in(const Sweep& sweep, const std::string& name) {
    return (fs::path(sweep.dir) / name).string();
}

void note_event(const Sweep& sweep, json event) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    event["time"] = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    if (event["event"] == "begin") event["host"] = host_name();
    append_json_line(path_in(sweep, "sweep.jsonl"), event);
}

SweepJournal::SweepJournal(const Sweep& sweep) {
    std::map<std::string, json> begun;             // without an end, by cell
    std::map<std::string, std::string> submitted;  // the newest task of a cell, "123_4"
    std::set<std::string> arrays;
    for (const json& entry : read_json_lines(path_in(sweep, "sweep.jsonl"))) {
        const std::string event = entry.value("event", ""), cell = entry.value("cell", "");
        if (event == "begin") begun[cell] = entry;
        if (event == "end") exit_codes_[cell] = entry.value("status", 0), begun.erase(cell);
        if (event == "submit") {
            const std::string job = entry.value("job", "");
            arrays.insert(job);
            for (const auto& [name, task] : entry.value("tasks", std::map<std::string, int64_t>{}))
                submitted[name] = fmt::format("{}_{}", job, task);
        }
    }
    const std::map<std::string, std::string> tasks = tasks_of(arrays);
    for (const SweepCell& cell : sweep.cells) {
        const auto begin = begun.find(cell.name);
        if (begin != begun.end() && lives(begin->second, cell)) running_.insert(cell.name);
        const auto task = submitted.find(cell.name);
        if (task == submitted.end() || !tasks.contains(task->second)) continue;
        (tasks.at(task->second) == "RUNNING" ? running_ : queued_).insert(cell.name);
    }
}

void SweepJournal::note_end(const Sweep& sweep, const SweepCell& cell, int status) {
    note_event(sweep, {{"event", "end"}, {"cell", cell.name}, {"status", status}});
    exit_codes_[cell.name] = status;
    running_.erase(cell.name);
}

CellProgress SweepJournal::progress_of(const SweepCell& cell) const {
    CellProgress progress;
    const json line = last_json_line((fs::path(cell.dir) / "metrics.jsonl").string());
    if (line.is_object()) {
        progress.step = line.value("step", int64_t{0});
        progress.seconds = line.value("seconds", 0.0);
        if (line.contains("loss") && line["loss"].is_number()) progress.loss = line["loss"].get<double>();
    }
    json info;
    if (std::ifstream in((fs::path(cell.dir) / "run.json").string()); in) info = json::parse(in, nullptr, false);
    const auto code = exit_codes_.find(cell.name);
    if (code != exit_codes_.end()) progress.exit_code = code->second;
    const bool failed = progress.exit_code != 0 && progress.exit_code != static_cast<int>(ExitCode::kSavedOnSignal) &&
                        progress.exit_code != static_cast<int>(ExitCode::kTransient);
    if (info.is_object() && info.value("status", "") == "done" && progress.step >= cell.steps)
        progress.state = CellState::kDone;
    else if (running_.contains(cell.name))
        progress.state = CellState::kRunning;
    else if (queued_.contains(cell.name))
        progress.state = CellState::kQueued;
    else if (failed)
        progress.state = CellState::kFailed;
    else if (info.is_object() || progress.step > 0)
        progress.state = CellState::kInterrupted;
    return progress;
}

int print_sweep_status(const Sweep& sweep) {
    const SweepJournal journal(sweep);
    std::map<CellState, int> count;
    double seconds = 0, steps = 0, rest = 0;
    size_t width = 4;
    for (const SweepCell& cell : sweep.cells) width = std::max(width, cell.name.size());
    fmt::print("{:<{}}  {:<12}{:>16}{:>10}{:>10}\n", "cell", width, "state", "step", "loss", "time");
    for (const SweepCell& cell : sweep.cells) {
        const CellProgress p = journal.progress_of(cell);
        ++count[p.state];
        seconds += p.seconds, steps += static_cast<double>(p.step);
        if (p.state != CellState::kDone) rest += static_cast<double>(cell.steps - p.step);
        fmt::print(
            "{:<{}}  {:<12}{:>16}{:>10}{:>10}\n", cell.name, width,
            p.state == CellState::kFailed ? fmt::format("failed {}", p.exit_code) : std::string(name_of(p.state)),
            fmt::format("{}/{}", p.step, cell.steps), p.loss ? fmt::format("{:.4f}", *p.loss) : "-",
            p.seconds > 0 ? duration(p.seconds) : "-");
    }
    fmt::print("{} cells", sweep.cells.size());
    for (const char* between = ": "; const auto& [state, cells] : count)
        fmt::print("{}{} {}", std::exchange(between, ", "), cells, name_of(state));
    if (rest > 0 && steps > 0)
        fmt::print("; about {} left", duration(rest * seconds / steps / static_cast<double>(sweep.config.launch.jobs)));
    fmt::print("\n");
    return static_cast<int>(ExitCode::kOk);
}

}  // namespace plimsoll
