#include "train/launch.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "kernels/error.h"
#include "train/starting_ranks.h"

namespace plimsoll {
namespace {

std::optional<std::string> first_of(std::initializer_list<const char*> names) {
    for (const char* name : names)
        if (const char* value = std::getenv(name)) return value;
    return std::nullopt;
}

std::optional<int> number_of(std::initializer_list<const char*> names) {
    const std::optional<std::string> text = first_of(names);
    return text ? std::optional(std::atoi(text->c_str())) : std::nullopt;
}

// Tasks of the srun that started this process. A batch script is no such task, though it has SLURM_NTASKS too.
int tasks_of_srun() {
    return std::getenv("SLURM_STEP_ID") ? number_of({"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}).value_or(1) : 1;
}

std::string file_name(std::string name) {
    std::ranges::replace_if(
        name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
    return name;
}

Launch launch_over_tcp(TcpLaunch tcp) {
    Launch launch;
    launch.launcher = Launcher::kTcp, launch.rank = tcp.rank, launch.ranks = tcp.ranks;
    launch.job = file_name(tcp.job.empty() ? tcp.rendezvous() : tcp.job);
    if (!std::getenv("PLIMSOLL_RANK")) launch.local_rank = number_of({"SLURM_LOCALID"});
    launch.tcp = std::move(tcp);
    return launch;
}

[[noreturn]] void tell_failed_start(const StartingRanks& starting, int rank, std::string text, ExitCode code) {
    if (code == ExitCode::kTransient) text += "; " + starting.missing();
    fmt::print(stderr, "plimsoll: rank {}: {}\n", rank, text);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));  // the others look for this rank too
    starting.withdraw();
    std::_Exit(static_cast<int>(code));
}

}  // namespace

Launch launched_ranks() {
    if (std::optional<TcpLaunch> tcp = tcp_launch()) return launch_over_tcp(std::move(*tcp));
    const std::optional<int> rank = number_of({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"});
    Launch launch;
    launch.rank = rank.value_or(0);
    if (rank || std::getenv("OMPI_COMM_WORLD_SIZE")) {
        launch.ranks =
            number_of({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}).value_or(0);
        if (!has_mpi() && launch.ranks == 1) return {};
        if (!has_mpi())
            fail_input(
                "this is rank {} of several, started by mpirun or srun, but this build has no MPI; install it (apt-get "
                "install libopenmpi-dev openmpi-bin) and build again, or set PLIMSOLL_RENDEZVOUS=host:port, where rank "
                "0 listens for the others",
                launch.rank);
        launch.launcher = Launcher::kMpi;
        launch.local_rank = number_of({"OMPI_COMM_WORLD_LOCAL_RANK"});
        if (!launch.local_rank && tasks_of_srun() > 1) launch.local_rank = number_of({"SLURM_LOCALID"});
        launch.job =
            file_name(first_of({"PMIX_NAMESPACE", "SLURM_JOB_ID", "OMPI_MCA_ess_base_jobid"}).value_or(launch.job));
    } else if (const int tasks = tasks_of_srun(); tasks > 1) {
        fail_input(
            "srun started this as task {} of {}, without PMIx and without PLIMSOLL_RENDEZVOUS: every task would train "
            "the whole run, in the same directory. Use srun --mpi=pmix (srun --mpi=list names what there is), or set "
            "PLIMSOLL_RENDEZVOUS=host:port, where task 0 listens for the others, or srun --ntasks=1",
            number_of({"SLURM_PROCID"}).value_or(0), tasks);
    }
    return launch;
}

int rank_of_launch() {
    if (first_of({"PLIMSOLL_RENDEZVOUS"}).value_or("") != "")
        return number_of({"PLIMSOLL_RANK", "SLURM_PROCID"}).value_or(0);
    if (const std::optional<int> rank = number_of({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"})) return *rank;
    return tasks_of_srun() > 1 ? number_of({"SLURM_PROCID"}).value_or(0) : 0;
}

std::unique_ptr<Transport> join_ranks(const Launch& launch, const RunConfig& config) {
    if (launch.launcher == Launcher::kNone) return single_transport();
    const std::chrono::nanoseconds deadline(static_cast<int64_t>(config.parallel.timeout_seconds * 1e9));
    const StartingRanks starting(config.directory(), launch);
    if (launch.launcher == Launcher::kMpi)
        return mpi_transport(deadline, [&] {
            tell_failed_start(starting, launch.rank,
                              fmt::format("MPI did not start within {} s", config.parallel.timeout_seconds),
                              ExitCode::kTransient);
        });
    TcpLaunch tcp = *launch.tcp;
    tcp.deadline = deadline;
    tcp.note = [](const std::string& text) { fmt::print(stderr, "plimsoll: {}\n", text); };
    try {
        return tcp_transport(tcp);
    } catch (const Error& error) {
        tell_failed_start(starting, launch.rank, error.what(), error.code());
    }
}

}  // namespace plimsoll
