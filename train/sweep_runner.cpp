#include "train/sweep_runner.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/file.h"
#include "kernels/error.h"
#include "train/log.h"
#include "train/machine.h"
#include "train/signals.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::milliseconds kPoll{50};

std::string path_in(const Sweep& sweep, const std::string& name) {
    return (fs::path(sweep.dir) / name).string();
}

// The last whole line of a JSON-lines file; null without one.
json last_line(const std::string& path) {
    json last;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);)
        if (json entry = json::parse(line, nullptr, false); entry.is_object()) last = std::move(entry);
    return last;
}

// Exit codes of the last tries, by cell, from DIR/sweep.jsonl.
std::map<std::string, int> last_exit_codes(const Sweep& sweep) {
    std::map<std::string, int> codes;
    std::ifstream in(path_in(sweep, "sweep.jsonl"));
    for (std::string line; std::getline(in, line);) {
        const json entry = json::parse(line, nullptr, false);
        if (entry.is_object() && entry.value("event", "") == "end")
            codes[entry.value("cell", "")] = entry.value("status", 0);
    }
    return codes;
}

void note(const Sweep& sweep, json entry) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    entry["time"] = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    std::ofstream out(path_in(sweep, "sweep.jsonl"), std::ios::app);
    out << entry.dump() << "\n";
}

CellProgress progress_of(const SweepCell& cell, const std::map<std::string, int>& codes) {
    CellProgress progress;
    const json line = last_line((fs::path(cell.dir) / "metrics.jsonl").string());
    if (line.is_object()) {
        progress.step = line.value("step", int64_t{0});
        progress.seconds = line.value("seconds", 0.0);
        if (line.contains("loss") && line["loss"].is_number()) progress.loss = line["loss"].get<double>();
    }
    json info;
    if (std::ifstream in((fs::path(cell.dir) / "run.json").string()); in) info = json::parse(in, nullptr, false);
    const auto code = codes.find(cell.name);
    if (code != codes.end()) progress.exit_code = code->second;
    const bool fell = code != codes.end() && code->second != 0 &&
                      code->second != static_cast<int>(ExitCode::kSavedOnSignal) &&
                      code->second != static_cast<int>(ExitCode::kTransient);
    if (info.is_object() && info.value("status", "") == "done" && progress.step >= cell.steps)
        progress.state = CellState::kDone;
    else if (fell)
        progress.state = CellState::kFailed;
    else if (info.is_object() || progress.step > 0)
        progress.state = CellState::kInterrupted;
    return progress;
}

std::string_view name_of(CellState state) {
    constexpr std::string_view kNames[] = {"waiting", "interrupted", "failed", "done"};
    return kNames[static_cast<size_t>(state)];
}

// Cores this process may use, in equal parts for the jobs.
std::vector<cpu_set_t> cores_of_jobs(int64_t jobs, int64_t threads) {
    cpu_set_t all;
    std::vector<int> cores;
    if (sched_getaffinity(0, sizeof all, &all) == 0)
        for (int core = 0; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &all)) cores.push_back(core);
    std::vector<cpu_set_t> sets(static_cast<size_t>(jobs));
    for (size_t job = 0; job < sets.size(); ++job) {
        CPU_ZERO(&sets[job]);
        for (int64_t t = 0; t < threads && !cores.empty(); ++t)
            CPU_SET(cores[(job * static_cast<size_t>(threads) + static_cast<size_t>(t)) % cores.size()], &sets[job]);
    }
    return sets;
}

class Runner {
  public:
    Runner(const Sweep& sweep, const SweepOptions& options)
        : sweep_(sweep), options_(options), jobs_(static_cast<size_t>(sweep.config.launch.jobs)) {
        threads_ = sweep.config.launch.threads ? sweep.config.launch.threads
                                               : std::max<int64_t>(1, usable_threads() / sweep.config.launch.jobs);
        program_ = fs::read_symlink("/proc/self/exe").string();
        cores_ = cores_of_jobs(sweep.config.launch.jobs, threads_);
        const std::map<std::string, int> codes = last_exit_codes(sweep);
        for (const SweepCell& cell : sweep.cells) {
            const CellState state = progress_of(cell, codes).state;
            if (state == CellState::kDone)
                ++done_;
            else if (state == CellState::kFailed && !options.retry_failed)
                left_.push_back(cell.name);
            else
                waiting_.push_back(&cell);
        }
    }

    ExitCode run() {
        say("{} cells: {} done, {} to run{}", sweep_.cells.size(), done_, waiting_.size(),
            left_.empty() ? "" : fmt::format(", {} failed before (--retry-failed runs them again)", left_.size()));
        if (options_.dry_run) {
            for (const SweepCell* cell : waiting_) say("{}: {}", cell->name, fmt::join(command(*cell), " "));
            return ExitCode::kOk;
        }
        fs::create_directories(sweep_.dir);
        size_t next = 0;
        while (next < waiting_.size() || is_busy()) {
            if (stop_requested() && !stopping_) stop_all();
            for (size_t job = 0; job < jobs_.size(); ++job) {
                if (jobs_[job].pid > 0) collect(job);
                if (jobs_[job].pid <= 0 && next < waiting_.size() && !stopping_) start(job, *waiting_[next++]);
            }
            if (stopping_ && !is_busy()) break;
            std::this_thread::sleep_for(kPoll);
        }
        for (const std::string& name : left_) say("failed: {} ({})", name, path_in(sweep_, name + ".txt"));
        if (stopping_) {
            say("stopped: {} of {} cells done; the same command goes on", done_, sweep_.cells.size());
            return ExitCode::kSavedOnSignal;
        }
        say("{} of {} cells done", done_, sweep_.cells.size());
        return left_.empty() ? ExitCode::kOk : ExitCode::kInternal;
    }

  private:
    struct Job {
        pid_t pid = 0;
        const SweepCell* cell = nullptr;
    };
    template <class... Args>
    static void say(fmt::format_string<Args...> format, Args&&... args) {
        fmt::print("{}\n", fmt::format(format, std::forward<Args>(args)...));
        std::fflush(stdout);
    }
    bool is_busy() const {
        return std::ranges::any_of(jobs_, [](const Job& job) { return job.pid > 0; });
    }

    std::vector<std::string> command(const SweepCell& cell) const {
        std::vector<std::string> words = sweep_.config.launch.command;
        words.insert(words.end(), {program_, "train", sweep_.base, "--resume", "auto", "--run-dir", cell.dir});
        if (!cell.variant.empty()) words.insert(words.end(), {"--variant", cell.variant});
        for (const std::string& setting : cell.overrides) words.insert(words.end(), {"--set", setting});
        words.insert(words.end(), {"--set", fmt::format("run.threads={}", threads_)});
        return words;
    }

    void start(size_t job, const SweepCell& cell) {
        const std::vector<std::string> words = command(cell);
        std::vector<char*> arguments;
        for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
        arguments.push_back(nullptr);
        const std::string log = path_in(sweep_, cell.name + ".txt");
        const std::vector<int64_t>& gpus = sweep_.config.launch.gpus;
        const std::string gpu = gpus.empty() ? "" : fmt::format("{}", gpus[job % gpus.size()]);
        if (!gpu.empty()) setenv("CUDA_VISIBLE_DEVICES", gpu.c_str(), 1);
        const pid_t parent = getpid(), pid = fork();
        if (pid < 0) throw Error(ExitCode::kIo, "sweep: no process could be started");
        if (pid == 0) {
            // Its cells do not outlive the sweep.
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            if (getppid() != parent) _exit(static_cast<int>(ExitCode::kTransient));
            sched_setaffinity(0, sizeof cores_[job], &cores_[job]);
            sigset_t none;  // what a launcher in front of the program must hear
            sigemptyset(&none);
            sigprocmask(SIG_SETMASK, &none, nullptr);
            const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
            if (out >= 0) dup2(out, STDOUT_FILENO), dup2(out, STDERR_FILENO);
            execvp(arguments.front(), arguments.data());
            _exit(127);
        }
        jobs_[job] = {pid, &cell};
        note(sweep_, {{"event", "begin"}, {"cell", cell.name}, {"pid", pid}});
        say("begins: {}", cell.name);
    }

    void collect(size_t job) {
        int status = 0;
        if (waitpid(jobs_[job].pid, &status, WNOHANG) != jobs_[job].pid) return;
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        const SweepCell& cell = *jobs_[job].cell;
        jobs_[job] = {};
        note(sweep_, {{"event", "end"}, {"cell", cell.name}, {"status", code}});
        const CellProgress progress = progress_of(cell, {{cell.name, code}});
        done_ += progress.state == CellState::kDone;
        if (progress.state == CellState::kFailed) left_.push_back(cell.name);
        say("{}: {}, step {} of {}{}", progress.state == CellState::kDone ? "done" : fmt::format("ended with {}", code),
            cell.name, progress.step, cell.steps, progress.loss ? fmt::format(", loss {:.4f}", *progress.loss) : "");
    }

    void stop_all() {
        stopping_ = true;
        say("stopping: cells under way save and end");
        for (const Job& job : jobs_)
            if (job.pid > 0) kill(job.pid, SIGTERM);
    }

    const Sweep& sweep_;
    const SweepOptions& options_;
    std::vector<Job> jobs_;
    std::string program_;  // this one
    int64_t threads_ = 1;
    std::vector<cpu_set_t> cores_;  // [job]
    std::vector<const SweepCell*> waiting_;
    std::vector<std::string> left_;  // failed, now or before
    size_t done_ = 0;
    bool stopping_ = false;
};

}  // namespace

CellProgress progress_of(const Sweep& sweep, const SweepCell& cell) {
    return progress_of(cell, last_exit_codes(sweep));
}

int print_sweep_status(const Sweep& sweep) {
    const std::map<std::string, int> codes = last_exit_codes(sweep);
    std::map<CellState, int> count;
    double seconds = 0, steps = 0, rest = 0;
    size_t width = 4;
    for (const SweepCell& cell : sweep.cells) width = std::max(width, cell.name.size());
    fmt::print("{:<{}}  {:<12}{:>16}{:>10}{:>10}\n", "cell", width, "state", "step", "loss", "time");
    for (const SweepCell& cell : sweep.cells) {
        const CellProgress p = progress_of(cell, codes);
        ++count[p.state];
        seconds += p.seconds, steps += static_cast<double>(p.step);
        if (p.state != CellState::kDone) rest += static_cast<double>(cell.steps - p.step);
        fmt::print(
            "{:<{}}  {:<12}{:>16}{:>10}{:>10}\n", cell.name, width,
            p.state == CellState::kFailed ? fmt::format("failed {}", p.exit_code) : std::string(name_of(p.state)),
            fmt::format("{}/{}", p.step, cell.steps), p.loss ? fmt::format("{:.4f}", *p.loss) : "-",
            p.seconds > 0 ? duration(p.seconds) : "-");
    }
    fmt::print("{} cells: {} done, {} interrupted, {} waiting, {} failed", sweep.cells.size(), count[CellState::kDone],
               count[CellState::kInterrupted], count[CellState::kWaiting], count[CellState::kFailed]);
    if (rest > 0 && steps > 0)
        fmt::print("; about {} left", duration(rest * seconds / steps / static_cast<double>(sweep.config.launch.jobs)));
    fmt::print("\n");
    return static_cast<int>(ExitCode::kOk);
}

ExitCode run_sweep(const Sweep& sweep, const SweepOptions& options) {
    return Runner(sweep, options).run();
}

}  // namespace plimsoll
