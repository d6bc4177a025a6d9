#include "train/eval.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "train/interventions.h"
#include "train/machine.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

using nlohmann::json;

struct Suite {
    const char* name;
    json (*run)(const EvalContext&);
};
constexpr Suite kSuites[] = {{"ppl", eval_ppl},
                             {"sinks", eval_sinks},
                             {"streaming", eval_streaming},
                             {"extrapolation", eval_extrapolation},
                             {"needle", eval_needle},
                             {"multiple_choice", eval_multiple_choice},
                             {"interventions", eval_interventions},
                             {"analysis", eval_analysis}};

std::string cell(const json& value) {
    if (value.is_null()) return "–";
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_number_float()) return value.dump();
    const double number = value.get<double>();
    return fmt::format("{:.{}f}", number, std::abs(number) < 100 ? 4 : 1);
}

// As Markdown.
std::string table_text(const json& table) {
    std::string text = "|", rule = "|";
    for (const json& column : table["columns"]) text += " " + column.get<std::string>() + " |", rule += "---|";
    text += "\n" + rule + "\n";
    for (const json& row : table["rows"]) {
        text += "|";
        for (const json& value : row) text += " " + cell(value) + " |";
        text += "\n";
    }
    return text;
}

void check_options(const EvalOptions& options) {
    if (options.suites.empty()) fail_input("--suite names no suite; there are {}", fmt::join(eval_suites(), ", "));
    const std::vector<std::string> known = eval_suites();
    for (const std::string& suite : options.suites)
        if (std::find(known.begin(), known.end(), suite) == known.end())
            fail_input("--suite '{}' is none of {}", brief(suite), fmt::join(known, ", "));
    const auto belongs_to = [&](const char* option, bool given, const char* suite) {
        if (given && std::find(options.suites.begin(), options.suites.end(), suite) == options.suites.end())
            fail_input("{} is an option of --suite {}, which is not asked for", option, suite);
    };
    belongs_to("--intervene", !options.interventions.empty(), "interventions");
    belongs_to("--contrast", !options.contrast.empty(), "analysis");
    check_range("--samples", options.samples, -1, int64_t{1} << 40);
    check_range("--stream-tokens", options.stream_tokens, 0, int64_t{1} << 31);
    check_range("--dense-targets", options.dense_targets, 1, int64_t{1} << 31);
    check_range("--length-tokens", options.length_tokens, 1, int64_t{1} << 40);
    check_range("--trials", options.trials, 1, 1 << 20);
}

}  // namespace

std::vector<std::string> eval_suites() {
    std::vector<std::string> names;
    for (const Suite& suite : kSuites) names.push_back(suite.name);
    return names;
}

int run_eval(const EvalOptions& options) {
    check_options(options);
    const TrainedModel model = load_trained_model(options.run, [](const std::string& passed_over) {
        fmt::print(stderr, "plimsoll: warning: {}\n", passed_over);
    });
    for (const std::string& text : options.interventions) parse_interventions(text, model.network().model);
    const Precision precision{
        compute_dtype(options.precision.empty() ? model.config().run.precision : options.precision)};
    const Exec exec{.threads = threads_of(options.threads)};
    const HostWeights weights(model, precision, exec);
    const EvalContext context{options, model, weights, precision, exec};
    const RunConfig& config = model.config();
    fmt::print("{}: {}, step {}, {} parameters, {}\n", model.origin().path, config.run.variant, model.origin().step,
               model.table().count(), name_of(precision.compute));
    json document = {{"run", model.origin().run},
                     {"checkpoint", model.origin().path},
                     {"name", config.run.name},
                     {"variant", config.run.variant},
                     {"step", model.origin().step},
                     {"tokens", model.origin().tokens},
                     {"params", model.table().count()},
                     {"context", config.model.context},
                     {"placeholders", config.attention.placeholders},
                     {"position", config.model.position},
                     {"precision", name_of(precision.compute)},
                     {"data", options.data.empty() ? json() : json(options.data)},
                     {"data_hash", model.origin().data_hash},
                     {"tensors_hash", model.origin().tensors_hash},
                     {"cpu", cpu_name()},
                     {"threads", exec.threads},
                     {"build", build_info()},
                     {"suites", json::object()}};
    for (const Suite& suite : kSuites) {
        if (std::find(options.suites.begin(), options.suites.end(), suite.name) == options.suites.end()) continue;
        const double start = now_seconds();
        json result = suite.run(context);
        result["seconds"] = now_seconds() - start;
        fmt::print("\n## {} ({:.1f} s)\n\n", suite.name, now_seconds() - start);
        if (result.contains("refused"))
            fmt::print("n/a: {}\n", result["refused"].get<std::string>());
        else
            fmt::print("{}", table_text(result["table"]));
        for (const json& note : result.value("notes", json::array())) fmt::print("{}\n", note.get<std::string>());
        document["suites"][suite.name] = std::move(result);
        // After each suite, so that a long evaluation that is stopped has left what it found.
        if (!options.json.empty())
            write_file_atomically(options.json, {document.dump(1, ' ', false, json::error_handler_t::replace), "\n"});
    }
    return 0;
}

}  // namespace plimsoll
