#include "train/sweep_runner.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "train/machine.h"
#include "train/signals.h"
#include "train/subprocess.h"
#include "train/sweep_progress.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::milliseconds kPoll{50};

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
    fmt::print("{}\n", fmt::format(format, std::forward<Args>(args)...));
    std::fflush(stdout);
}

// While it lives no other process runs or submits cells of the sweep.
class SweepLock {
  public:
    explicit SweepLock(const Sweep& sweep) {
        fs::create_directories(sweep.dir);
        const std::string path = path_in(sweep, "sweep.lock");
        fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd_ < 0) fail_io("'{}' cannot be opened; sweep.dir names another directory", path);
        if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
        close(fd_);
        throw Error(ExitCode::kTransient,
                    fmt::format("'{}' is held: another plimsoll sweep runs these cells; plimsoll sweep status {} says "
                                "how far it is",
                                path, sweep.file));
    }
    ~SweepLock() { close(fd_); }
    SweepLock(const SweepLock&) = delete;

  private:
    int fd_ = -1;
};

// What there is to do.
struct Todo {
    SweepJournal journal;
    std::vector<const SweepCell*> waiting;
    std::vector<std::string> failed, elsewhere;  // left alone
    size_t done = 0;

    Todo(const Sweep& sweep, const SweepOptions& options) : journal(sweep) {
        for (const SweepCell& cell : sweep.cells) switch (journal.progress_of(cell).state) {
                case CellState::kDone:
                    ++done;
                    break;
                case CellState::kRunning:
                case CellState::kQueued:
                    elsewhere.push_back(cell.name);
                    break;
                case CellState::kFailed:
                    if (!options.retry_failed) {
                        failed.push_back(cell.name);
                        break;
                    }
                    [[fallthrough]];
                case CellState::kWaiting:
                case CellState::kInterrupted:
                    waiting.push_back(&cell);
            }
        say("{} cells: {} done, {} to run{}{}", sweep.cells.size(), done, waiting.size(),
            elsewhere.empty() ? "" : fmt::format(", {} under way or in the queue", elsewhere.size()),
            failed.empty() ? "" : fmt::format(", {} failed before (--retry-failed runs them again)", failed.size()));
    }
};

// Cells of a sweep that was killed have been told to save and end, and may take a moment.
void wait_for_orphans(const Sweep& sweep) {
    const auto running = [&] {
        const SweepJournal journal(sweep);
        return std::ranges::any_of(sweep.cells, [&](const SweepCell& cell) {
            return journal.is_running(cell) && journal.progress_of(cell).state == CellState::kRunning;
        });
    };
    if (running()) say("cells of an earlier sweep are saving; waiting for them");
    for (int i = 0; i < 600 && running() && !stop_requested(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

// What the sweep holds, so that a report can name cells that never began.
void note_plan(const Sweep& sweep) {
    json cells = json::array();
    for (const SweepCell& cell : sweep.cells)
        cells.push_back({{"name", cell.name}, {"variant", cell.variant}, {"settings", cell.overrides}});
    note_event(sweep, {{"event", "plan"}, {"cells", std::move(cells)}});
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

// Processes of this machine.
class LocalRunner {
  public:
    LocalRunner(const Sweep& sweep, Todo todo)
        : sweep_(sweep), todo_(std::move(todo)), jobs_(static_cast<size_t>(sweep.config.launch.jobs)) {
        threads_ = sweep.config.launch.threads ? sweep.config.launch.threads
                                               : std::max<int64_t>(1, usable_threads() / sweep.config.launch.jobs);
        cores_ = cores_of_jobs(sweep.config.launch.jobs, threads_);
    }

    void print_commands() const {
        for (const SweepCell* cell : todo_.waiting) say("{}: {}", cell->name, fmt::join(command(*cell), " "));
    }

    ExitCode run() {
        size_t next = 0;
        while (next < todo_.waiting.size() || is_busy()) {
            if (stop_requested() && !stopping_) stop_all();
            for (size_t job = 0; job < jobs_.size(); ++job) {
                if (jobs_[job].pid > 0) collect(job);
                if (jobs_[job].pid <= 0 && next < todo_.waiting.size() && !stopping_)
                    start(job, *todo_.waiting[next++]);
            }
            if (stopping_ && !is_busy()) break;
            std::this_thread::sleep_for(kPoll);
        }
        for (const std::string& name : todo_.failed) say("failed: {} ({})", name, path_in(sweep_, name + ".txt"));
        if (stopping_) {
            say("stopped: {} of {} cells done; the same command goes on", todo_.done, sweep_.cells.size());
            return ExitCode::kSavedOnSignal;
        }
        say("{} of {} cells done", todo_.done, sweep_.cells.size());
        return todo_.failed.empty() ? ExitCode::kOk : ExitCode::kInternal;
    }

  private:
    struct Job {
        pid_t pid = 0;
        const SweepCell* cell = nullptr;
    };
    bool is_busy() const {
        return std::ranges::any_of(jobs_, [](const Job& job) { return job.pid > 0; });
    }

    std::vector<std::string> command(const SweepCell& cell) const {
        std::vector<std::string> words = sweep_.config.launch.command;
        for (std::string& word : train_command(sweep_, cell, threads_)) words.push_back(std::move(word));
        return words;
    }

    void start(size_t job, const SweepCell& cell) {
        const std::vector<std::string> words = command(cell);
        const std::string log = path_in(sweep_, cell.name + ".txt");
        const std::vector<int64_t>& gpus = sweep_.config.launch.gpus;
        const std::string gpu = gpus.empty() ? "" : fmt::format("{}", gpus[job % gpus.size()]);
        if (!gpu.empty()) setenv("CUDA_VISIBLE_DEVICES", gpu.c_str(), 1);
        const pid_t parent = getpid(), pid = fork();
        if (pid < 0) fail_io("sweep: no process could be started");
        if (pid == 0) {
            // Its cells do not outlive the sweep.
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            if (getppid() != parent) _exit(static_cast<int>(ExitCode::kTransient));
            sched_setaffinity(0, sizeof cores_[job], &cores_[job]);
            const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
            if (out >= 0) dup2(out, STDOUT_FILENO), dup2(out, STDERR_FILENO);
            become_program(words);
        }
        jobs_[job] = {pid, &cell};
        note_event(sweep_, {{"event", "begin"}, {"cell", cell.name}, {"pid", pid}});
        say("begins: {}", cell.name);
    }

    void collect(size_t job) {
        int status = 0;
        if (waitpid(jobs_[job].pid, &status, WNOHANG) != jobs_[job].pid) return;
        const int code = exit_status(status);
        const SweepCell& cell = *jobs_[job].cell;
        jobs_[job] = {};
        todo_.journal.note_end(sweep_, cell, code);
        const CellProgress progress = todo_.journal.progress_of(cell);
        todo_.done += progress.state == CellState::kDone;
        if (progress.state == CellState::kFailed) todo_.failed.push_back(cell.name);
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
    Todo todo_;
    std::vector<Job> jobs_;
    int64_t threads_ = 1;
    std::vector<cpu_set_t> cores_;  // [job]
    bool stopping_ = false;
};

constexpr const char* kBatchFile = "scripts/slurm/sweep.sbatch";

// The job array; its tasks have the numbers of the cells.
std::vector<std::string> sbatch_command(const Sweep& sweep, const Todo& todo) {
    const LaunchSection& launch = sweep.config.launch;
    if (!fs::exists(kBatchFile)) fail_input("there is no '{}' here; start plimsoll sweep in the checkout", kBatchFile);
    std::vector<size_t> numbers;
    for (const SweepCell* cell : todo.waiting) numbers.push_back(static_cast<size_t>(cell - sweep.cells.data()));
    std::vector<std::string> words{"sbatch", "--parsable", "--job-name=" + sweep.config.sweep.name,
                                   fmt::format("--array={}%{}", fmt::join(numbers, ","), launch.jobs),
                                   "--output=" + path_in(sweep, "slurm-%A_%a.txt")};
    if (launch.threads > 0) words.push_back(fmt::format("--cpus-per-task={}", launch.threads));
    words.insert(words.end(), launch.sbatch.begin(), launch.sbatch.end());
    words.insert(words.end(),
                 {kBatchFile, fs::read_symlink("/proc/self/exe").string(), sweep.file, sweep.cells_hash()});
    for (const std::string& setting : sweep.overrides) words.insert(words.end(), {"--set", setting});
    return words;
}

ExitCode submit(const Sweep& sweep, const Todo& todo) {
    for (const std::string& name : todo.failed) say("failed: {} ({})", name, path_in(sweep, name + ".txt"));
    if (todo.waiting.empty()) return todo.failed.empty() ? ExitCode::kOk : ExitCode::kInternal;
    const FinishedProgram sbatch = run_program(sbatch_command(sweep, todo));
    if (sbatch.status != 0)
        throw Error(ExitCode::kTransient,
                    fmt::format("sbatch ended with status {}; nothing was submitted{}", sbatch.status,
                                sbatch.status == 127 ? " (there is no sbatch in PATH)" : ""));
    const std::string job = sbatch.output.substr(0, sbatch.output.find_first_of(";\n"));
    json tasks;
    for (const SweepCell* cell : todo.waiting) tasks[cell->name] = cell - sweep.cells.data();
    note_event(sweep, {{"event", "submit"}, {"job", job}, {"tasks", tasks}});
    say("submitted: job array {}, {} cells, {} at a time; plimsoll sweep status {} says how far it is", job,
        todo.waiting.size(), sweep.config.launch.jobs, sweep.file);
    return ExitCode::kOk;
}

const SweepCell& submitted_cell(const Sweep& sweep, int64_t index, const std::string& cells_hash) {
    if (cells_hash != sweep.cells_hash())
        fail_input(
            "{}: its cells are others ({}) than when the job array was submitted ({}); cancel that and submit again",
            sweep.file, sweep.cells_hash(), cells_hash);
    check_range("--index", index, 0, static_cast<int64_t>(sweep.cells.size()) - 1);
    return sweep.cells[static_cast<size_t>(index)];
}

}  // namespace

ExitCode run_sweep(const Sweep& sweep, const SweepOptions& options) {
    const bool slurm = sweep.config.launch.with == "slurm";
    if (options.dry_run) {
        const Todo todo(sweep, options);
        if (!slurm) LocalRunner(sweep, todo).print_commands();
        if (slurm && !todo.waiting.empty()) say("{}", fmt::join(sbatch_command(sweep, todo), " "));
        return ExitCode::kOk;
    }
    const SweepLock lock(sweep);
    note_plan(sweep);
    if (!slurm) wait_for_orphans(sweep);
    Todo todo(sweep, options);
    return slurm ? submit(sweep, todo) : LocalRunner(sweep, std::move(todo)).run();
}

void print_cell(const Sweep& sweep, int64_t index, const std::string& cells_hash) {
    const SweepCell& cell = submitted_cell(sweep, index, cells_hash);
    fmt::print("{}\n{}\n", path_in(sweep, cell.name + ".txt"),
               fmt::join(train_command(sweep, cell, sweep.config.launch.threads), "\n"));
}

void end_cell(const Sweep& sweep, int64_t index, const std::string& cells_hash, int status) {
    const SweepCell& cell = submitted_cell(sweep, index, cells_hash);
    note_event(sweep, {{"event", "end"}, {"cell", cell.name}, {"status", status}});
}

}  // namespace plimsoll
