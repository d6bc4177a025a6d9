#include "train/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/file.h"
#include "kernels/error.h"
#include "train/grid.h"

namespace plimsoll {
namespace {

constexpr double kGiB = 1 << 30, kGB = 1e9;

// Documents of all steps, drawn one after the other.
std::vector<StepDocuments> draw_steps(const SimulateConfig& config) {
    const DocumentLengths lengths = config.document_lengths();
    std::vector<StepDocuments> steps;
    int64_t drawn = 0;
    for (int64_t i = 0; i < config.simulate.iterations; ++i) {
        steps.push_back(
            draw_step(lengths, drawn, config.parallel.micro_batches, config.columns() * config.parallel.tokens));
        drawn += steps.back().drawn;
    }
    return steps;
}

std::string title(const SimulateConfig& config) {
    const int64_t gpus = config.cluster.nodes * config.cluster.gpus_per_node;
    return fmt::format(
        "{}, {} Ki context, {} documents, {} GPUs: TP {}, PP {}, {} columns, {} micro batches of {} tokens",
        config.model.preset, config.lengths.context / 1024, config.lengths.source, gpus, config.parallel.tensor,
        config.parallel.stages, config.columns(), config.parallel.micro_batches, config.parallel.tokens);
}

std::string ratio(double value) {
    return value > 0 ? fmt::format("{:.2f}", value) : "-";
}

void print_policies(const Study& study) {
    fmt::print("  {:<20} {:<20} {:>8} {:>8} {:>7} {:>7} {:>7} {:>10} {:>15} {:>7} {:>6}\n", "policy", "layout", "s p50",
               "s p95", "CA was", "CA max", "idle %", "exposed ms", "GiB sent max/mn", "GB mem", "CAD x");
    for (const PolicySummary& p : study.policies)
        fmt::print("  {:<20} {:<20} {:>8.3f} {:>8.3f} {:>7.2f} {:>7.2f} {:>7.1f} {:>10.1f} {:>15} {:>6.1f}{} {:>6}\n",
                   name_of(p.policy), p.layout, p.p50, p.p95, p.imbalance_before, p.imbalance, 100 * p.idle,
                   1e3 * p.exposed, fmt::format("{:.1f}/{:.1f}", p.sent_most / kGiB, p.sent_mean / kGiB),
                   p.memory / kGB, p.fits ? " " : "!", ratio(study.speed_up_over(p.policy)));
    for (const PolicySummary& p : study.policies)
        if (!p.fits) fmt::print("  ! {} does not fit into a GPU's memory\n", name_of(p.policy));
    if (const double plans = study.of(Policy::kCad).over_cap; plans > 0)
        fmt::print("  {:.1f} plans per step cannot keep cad.byte_cap_gib\n", plans);
    if (const double share = study.of(Policy::kCad).as_fixed; share > 0)
        fmt::print("  CAD gains too little in {:.0f} % of the steps: they run like fixed packing\n", 100 * share);
}

// Where the time of a step goes: in a cell of its own, not in a grid.
void print_parts(const Study& study) {
    const auto line = [](std::string_view name, const StepParts& f) {
        return fmt::format("  {:<20} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}\n", name, 1e3 * f.attention,
                           1e3 * f.linear, 1e3 * f.copies, 1e3 * f.head, 1e3 * f.waits);
    };
    for (const bool forward : {true, false}) {
        fmt::print("  {:<20} {:>10} {:>10} {:>10} {:>10} {:>10}\n", forward ? "forward, ms" : "backward, ms",
                   "attention", "linear", "copies", "head", "waits");
        for (const PolicySummary& p : study.policies)
            fmt::print("{}", line(name_of(p.policy), forward ? p.forward : p.backward));
    }
}

void print_gains(const Study& study) {
    fmt::print(
        "  simulated speed-up of CAD: {} over the best that can be built, {} over WLB-like, {} over perfect "
        "packing\n",
        ratio(study.speed_up_over_best()), ratio(study.speed_up_over(Policy::kWlbLike)),
        ratio(study.speed_up_over(Policy::kPerfectPacking)));
}

nlohmann::ordered_json json_of(const StepParts& parts) {
    return {{"linear", parts.linear},
            {"attention", parts.attention},
            {"copies", parts.copies},
            {"head", parts.head},
            {"waits", parts.waits}};
}

nlohmann::ordered_json json_of(const SimulatedCell& cell) {
    const SimulateConfig& c = cell.config;
    nlohmann::ordered_json out;
    out["settings"] = cell.settings;
    SimulateConfig copy = c;
    for (const ConfigField& field : config_fields(copy))
        if (field.section != "simulate") out["config"][field.path()] = field.toml();
    out["gpus"] = c.cluster.nodes * c.cluster.gpus_per_node;
    out["columns"] = c.columns();
    out["longest_document"] = c.longest_document();
    out["speed_up"] = {{"best", cell.study.speed_up_over_best()},
                       {"wlb_like", cell.study.speed_up_over(Policy::kWlbLike)},
                       {"perfect_packing", cell.study.speed_up_over(Policy::kPerfectPacking)}};
    for (const PolicySummary& p : cell.study.policies)
        out["policies"].push_back({{"policy", name_of(p.policy)},
                                   {"layout", p.layout},
                                   {"fits", p.fits},
                                   {"seconds", p.seconds},
                                   {"forward", json_of(p.forward)},
                                   {"backward", json_of(p.backward)},
                                   {"mean", p.mean},
                                   {"p50", p.p50},
                                   {"p95", p.p95},
                                   {"imbalance_before", p.imbalance_before},
                                   {"imbalance", p.imbalance},
                                   {"idle", p.idle},
                                   {"exposed_seconds", p.exposed},
                                   {"sent_bytes_most", p.sent_most},
                                   {"sent_bytes_mean", p.sent_mean},
                                   {"memory_bytes", p.memory},
                                   {"as_fixed", p.as_fixed},
                                   {"over_cap", p.over_cap}});
    return out;
}

}  // namespace

Study simulate_study(const SimulateConfig& config) {
    config.validate();
    const PolicySetting setting = config.setting();
    const std::vector<StepDocuments> documents = draw_steps(config);
    std::vector<std::vector<PolicyRun>> steps(documents.size());
    std::atomic<size_t> next = 0;
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
        try {
            for (size_t i = next++; i < steps.size(); i = next++) steps[i] = simulate_policies(documents[i], setting);
        } catch (...) {
            const std::lock_guard lock(mutex);
            failure = std::current_exception();
        }
    };
    {
        const auto wanted = static_cast<size_t>(config.simulate.threads);
        const size_t threads = wanted ? wanted : std::max(1u, std::thread::hardware_concurrency());
        std::vector<std::jthread> pool;
        for (size_t t = 0; t < std::min(threads, steps.size()); ++t) pool.emplace_back(work);
    }
    if (failure) std::rethrow_exception(failure);
    return summarize(steps, config.cluster.model().memory);
}

int run_simulate(const ConfigSources& sources, const std::string& json) {
    const SimulateConfig base = load_simulate_config(sources);
    nlohmann::ordered_json out;
    out["simulated"] = true;
    out["name"] = base.simulate.name;
    fmt::print("{}: every number is simulated, none is measured on a cluster; {} steps each\n", base.simulate.name,
               base.simulate.iterations);
    const std::vector<std::vector<std::string>> cells = cells_of("simulate.sweep", base.simulate.sweep);
    for (const std::vector<std::string>& settings : cells) {
        // The command line has the last word over the grid as well.
        ConfigSources cell_sources = sources;
        cell_sources.overrides.insert(cell_sources.overrides.begin(), settings.begin(), settings.end());
        SimulatedCell cell{settings, load_simulate_config(cell_sources), {}};
        const auto start = std::chrono::steady_clock::now();
        cell.study = simulate_study(cell.config);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        fmt::print("\n{} ({:.1f} s)\n", title(cell.config), taken.count());
        if (cell.config.longest_document() < cell.config.lengths.context)
            fmt::print("  half a micro batch holds documents of at most {} Ki: longer ones are cut\n",
                       cell.config.longest_document() / 1024);
        print_policies(cell.study);
        if (cells.size() == 1) print_parts(cell.study);
        print_gains(cell.study);
        std::fflush(stdout);
        out["cells"].push_back(json_of(cell));
    }
    if (!json.empty()) write_file_atomically(json, {out.dump(1), "\n"});
    return static_cast<int>(ExitCode::kOk);
}

}  // namespace plimsoll
