// The program: subcommands, and the only catch.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>

#include "kernels/error.h"
#include "train/commands.h"
#include "train/machine.h"
#include "train/signals.h"

int main(int argc, char** argv) {
    using namespace plimsoll;
    CLI::App app{
        "plimsoll pretrains transformers and measures their attention sinks.\n"
        "Start with: plimsoll train configs/quickstart.toml --variant sigmoid"};
    app.set_version_flag("--version", "plimsoll " + version_text());
    app.require_subcommand(1);
    int status = 0;
    add_commands(app, {argv, argv + argc}, status);
    try {
        install_signal_handlers();
        app.parse(argc, argv);
        return status;
    } catch (const CLI::ParseError& error) {
        // 0 for --help and --version.
        return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kBadInput);
    } catch (const Error& error) {
        std::fprintf(stderr, "plimsoll: %s\n", error.what());
        return static_cast<int>(error.code());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "plimsoll: unexpected: %s\n", error.what());
        return static_cast<int>(ExitCode::kInternal);
    }
}
