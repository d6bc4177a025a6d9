#include "train/commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "data/bigram_counts.h"
#include "data/file.h"
#include "data/inspect.h"
#include "data/shard_writer.h"
#include "kernels/exit_codes.h"
#include "train/export/gguf_export.h"
#include "train/inspect_checkpoint.h"
#include "train/ledger.h"
#include "train/machine.h"
#include "train/plan.h"
#include "train/rerun.h"
#include "train/run_process.h"
#include "train/simulate.h"
#include "train/sweep_progress.h"
#include "train/sweep_runner.h"
#include "train/tokenize.h"

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

// For --help.
std::string exit_code_reference() {
    std::string out = "Exit codes:\n";
    for (const auto& [code, meaning] : kExitCodes) out += fmt::format("{:5}  {}\n", static_cast<int>(code), meaning);
    return out;
}

RunConfig configured(const ConfigSources& sources, const std::string& run_dir) {
    RunConfig config = load_config(sources);
    if (!run_dir.empty()) config.run.dir = run_dir;
    return config;
}

void add_train_command(CLI::App& app, const std::string& command_line, int& status) {
    CLI::App* command = app.add_subcommand("train", "train one run");
    const auto sources = std::make_shared<ConfigSources>();
    const auto run_dir = std::make_shared<std::string>(), resume = std::make_shared<std::string>("never");
    const auto options = std::make_shared<TrainOptions>();
    const auto dry_run = std::make_shared<bool>(false), fresh = std::make_shared<bool>(false),
               where = std::make_shared<bool>(false);
    options->command = command_line;
    add_config_options(command, sources, run_dir);
    command->footer(command->get_footer() + "\n" + exit_code_reference());
    command->add_option("--resume", *resume, "never: refuse a directory that holds a run; auto: go on with it")
        ->check(CLI::IsMember({"never", "auto"}));
    command->add_flag("--fresh", *fresh, "delete the run that is in the directory and start again");
    command->add_flag("--dry-run", *dry_run, "check the configuration and the data, print the plan, train nothing");
    command->add_flag("--where", *where, "check the configuration, print the run's directory, train nothing");
    command->add_option("--parent", options->parent,
                        "directory of the run that the ledger compares this one with; else the one before it there");
    const auto profile = std::make_shared<std::string>();
    command->add_option("--profile", *profile, "steps A:B whose trace is written to RUN/profile.json");
    command->add_flag("--overfit-batch", options->overfit_batch,
                      "read the first batch in every step: the loss must go to 0");
    command->callback([=, &status] {
        const RunConfig config = configured(*sources, *run_dir);
        if (*where) {
            config.validate();
            fmt::print("{}\n", config.directory());
            return;
        }
        if (*dry_run) {
            status = print_plan(config, 1);
            return;
        }
        if (!profile->empty()) options->profile = parse_step_range(*profile);
        check_parent(options->parent);
        options->resume = *fresh ? Resume::kFresh : *resume == "auto" ? Resume::kAuto : Resume::kNever;
        status = as_this_rank(config, *options,
                              [&](Communicator world) { return train_run(config, *options, std::move(world)); });
    });
}

void add_rerun_command(CLI::App& app, const std::string& command_line, int& status) {
    CLI::App* command = app.add_subcommand("rerun", "repeat a past run, and compare the losses to the bit");
    const auto options = std::make_shared<RerunOptions>();
    options->command = command_line;
    command->add_option("run", options->run, "its directory")->required();
    command->add_option("--run-dir", options->run_dir,
                        "directory of the repetition; RUN-rerun by default. Goes on with one that was stopped");
    command->add_option("--set", options->overrides, "override: section.key=value; may be repeated")
        ->allow_extra_args(false);
    command->add_flag("--check", options->check, "end with status 70 if data or losses differ");
    command->callback([=, &status] { status = rerun(*options); });
}

}  // namespace

void add_training_commands(CLI::App& app, const std::string& command_line, int& status) {
    add_train_command(app, command_line, status);
    add_rerun_command(app, command_line, status);
    {
        CLI::App* command = app.add_subcommand(
            "inspect", "what a checkpoint holds, every checksum verified; the checkpoints of a run; or a GGUF file");
        const auto path = std::make_shared<std::string>();
        const auto hashes = std::make_shared<bool>(false);
        command->add_option("path", *path, "RUN/checkpoints/step_N, RUN or FILE.gguf")->required();
        command->add_flag("--hash", *hashes,
                          "only hashes of tensors, which do not depend on the ranks that saved them");
        command->callback([=] {
            const auto print = [](const std::string& text) { fmt::print("{}", text); };
            if (is_gguf(*path)) return inspect_gguf(*path, print);
            inspect_checkpoint(*path, *hashes ? Shown::kHashes : Shown::kAll, print);
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
        command->add_option(
            "--tokenizer", options->tokenizer,
            "char, byte, or a file: Hugging Face's tokenizer.json (byte-level BPE), GPT-2's vocab.json");
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
    {
        const auto add = [&](const char* name, const char* help, const char* specials, auto run) {
            CLI::App* command = data->add_subcommand(name, help);
            const auto options = std::make_shared<TokenizeOptions>();
            command
                ->add_option("--tokenizer", options->tokenizer,
                             "tokenizer.json, or GPT-2's vocab.json beside merges.txt, or a folder with either")
                ->required();
            command->add_flag("--specials", options->specials, specials);
            command->add_flag("--json-lines", options->json_lines,
                              "many texts: a JSON string per line, its ids as a JSON list per line");
            command->callback([=] { run(*options, std::cin, std::cout); });
        };
        add("encode", "text on standard input to token ids on standard output",
            "names of control tokens, such as <|endoftext|>, are these tokens", encode_text);
        add("decode", "token ids on standard input to text on standard output", "write the names of control tokens",
            decode_ids);
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
    struct Words {
        std::vector<std::string> what, overrides;
        int64_t index = 0;
        std::string cells;
        int ended = -1;
    };
    CLI::App* command = app.add_subcommand("sweep", "many runs: one configuration, varied along axes");
    const auto words = std::make_shared<Words>();
    const auto options = std::make_shared<SweepOptions>();
    command
        ->add_option("sweep", words->what,
                     "SWEEP.toml: runs what is not done; status SWEEP.toml: says how far it is; cell SWEEP.toml: for "
                     "scripts/slurm/sweep.sbatch, what its task is to do")
        ->required()
        ->expected(1, 2);
    command->add_option("--set", words->overrides, "override of a sweep's key: section.key=value; may be repeated")
        ->allow_extra_args(false);
    command->add_flag("--dry-run", options->dry_run,
                      "check every cell's configuration, print the commands, run nothing");
    command->add_flag("--retry-failed", options->retry_failed, "run cells again whose last try failed");
    command->add_option("--index", words->index, "cell: its number, from 0");
    command->add_option("--cells", words->cells, "cell: refuse if the list of cells has another hash");
    command->add_option("--ended", words->ended, "cell: note that it ended with this exit status");
    command->footer("Keys of a sweep, with their defaults:\n" + sweep_config_reference());
    command->callback([=, &status] {
        const std::string what = words->what.size() == 2 ? words->what.front() : "";
        if (words->what.size() == 2 && what != "status" && what != "cell")
            fail_input("plimsoll sweep {}: wanted SWEEP.toml, status SWEEP.toml or cell SWEEP.toml", what);
        const Sweep sweep = load_sweep(words->what.back(), words->overrides);
        if (what == "status")
            status = print_sweep_status(sweep);
        else if (what.empty())
            status = static_cast<int>(run_sweep(sweep, *options));
        else if (words->ended >= 0)
            end_cell(sweep, words->index, words->cells, words->ended);
        else
            print_cell(sweep, words->index, words->cells);
    });
}

void add_commands(CLI::App& app, std::vector<std::string> arguments, int& status) {
    std::string line = "plimsoll";
    for (size_t i = 1; i < arguments.size(); ++i) line += " " + arguments[i];
    app.footer(exit_code_reference());
    add_training_commands(app, line, status);
    add_export_commands(app, line);
    add_model_commands(app, status);
    add_simulate_command(app, status);
    add_sweep_command(app, status);
    add_data_commands(app);
    add_machine_commands(app, status);
}

}  // namespace plimsoll
