#include "train/run_process.h"

#include <chrono>
#include <csignal>
#include <filesystem>

#include "data/file.h"
#include "train/launch.h"

namespace plimsoll {

ExitCode train_run(const RunConfig& config, const TrainOptions& options, Communicator world) {
    const bool alone = world.size() == 1;
    std::unique_ptr<Trainer> trainer;
    // After an error messages may still be under way, from and to the trainer's memory: it stays until the process
    // ends.
    const auto fail = [&](ExitCode code) {
        options.history->end(code);
        if (!alone) static_cast<void>(trainer.release());
    };
    try {
        trainer = std::make_unique<Trainer>(config, options, std::move(world));
        const ExitCode code = trainer->train();
        options.history->end(code);
        return code;
    } catch (const Error& error) {
        fail(error.code());
        throw;
    } catch (const std::exception&) {
        fail(ExitCode::kInternal);
        throw;
    }
}

int as_this_rank(const RunConfig& config, TrainOptions& options, const std::function<ExitCode(Communicator)>& body) {
    std::signal(SIGPIPE, SIG_IGN);  // a run outlives the terminal, or the srun, that shows its log
    const Launch launch = launched_ranks();
    options.local_rank = launch.local_rank;
    if (launch.launcher == Launcher::kNone) return static_cast<int>(body(Communicator(single_transport())));
    std::unique_ptr<Transport> transport = join_ranks(launch, config);
    const int rank = transport->rank(), ranks = transport->size();
    Communicator world(std::move(transport));
    world.set_timeout(std::chrono::nanoseconds(static_cast<int64_t>(config.parallel.timeout_seconds * 1e9)));
    Communicator of_trainer = world.split(0, rank, "world");
    world.record().on_abort([&, rank, history = options.history](const std::string& reason) {
        history->end(ExitCode::kTransient);  // of a rank that waited in vain; an error has told it already
        const std::string file = fmt::format("{}/flight_rank_{}.txt", config.directory(), rank);
        std::error_code ignored;
        if (std::filesystem::is_directory(config.directory(), ignored))
            write_file_atomically(file, {reason, "\n", world.record().text()});
    });
    try {
        return static_cast<int>(body(std::move(of_trainer)));
    } catch (const Error& error) {
        if (ranks == 1) throw;
        world.abort(error.what(), error.code());
        return static_cast<int>(error.code());
    }
}

}  // namespace plimsoll
