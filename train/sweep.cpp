#include "train/sweep.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>

#include <fmt/ranges.h>

#include "kernels/error.h"
#include "train/config.h"
#include "train/crc32c.h"
#include "train/grid.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// One way to set an axis, and what it is called in a cell's name; empty where the axis has one alternative.
struct Alternative {
    std::vector<std::string> settings;
    std::string label;
};

// "optimizer.lr=1e-3" as "lr1e-3".
std::string label_of(const std::string& setting) {
    const size_t equals = setting.find('=');
    const size_t dot = setting.rfind('.', equals);
    std::string label =
        setting.substr(dot == std::string::npos ? 0 : dot + 1, equals - (dot == std::string::npos ? 0 : dot + 1));
    for (const char c : setting.substr(std::min(setting.size(), equals + 1)))
        label += std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '+' ? c : '_';
    return label;
}

std::vector<Alternative> alternatives_of(const std::string& axis) {
    std::vector<Alternative> all;
    for (const std::vector<std::string>& settings : cells_of("sweep.axes", {axis})) {
        Alternative& here = all.emplace_back(Alternative{settings, {}});
        for (const std::string& setting : settings) {
            if (setting.find('=') == std::string::npos || setting.find('.') > setting.find('='))
                fail_input("sweep.axes: '{}' is no setting, wanted section.key=value", brief(setting));
            here.label += (here.label.empty() ? "" : "-") + label_of(setting);
        }
    }
    if (all.size() == 1) all.front().label.clear();
    return all;
}

// The learning rates of a variant, none if the configuration's own is meant.
std::vector<Alternative> rates_of(const SweepSection& sweep, const std::string& variant) {
    std::optional<std::string> own, others;
    for (const std::string& entry : sweep.rates) {
        const size_t colon = entry.find(':');
        if (colon == std::string::npos) fail_input("sweep.rates: '{}', wanted 'VARIANT: rate rate ...'", brief(entry));
        const std::string name = entry.substr(0, colon);
        if (name != "*" && std::ranges::find(sweep.variants, name) == sweep.variants.end())
            fail_input("sweep.rates: '{}' is for variant '{}', which sweep.variants does not have", brief(entry), name);
        if (words_of(entry.substr(colon + 1)).empty()) fail_input("sweep.rates: '{}' has no rate", brief(entry));
        if (name == variant) own = entry.substr(colon + 1);
        if (name == "*") others = entry.substr(colon + 1);
    }
    std::vector<Alternative> rates;
    if (!own) own = others;
    for (const std::string& rate : words_of(own.value_or("")))
        rates.push_back({{"optimizer.lr=" + rate}, label_of("optimizer.lr=" + rate)});
    return rates;
}

std::vector<Alternative> seeds_of(const SweepSection& sweep) {
    std::vector<Alternative> seeds;
    for (const int64_t seed : sweep.seeds)
        seeds.push_back(
            {{fmt::format("run.seed={}", seed)}, sweep.seeds.size() > 1 ? fmt::format("seed{}", seed) : ""});
    return seeds;
}

bool is_excluded(const SweepSection& sweep, const SweepCell& cell) {
    return std::ranges::any_of(sweep.exclude, [&](const std::string& entry) {
        const std::vector<std::string> conditions = words_of(entry);
        if (conditions.empty()) fail_input("sweep.exclude: an entry names nothing");
        return std::ranges::all_of(conditions, [&](const std::string& condition) {
            return condition == "variant=" + cell.variant ||
                   std::ranges::find(cell.overrides, condition) != cell.overrides.end();
        });
    });
}

// All combinations with what is there already.
void multiply(std::vector<SweepCell>& cells, const std::vector<Alternative>& axis) {
    if (axis.empty()) return;
    std::vector<SweepCell> longer;
    for (const SweepCell& cell : cells)
        for (const Alternative& alternative : axis) {
            SweepCell& next = longer.emplace_back(cell);
            next.overrides.insert(next.overrides.end(), alternative.settings.begin(), alternative.settings.end());
            if (!alternative.label.empty()) next.name += (next.name.empty() ? "" : "-") + alternative.label;
        }
    cells = std::move(longer);
}

}  // namespace

Sweep load_sweep(const std::string& file, const std::vector<std::string>& overrides) {
    Sweep sweep{.config = {}, .file = file, .overrides = overrides, .base = {}, .dir = {}, .cells = {}};
    SweepConfig& config = sweep.config;
    read_config({.file = file, .variant = "", .overrides = overrides}, config_fields(config), config.places, "sweep");
    const SweepSection& s = config.sweep;
    check_naming_places(config.places, [&] {
        if (s.name.empty()) fail_input("sweep.name is empty");
        if (s.base.empty()) fail_input("sweep.base is empty; it names the configuration that cells start from");
        check_range("sweep.max_cells", s.max_cells, 1, 1'000'000);
        check_range("launch.jobs", config.launch.jobs, 1, 4096);
        check_range("launch.threads", config.launch.threads, 0, 4096);
        sweep.base = (fs::path(file).parent_path() / s.base).lexically_normal().string();
        sweep.dir = s.dir.empty() ? fmt::format("runs/{}", s.name) : s.dir;
        double count = 1;
        for (const std::string& axis : s.axes) count *= static_cast<double>(alternatives_of(axis).size());
        count *= static_cast<double>(std::max<size_t>(1, s.variants.size()) * std::max<size_t>(1, s.seeds.size()));
        if (count > static_cast<double>(s.max_cells))
            fail_input("sweep.axes, variants and seeds make {:.0f} cells, more than sweep.max_cells = {}", count,
                       s.max_cells);
        for (const std::string& variant : s.variants.empty() ? std::vector<std::string>{""} : s.variants) {
            std::vector<SweepCell> cells{
                {.name = fs::path(variant).stem().string(), .variant = variant, .overrides = s.set, .dir = {}}};
            for (const std::string& axis : s.axes) multiply(cells, alternatives_of(axis));
            multiply(cells, rates_of(s, variant));
            multiply(cells, seeds_of(s));
            std::erase_if(cells, [&](const SweepCell& cell) { return is_excluded(s, cell); });
            sweep.cells.insert(sweep.cells.end(), cells.begin(), cells.end());
        }
        if (sweep.cells.empty()) fail_input("sweep.exclude leaves no cell");
        if (static_cast<int64_t>(sweep.cells.size()) > s.max_cells)
            fail_input("sweep.rates make {} cells, more than sweep.max_cells = {}", sweep.cells.size(), s.max_cells);
    });
    std::set<std::string> names;
    for (SweepCell& cell : sweep.cells) {
        if (cell.name.empty()) cell.name = "cell";
        if (!names.insert(cell.name).second)
            fail_input("{}: two cells are called '{}'; an axis has an alternative twice, or sets a key of another one",
                       file, cell.name);
        cell.dir = (fs::path(sweep.dir) / cell.name).string();
        cell.overrides.push_back("run.name=" + s.name);
        const RunConfig run = load_config({.file = sweep.base, .variant = cell.variant, .overrides = cell.overrides});
        run.validate();
        cell.steps = run.max_steps();
    }
    return sweep;
}

std::string Sweep::cells_hash() const {
    uint32_t hash = 0;
    for (const SweepCell& cell : cells) {
        const std::string text = fmt::format("{}\n{}\n{}\n", cell.name, cell.variant, fmt::join(cell.overrides, " "));
        hash = crc32c(text.data(), text.size(), hash);
    }
    return fmt::format("{:08x}", hash);
}

namespace {

// The cell that a ledger compares this one with: softmax, or the first variant, with all else equal. Null for itself.
const SweepCell* control_of(const Sweep& sweep, const SweepCell& cell) {
    const std::vector<std::string>& variants = sweep.config.sweep.variants;
    if (variants.empty()) return nullptr;
    const bool has_softmax = std::ranges::find(variants, "softmax") != variants.end();
    const std::string control = has_softmax ? "softmax" : variants.front();
    if (cell.variant == control) return nullptr;
    const auto found = std::ranges::find_if(sweep.cells, [&](const SweepCell& other) {
        return other.variant == control && other.overrides == cell.overrides;
    });
    return found == sweep.cells.end() ? nullptr : &*found;
}

}  // namespace

std::vector<std::string> train_command(const Sweep& sweep, const SweepCell& cell, int64_t threads) {
    std::vector<std::string> words{
        fs::read_symlink("/proc/self/exe").string(), "train", sweep.base, "--resume", "auto", "--run-dir", cell.dir};
    if (!cell.variant.empty()) words.insert(words.end(), {"--variant", cell.variant});
    for (const std::string& setting : cell.overrides) words.insert(words.end(), {"--set", setting});
    if (const SweepCell* control = control_of(sweep, cell); control && fs::exists(fs::path(control->dir) / "run.json"))
        words.insert(words.end(), {"--parent", control->dir});
    if (threads > 0) words.insert(words.end(), {"--set", fmt::format("run.threads={}", threads)});
    return words;
}

std::string sweep_config_reference() {
    SweepConfig defaults;
    return reference_of(config_fields(defaults));
}

}  // namespace plimsoll
