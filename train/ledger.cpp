#include "train/ledger.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "train/json_lines.h"
#include "train/machine.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Keys that are no change of what is computed: names and places, what is logged and kept, and how fast it goes.
constexpr std::string_view kNoChange[] = {"run.name",
                                          "run.variant",
                                          "run.dir",
                                          "run.threads",
                                          "run.measure_peak",
                                          "run.graphs",
                                          "run.gemm_cache",
                                          "train.recompute",
                                          "train.save_every",
                                          "train.keep",
                                          "train.keep_every",
                                          "train.async_save",
                                          "train.log_every",
                                          "train.max_seconds",
                                          "train.max_restarts",
                                          "parallel.timeout_seconds",
                                          "cad.record",
                                          "loss.logits_mib"};

// Probe metrics of the ledger: the report's names, of heads their mean, of the stream after blocks the largest.
constexpr const char* kHeadMetrics[] = {"sink_rate", "first_mass_effective", "placeholder_mass_effective", "row_mass",
                                        "drain_ratio"};
constexpr const char* kStreamMetrics[] = {"residual_peak_ratio", "massive_ratio", "max_abs"};

constexpr size_t kChangeCharacters = 120;

json json_of(const ConfigField& field) {
    return std::visit(
        [&](const auto* value) {
            if constexpr (std::is_same_v<decltype(value), const std::vector<ParameterGroup>*>)
                return json(field.toml());
            else
                return json(*value);
        },
        field.value);
}

// For people: a list of one is its element, a string has no quotes.
std::string shown(const json& value) {
    if (value.is_array() && value.size() == 1) return shown(value[0]);
    return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Without a slash at its end, which would hide its name.
fs::path absolute_directory(const std::string& directory) {
    const fs::path path = fs::absolute(directory).lexically_normal();
    return path.has_filename() ? path : path.parent_path();
}

json number(const json& object, const char* key) {
    return object.is_object() && object.contains(key) && object[key].is_number() ? object[key] : json();
}

json read_json(const fs::path& path) {
    std::ifstream in(path);
    return in ? json::parse(in, nullptr, false) : json();
}

// The numbers in nested lists, from element `first` of the outermost on.
std::vector<double> numbers_in(const json& nested, size_t first = 0) {
    if (nested.is_number()) return {nested.get<double>()};
    std::vector<double> found;
    if (nested.is_array())
        for (size_t i = first; i < nested.size(); ++i)
            for (const double value : numbers_in(nested[i])) found.push_back(value);
    return found;
}

json probe_numbers(const json& probe) {
    json out = json::object();
    if (!probe.is_object()) return out;
    const auto values = [&](const char* group, const char* name, size_t first) {
        return probe.contains(group) && probe[group].is_object() && probe[group].contains(name)
                   ? numbers_in(probe[group][name], first)
                   : std::vector<double>();
    };
    for (const char* name : kHeadMetrics)
        if (const std::vector<double> found = values("per_head", name, 0); !found.empty()) {
            double sum = 0;
            for (const double value : found) sum += value;
            out[name] = sum / static_cast<double>(found.size());
        }
    for (const char* name : kStreamMetrics)  // the first is the embedding's, before any block
        if (const std::vector<double> found = values("per_layer", name, 1); !found.empty())
            out[name] = std::ranges::max(found);
    return out;
}

struct Best {
    json loss, step;
};
// The lowest validation loss after the first step.
Best best_evaluation(const std::vector<json>& evaluations) {
    Best best;
    for (const json& line : evaluations) {
        const json loss = number(line, "loss"), step = number(line, "step");
        if (loss.is_null() || step.is_null() || step.get<int64_t>() == 0) continue;
        if (best.loss.is_null() || loss.get<double>() < best.loss.get<double>()) best = {loss, step};
    }
    return best;
}

// The run's parent as the ledger names it: a path from the ledger's folder, which is a name for runs beside each other.
std::optional<std::string> parent_of(const RunEnd& end, const fs::path& folder, const std::string& own) {
    if (!end.parent.empty()) return fs::proximate(absolute_directory(end.parent), folder).string();
    const std::vector<json> lines = read_json_lines(ledger_path(end.directory));
    const auto name = [](const json& line, const char* key) {
        return line.contains(key) && line[key].is_string() ? line[key].get<std::string>() : std::string();
    };
    // An earlier process of this run had one already, or none.
    for (auto line = lines.rbegin(); line != lines.rend(); ++line)
        if (name(*line, "run") == own) {
            if (const std::string parent = name(*line, "parent"); !parent.empty()) return parent;
            return {};
        }
    for (auto line = lines.rbegin(); line != lines.rend(); ++line)
        if (const std::string run = name(*line, "run"); !run.empty() && fs::is_directory(folder / run)) return run;
    return {};
}

void add_numbers(json& line, const fs::path& directory, RunStatus status) {
    const auto file = [&](const char* name) { return (directory / name).string(); };
    const json info = read_json(file("run.json"));
    const json metrics = last_json_line(file("metrics.jsonl")), evaluation = last_json_line(file("evals.jsonl"));
    const Best best = best_evaluation(read_json_lines(file("evals.jsonl")));
    // A process that fails leaves the run.json of its start.
    const bool is_final = status == RunStatus::kDone || status == RunStatus::kStopped;
    const json steps = number(metrics, "step");
    line["data_hash"] = info.is_object() && info.contains("data_hash") ? info["data_hash"] : json();
    line["steps"] = steps.is_null() ? json(0) : steps;
    line["max_steps"] = number(info, "max_steps");
    line["loss_final"] = number(metrics, "loss");
    line["loss_val"] = number(evaluation, "loss");
    line["loss_best"] = best.loss, line["step_best"] = best.step;
    line["probes"] = probe_numbers(last_json_line(file("probes.jsonl")));
    line["tokens_per_second"] = is_final ? number(info, "tokens_per_second") : json();
    line["seconds"] = is_final ? number(info, "seconds") : number(metrics, "seconds");
    line["params"] = number(info, "params");
    line["flops_per_token"] = number(info, "flops_per_token");
}

}  // namespace

std::string name_of(RunStatus status) {
    constexpr const char* kNames[] = {"done", "stopped", "failed", "fenced"};
    return kNames[static_cast<size_t>(status)];
}

std::string ledger_path(const std::string& run_directory) {
    return (absolute_directory(run_directory).parent_path() / "ledger.jsonl").string();
}

json config_change(const RunConfig& parent, const RunConfig& own) {
    RunConfig before = parent, after = own;
    json change = json::object();
    for (const auto& [there, here] : differing_fields(before, after))
        if (std::ranges::find(kNoChange, here.path()) == std::end(kNoChange))
            change[here.path()] = json::array({json_of(there), json_of(here)});
    return change;
}

std::string change_text(const json& change) {
    std::string text;
    size_t left_out = 0;
    for (const auto& [key, values] : change.items()) {
        const std::string one = fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", key, brief(shown(values[0]), 40),
                                            brief(shown(values[1]), 40));
        if (left_out == 0 && text.size() + one.size() <= kChangeCharacters)
            text += one;
        else
            ++left_out;
    }
    if (left_out) text += fmt::format(", and {} more", left_out);
    return text.empty() ? "none" : text;
}

json ledger_line(const RunEnd& end) {
    const fs::path directory = absolute_directory(end.directory), folder = directory.parent_path();
    const std::string own = directory.filename().string();
    const auto config_of = [](const fs::path& run) {
        return load_config({.file = (run / "config.toml").string(), .variant = {}, .overrides = {}});
    };
    const RunConfig config = config_of(directory);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    json line{{"time", std::chrono::duration_cast<std::chrono::seconds>(now).count()},
              {"run", own},
              {"name", config.run.name},
              {"variant", config.run.variant},
              {"seed", config.run.seed},
              {"parent", nullptr},
              {"change", nullptr},
              {"config_diff", nullptr},
              {"commit", build_info().at("commit")},
              {"ranks", end.ranks},
              {"exit_code", static_cast<int>(end.code)},
              {"status", name_of(end.status)}};
    if (const std::optional<std::string> parent = parent_of(end, folder, own)) {
        line["parent"] = *parent;
        try {
            const json change = config_change(config_of(folder / *parent), config);
            line["change"] = change_text(change), line["config_diff"] = change;
        } catch (const Error&) {
            // Gone, or of a version with other keys: what changed is not known.
        }
    }
    for (const char* key : {"data_hash", "steps", "max_steps", "loss_final", "loss_val", "loss_best", "step_best",
                            "probes", "tokens_per_second", "seconds", "params", "flops_per_token"})
        line[key] = nullptr;
    if (end.status != RunStatus::kFenced) add_numbers(line, directory, end.status);
    return line;
}

void append_to_ledger(const RunEnd& end) {
    append_json_line(ledger_path(end.directory), ledger_line(end));
}

void check_parent(const std::string& directory) {
    if (!directory.empty() && !fs::exists(fs::path(directory) / "config.toml"))
        fail_input("--parent {}: no run is there (no config.toml); wanted the directory of a run",
                   brief(directory, 300));
}

}  // namespace plimsoll
