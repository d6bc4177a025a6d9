#include "train/rerun.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "train/json_lines.h"
#include "train/machine.h"
#include "train/run_process.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string text_of(const json& value) {
    return value.is_string() ? value.get<std::string>() : value.is_null() ? "unknown" : value.dump();
}

json member(const json& object, const char* key) {
    return object.is_object() && object.contains(key) ? object[key] : json();
}

// Step to loss; NaN for one that is no number.
std::map<int64_t, double> losses_of(const std::string& run) {
    std::map<int64_t, double> losses;
    for (const json& line : read_json_lines(run + "/metrics.jsonl")) {
        const json step = member(line, "step"), loss = member(line, "loss");
        if (step.is_number_integer())
            losses[step.get<int64_t>()] =
                loss.is_number() ? loss.get<double>() : std::numeric_limits<double>::quiet_NaN();
    }
    return losses;
}

json data_hash_of(const std::string& run) {
    return member(json::parse(read_file(run + "/run.json", "run file"), nullptr, false), "data_hash");
}

bool same_bits(double a, double b) {
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

// Ranks whose gradients are summed, in order: what decides the bits.
int64_t summed_ranks(const RunConfig& config, int64_t ranks) {
    return ranks / std::max<int64_t>(1, config.parallel.stages) * config.parallel.virtual_ranks;
}

// All ranks come to the same name: a folder without a configuration, such as a rank that starts earlier makes, is free.
std::string free_directory(const std::string& run) {
    std::string name = run + "-rerun";
    for (int number = 2; fs::exists(name + "/config.toml"); ++number) name = fmt::format("{}-rerun{}", run, number);
    return name;
}

RunConfig configuration_of(const std::string& run, const std::vector<std::string>& overrides) {
    return load_config({.file = run + "/config.toml", .variant = {}, .overrides = overrides});
}

}  // namespace

PastRun::PastRun(const std::string& directory) : directory_(directory) {
    while (directory_.size() > 1 && directory_.ends_with('/')) directory_.pop_back();
    for (const char* name : {"config.toml", "run.json"})
        if (!fs::is_regular_file(fs::path(directory_) / name))
            fail_input("plimsoll rerun {0}: there is no {0}/{1}; wanted the directory of a run that has trained",
                       brief(directory_, 300), name);
    run_json_ = read_file(directory_ + "/run.json", "run file");
    if (!json::parse(run_json_, nullptr, false).is_object())
        fail_input(
            "{}/run.json is damaged: no JSON object; plimsoll train {}/config.toml --run-dir NEW trains the same "
            "configuration",
            directory_, directory_);
}

RunConfig PastRun::configuration(const std::vector<std::string>& overrides, const std::string& run_dir) const {
    RunConfig config = configuration_of(directory_, overrides);
    config.run.dir = run_dir.empty() ? free_directory(directory_) : run_dir;
    std::error_code ignored;
    if (fs::equivalent(config.run.dir, directory_, ignored))
        fail_input("plimsoll rerun {}: --run-dir is the run itself; wanted another directory", directory_);
    return config;
}

int64_t PastRun::recorded_ranks() const {
    const json ranks = member(json::parse(run_json_), "ranks");
    return ranks.is_number_integer() ? std::max<int64_t>(1, ranks.get<int64_t>()) : 1;
}

void PastRun::check_ranks(const RunConfig& config, int ranks) const {
    const RunConfig past = configuration_of(directory_, {});
    const int64_t then = recorded_ranks();
    if (summed_ranks(past, then) == summed_ranks(config, ranks)) return;
    fail_input(
        "plimsoll rerun {0}: that run had {1} ranks, this is one of {2}, and its sums would have another order. "
        "{3} plimsoll rerun {0} repeats it; it was '{4}' then. In one process parallel.virtual_ranks gives data ranks' "
        "bits",
        directory_, then, ranks, then > 1 ? fmt::format("mpirun -n {}", then) : "Without mpirun,",
        brief(text_of(member(json::parse(run_json_), "command")), 500));
}

std::vector<std::string> PastRun::differences(int threads) const {
    const json then = json::parse(run_json_);
    std::vector<std::string> found;
    const auto compare = [&](const std::string& what, const json& before, const json& now) {
        if (before != now) found.push_back(fmt::format("{}: {} then, {} now", what, text_of(before), text_of(now)));
    };
    const json build = build_info();
    for (const auto& [key, value] : build.items()) compare(key, member(member(then, "build"), key.c_str()), value);
    compare("CPU", member(then, "cpu"), cpu_name());
    compare("threads", member(then, "threads"), threads);
    return found;
}

std::string Comparison::text() const {
    if (!same_data) return "not equal: the data have another hash";
    if (steps == 0) return "nothing to compare: no step is in both";
    std::string rest;
    if (only_here || only_there) rest = fmt::format(" ({} steps are only here, {} only there)", only_here, only_there);
    if (!first_differs) return fmt::format("equal to the bit: data and the losses of {} steps{}", steps, rest);
    return fmt::format("not equal: step {} is the first that differs: loss {} here, {} there, difference {:.3g}{}",
                       *first_differs, here, there, here - there, rest);
}

Comparison compare_runs(const std::string& here, const std::string& there) {
    Comparison comparison;
    const json hash = data_hash_of(here);
    comparison.same_data = hash.is_string() && hash == data_hash_of(there);
    const std::map<int64_t, double> ours = losses_of(here), theirs = losses_of(there);
    for (const auto& [step, loss] : ours) {
        const auto other = theirs.find(step);
        if (other == theirs.end()) {
            ++comparison.only_here;
            continue;
        }
        ++comparison.steps;
        if (comparison.first_differs || same_bits(loss, other->second)) continue;
        comparison.first_differs = step, comparison.here = loss, comparison.there = other->second;
    }
    comparison.only_there = std::ssize(theirs) - comparison.steps;
    return comparison;
}

int rerun(const RerunOptions& options) {
    const PastRun past(options.run);
    const RunConfig config = past.configuration(options.overrides, options.run_dir);
    // A directory that was named may hold the first part of this very repetition.
    TrainOptions train;
    train.resume = options.run_dir.empty() ? Resume::kNever : Resume::kAuto;
    train.command = options.command, train.parent = past.directory();
    return as_this_rank(config, train, [&](Communicator world) {
        const bool is_root = world.rank() == 0;
        past.check_ranks(config, world.size());
        if (is_root)
            for (const std::string& difference : past.differences(threads_of(config.run.threads)))
                fmt::print("warning: {}; losses may differ in their last bits\n", difference);
        const ExitCode code = train_run(config, train, std::move(world));
        if (!is_root || code == ExitCode::kSavedOnSignal) {
            if (is_root) fmt::print("plimsoll rerun {} --run-dir {} goes on\n", past.directory(), config.directory());
            return code;
        }
        const Comparison comparison = compare_runs(config.directory(), past.directory());
        fmt::print("{} and {}: {}\n", config.directory(), past.directory(), comparison.text());
        return options.check && !comparison.equal() ? ExitCode::kInternal : code;
    });
}

}  // namespace plimsoll
