// The program: subcommands, and the only catch.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "kernels/error.h"
#include "train/commands.h"
#include "train/launch.h"
#include "train/machine.h"
#include "train/signals.h"

namespace {

// Starts the program again with a millisecond's wait at OpenMP barriers before a thread sleeps, unless the user has
// chosen. By default libgomp spins for longer, and on a machine that does anything else a spinning thread takes the
// core from the one it waits for: with a compiler running beside it, a training step took 2.8 s instead of 1.6 s (Zen
// 4, 2 cores). Much shorter waits send threads to sleep between the small ops of a step, which then takes 1.15 times as
// long (Sapphire Rapids, 2 cores). libgomp reads its environment when it is loaded, so setting it here and going on
// would be too late.
void wait_briefly_at_barriers(char** argv) {
    if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
    setenv("GOMP_SPINCOUNT", "30000", 1);
    execv("/proc/self/exe", argv);  // returns only if it fails: then as before, slower on a busy machine
}

// Ranks that fail alike before they know of each other, over a bad configuration, should print one message: the first
// speaks at once, and its end ends the job; the others wait for that, and speak if it does not come.
bool somebody_else_says_it() {
    const int rank = plimsoll::rank_of_launch();
    for (int i = 0; i < 50 && rank > 0; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100 + std::min(rank, 20)));
        if (plimsoll::stop_requested()) return true;
    }
    return false;
}

}  // namespace

int main(int argc, char** argv) {
    plimsoll::hold_signals();
    wait_briefly_at_barriers(argv);
    using namespace plimsoll;
    CLI::App app{
        "plimsoll pretrains transformers and measures their attention sinks.\n"
        "Start with: plimsoll train configs/quickstart.toml --variant sigmoid"};
    app.set_version_flag("--version", "plimsoll " + version_text());
    app.require_subcommand(1);
    int status = 0;
    add_commands(app, {argv, argv + argc}, status);
    try {
        count_signals();
        app.parse(argc, argv);
        return status;
    } catch (const CLI::ParseError& error) {
        // 0 for --help and --version.
        return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kBadInput);
    } catch (const Error& error) {
        if (somebody_else_says_it()) return static_cast<int>(error.code());
        std::fprintf(stderr, "plimsoll: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "plimsoll: unexpected: %s\n", error.what());
        return static_cast<int>(ExitCode::kInternal);
    }
}
