#include "train/commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <thread>

#include "data/bigram_counts.h"
#include "data/file.h"
#include "data/inspect.h"
#include "data/shard_writer.h"
#include "train/inspect_checkpoint.h"
#include "train/machine.h"
#include "train/plan.h"
#include "train/simulate.h"
#include "train/starting_ranks.h"
#include "train/sweep_runner.h"
#include "train/trainer.h"

namespace plimsoll {
namespace {

// Options that say which configuration: shared by train, plan and data inspect.
void add_config_options(CLI::App* command, const std::shared_ptr<ConfigSources>& sources,
                        const std::shared_ptr<std::string>& run_dir) {
    command->add_option("config", sources->file, "configuration, TOML")->required();
    command->add_option(
        "--variant", sources->variant,
        "attention variant: a name (variants/NAME.toml beside the configuration or above it) or a file");
    command->add_option("--set", sources->overrides, "override: section.key=value; may be repeated")
        ->allow_extra_args(false);
    command->add_option("--run-dir", *run_dir, "directory of the run's output (run.dir)");
    command->footer("Keys of a configuration, with their defaults:\n" + config_reference());
}

RunConfig configured(const ConfigSources& sources, const std::string& run_dir) {
    RunConfig config = load_config(sources);
    if (!run_dir.empty()) config.run.dir = run_dir;
    return config;
}

// A run as this process's rank of the MPI job, or alone. An error of one rank is printed once, and ends them all.
int train(const RunConfig& config, const TrainOptions& options) {
    if (!started_by_mpi()) return static_cast<int>(Trainer(config, options).train());
    const std::chrono::nanoseconds timeout(static_cast<int64_t>(config.parallel.timeout_seconds * 1e9));
    std::unique_ptr<Transport> transport;
    {
        const StartingRanks starting(config.directory());
        transport = mpi_transport(timeout, [&] {
            fmt::print(stderr, "plimsoll: rank {}: MPI did not start within {} s: {}\n", rank_of_launch(),
                       config.parallel.timeout_seconds, starting.missing());
            std::this_thread::sleep_for(std::chrono::milliseconds(500));  // the others look for this rank too
            starting.withdraw();
            std::_Exit(static_cast<int>(ExitCode::kTransient));
        });
    }
    const int rank = transport->rank(), ranks = transport->size();
    Communicator world(std::move(transport));
    world.set_timeout(timeout);
    Communicator of_trainer = world.split(0, rank, "world");
    world.record().on_abort([&, rank](const std::string& reason) {
        const std::string file = fmt::format("{}/flight_rank_{}.txt", config.directory(), rank);
        std::error_code ignored;
        if (std::filesystem::is_directory(config.directory(), ignored))
            write_file_atomically(file, {reason, "\n", world.record().text()});
    });
    try {
        return static_cast<int>(Trainer(config, options, std::move(of_trainer)).train());
    } catch (const Error& error) {
        if (ranks == 1) throw;
        world.abort(error.what(), error.code());
        return static_cast<int>(error.code());
    }
}

}  // namespace

void add_training_commands(CLI::App& app, const std::string& command_line, int& status) {
    {
        CLI::App* command = app.add_subcommand("train", "train one run");
        const auto sources = std::make_shared<ConfigSources>();
        const auto run_dir = std::make_shared<std::string>(), resume = std::make_shared<std::string>("never");
        const auto options = std::make_shared<TrainOptions>();
        const auto dry_run = std::make_shared<bool>(false), fresh = std::make_shared<bool>(false);
        options->command = command_line;
        add_config_options(command, sources, run_dir);
        command->add_option("--resume", *resume, "never: refuse a directory that holds a run; auto: go on with it")
            ->check(CLI::IsMember({"never", "auto"}));
        command->add_flag("--fresh", *fresh, "delete the run that is in the directory and start again");
        command->add_flag("--dry-run", *dry_run, "check the configuration and the data, print the plan, train nothing");
        const auto profile = std::make_shared<std::string>();
        command->add_option("--profile", *profile, "steps A:B whose trace is written to RUN/profile.json");
        command->add_flag("--overfit-batch", options->overfit_batch,
                          "read the first batch in every step: the loss must go to 0");
        command->callback([=, &status] {
            const RunConfig config = configured(*sources, *run_dir);
            if (*dry_run) {
                status = print_plan(config, 1);
                return;
            }
            if (!profile->empty()) options->profile = parse_step_range(*profile);
            options->resume = *fresh ? Resume::kFresh : *resume == "auto" ? Resume::kAuto : Resume::kNever;
            status = train(config, *options);
        });
    }
    {
        CLI::App* command = app.add_subcommand(
            "inspect", "what a checkpoint holds, every checksum verified; or the checkpoints of a run");
        const auto path = std::make_shared<std::string>();
        const auto hashes = std::make_shared<bool>(false);
        command->add_option("folder", *path, "RUN/checkpoints/step_N, or RUN")->required();
        command->add_flag("--hash", *hashes,
                          "only hashes of tensors, which do not depend on the ranks that saved them");
        command->callback([=] {
            inspect_checkpoint(*path, *hashes ? Shown::kHashes : Shown::kAll,
                               [](const std::string& text) { fmt::print("{}", text); });
        });
    }
    CLI::App* command = app.add_subcommand("plan", "parameters, FLOPs, memory and expected time of a configuration");
    const auto sources = std::make_shared<ConfigSources>();
    const auto run_dir = std::make_shared<std::string>();
    add_config_options(command, sources, run_dir);
    const auto ranks = std::make_shared<int>(1);
    command->add_option("--ranks", *ranks, "processes that share the run")->check(CLI::Range(1, 1 << 20));
    command->callback([=, &status] { status = print_plan(configured(*sources, *run_dir), *ranks); });
}

void add_data_commands(CLI::App& app) {
    CLI::App* data = app.add_subcommand("data", "prepare and inspect training data");
    data->require_subcommand(1);
    {
        CLI::App* command = data->add_subcommand("prepare", "turn a text file into a folder of token shards");
        const auto options = std::make_shared<PrepareOptions>();
        const auto index = std::make_shared<bool>(false);
        command->add_option("text", options->text, "text file")->required();
        command->add_option("out", options->out, "folder to make")->required();
        command->add_option("--tokenizer", options->tokenizer, "char or byte")->check(CLI::IsMember({"char", "byte"}));
        command->add_option("--val-fraction", options->val_fraction, "last part of the tokens, for validation");
        command->add_option("--shard-tokens", options->shard_tokens, "tokens per file");
        command->add_option("--separator", options->separator, "string between documents; empty = one document");
        command->add_flag("--index", *index, "mark documents by index files instead of an end-of-text token");
        command->callback([=] {
            if (*index) options->mark = DocumentMark::kIndex;
            const PrepareReport report = prepare_text(*options);
            fmt::print("{}: {} training and {} validation tokens, vocabulary {}, {} documents, {} files\n",
                       options->out, report.train_tokens, report.val_tokens, report.vocab_size, report.documents,
                       report.files.size());
        });
    }
    {
        CLI::App* command =
            data->add_subcommand("inspect", "show what is in shards, or behind a configuration (FILE.toml)");
        const auto sources = std::make_shared<ConfigSources>();
        const auto options = std::make_shared<InspectOptions>();
        command->add_option("what", sources->file, "pattern of .bin shards, or a configuration")->required();
        command->add_option("--variant", sources->variant, "attention variant, with a configuration");
        command->add_option("--set", sources->overrides, "override, with a configuration")->allow_extra_args(false);
        command->add_option("--vocab-size", options->vocab_size, "ids must be below this; 0 = the tokenizer's");
        command->add_option("--eot-token", options->eot_token, "id that starts a document; -1 = the tokenizer's");
        command->callback([=] {
            if (!sources->file.ends_with(".toml")) return fmt::print("{}", inspect_shards(sources->file, *options));
            const RunConfig config = load_config(*sources);
            config.validate();
            fmt::print("{}", inspect_config(config.data, config.model.context, static_cast<uint64_t>(config.run.seed)));
        });
    }
    CLI::App* command =
        data->add_subcommand("bigrams", "count a text's bigrams into the C++ table of the Bigram-Backcopy task");
    const auto text = std::make_shared<std::string>(), out = std::make_shared<std::string>();
    command->add_option("text", *text, "text file")->required();
    command->add_option("out", *out, "C++ file to write")->required();
    command->callback(
        [=] { write_file_atomically(*out, {bigram_table_source(count_bigrams(read_file(*text, "text"), *text))}); });
}

void add_simulate_command(CLI::App& app, int& status) {
    CLI::App* command = app.add_subcommand(
        "simulate", "time, balance, traffic and memory of a step on a cluster, with and without CAD; no GPU needed");
    const auto sources = std::make_shared<ConfigSources>();
    const auto json = std::make_shared<std::string>();
    command->add_option("config", sources->file, "configuration of a study, TOML")->required();
    command->add_option("--set", sources->overrides, "override: section.key=value; may be repeated")
        ->allow_extra_args(false);
    command->add_option("--json", *json, "file for scripts/simulate_report.py");
    command->footer("Keys of a configuration, with their defaults:\n" + simulate_config_reference());
    command->callback([=, &status] { status = run_simulate(*sources, *json); });
}

void add_sweep_command(CLI::App& app, int& status) {
    CLI::App* command = app.add_subcommand("sweep", "many runs: one configuration, varied along axes");
    const auto words = std::make_shared<std::vector<std::string>>();
    const auto overrides = std::make_shared<std::vector<std::string>>();
    const auto options = std::make_shared<SweepOptions>();
    command->add_option("sweep", *words, "SWEEP.toml: runs what is not done; status SWEEP.toml: says how far it is")
        ->required()
        ->expected(1, 2);
    command->add_option("--set", *overrides, "override of a sweep's key: section.key=value; may be repeated")
        ->allow_extra_args(false);
    command->add_flag("--dry-run", options->dry_run,
                      "check every cell's configuration, print the commands, run nothing");
    command->add_flag("--retry-failed", options->retry_failed, "run cells again whose last try failed");
    command->footer("Keys of a sweep, with their defaults:\n" + sweep_config_reference());
    command->callback([=, &status] {
        if (words->size() == 2 && words->front() != "status")
            fail_input("plimsoll sweep {}: wanted SWEEP.toml, or status SWEEP.toml", words->front());
        const Sweep sweep = load_sweep(words->back(), *overrides);
        status = words->size() == 2 ? print_sweep_status(sweep) : static_cast<int>(run_sweep(sweep, *options));
    });
}

void add_commands(CLI::App& app, std::vector<std::string> arguments, int& status) {
    std::string line = "plimsoll";
    for (size_t i = 1; i < arguments.size(); ++i) line += " " + arguments[i];
    add_training_commands(app, line, status);
    add_simulate_command(app, status);
    add_sweep_command(app, status);
    add_data_commands(app);
    add_machine_commands(app, status);
}

}  // namespace plimsoll
