#include "train/config.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <set>

// toml++ asserts (with NDEBUG: has clang assume) what a hostile file does not keep, such as a key after "[", right
// before it refuses the file in words.
#undef NDEBUG
#define TOML_ASSERT(expr) static_assert(true)
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "data/file.h"
#include "kernels/error.h"
#include "train/toml_scan.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

constexpr int64_t kMaxBytes = 1 << 20;  // of a configuration file: a hundred times what every key needs
constexpr int64_t kMaxFiles = 1000;     // read for one configuration: includes that include twice would double
constexpr int64_t kMaxDots = 1000;      // outside strings and comments

std::string toml_string(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\')
            out += '\\', out += c;
        else if (c == '\n')
            out += "\\n";
        else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
        else
            out += c;
    }
    return out + '"';
}

std::string shown(double value) {
    std::string text = fmt::format("{}", value);  // shortest text that reads back as the same double
    return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

template <class T>
std::string list_of(const std::vector<T>& values, std::string (*show)(const T&)) {
    std::string out = "[";
    for (size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + show(values[i]);
    return out + "]";
}

std::string group_toml(const ParameterGroup& group) {
    return fmt::format("{{match = {}, lr_scale = {}{}}}", list_of<std::string>(group.match, toml_string),
                       shown(group.lr_scale),
                       group.weight_decay ? ", weight_decay = " + shown(*group.weight_decay) : "");
}

// Edit distance (Levenshtein), to name the nearest legal key.
size_t distance(std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = std::exchange(row[0], i + 1);
        for (size_t j = 0; j < b.size(); ++j)
            diagonal = std::exchange(row[j + 1], std::min({row[j + 1] + 1, row[j] + 1, diagonal + (a[i] != b[j])}));
    }
    return row.back();
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
    word = word.substr(0, 100);  // the distance takes time in proportion to the length, and no key is longer
    return *std::min_element(candidates.begin(), candidates.end(),
                             [&](const auto& a, const auto& b) { return distance(word, a) < distance(word, b); });
}

// false also for a name the system refuses, such as one too long.
bool is_there(const fs::path& path) {
    std::error_code ignored;
    return fs::exists(path, ignored);
}

// Where the text names the key, and not one that only begins like it; npos if nowhere.
size_t find_key(std::string_view text, std::string_view key) {
    size_t at = text.find(key);
    while (at != text.npos && at + key.size() < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[at + key.size()])) || text[at + key.size()] == '_'))
        at = text.find(key, at + 1);
    return at;
}

// Applies TOML tables to a configuration, and says where what is wrong stands.
class Reader {
  public:
    Reader(const std::vector<ConfigField>& fields, std::map<std::string, std::string>& places, std::string_view command)
        : fields_(fields), places_(places), command_(command) {}

    void read_file(const fs::path& path, std::vector<fs::path> chain = {}) {
        std::error_code ignored;
        if (++files_ > kMaxFiles) fail_input("{}: more than {} files are included", path.string(), kMaxFiles);
        const fs::path canonical = fs::weakly_canonical(path, ignored);
        if (std::find(chain.begin(), chain.end(), canonical) != chain.end())
            fail_input("{}: includes itself, through {} files", path.string(), chain.size());
        chain.push_back(canonical);
        toml::table table = parse(plimsoll::read_file(path.string(), "configuration", kMaxBytes), path.string());
        if (const toml::node* include = table.get("include")) {
            const auto follow = [&](const toml::node& node) {
                const auto name = node.value_exact<std::string>();
                if (!name || name->find('\0') != std::string::npos)
                    fail_input("{}: include wants a path or a list of paths", place(node, path.string()));
                const fs::path target = path.parent_path() / *name;
                if (!is_there(target))
                    fail_input("{}: included file '{}' does not exist", place(node, path.string()),
                               brief(target.string(), 300));
                read_file(target, chain);
            };
            if (const toml::array* list = include->as_array())
                for (const toml::node& node : *list) follow(node);
            else
                follow(*include);
            table.erase("include");
        }
        apply(table, path.string());
    }

    void read_text(const std::string& text, const std::string& name) {
        const toml::table table = parse(text, name);
        if (table.contains("include")) fail_input("{}: names other files (include) where every key must stand", name);
        apply(table, name);
    }

    void read_override(const std::string& text) {
        const size_t equals = text.find('='), dot = text.find('.');
        if (equals == std::string::npos || dot == std::string::npos || dot > equals)
            fail_input("--set {}: wanted section.key=value, such as --set optimizer.lr=0.001", brief(text));
        const std::string where = "--set " + brief(text);
        check_dots(text, where);
        std::optional<toml::table> table;
        try {
            if (first_beyond_ascii(text) == std::string::npos) table = toml::parse(std::string_view(text));
        } catch (const toml::parse_error&) {
        }
        if (!table) table = parse(text.substr(0, equals + 1) + toml_string(text.substr(equals + 1)), where);  // a word
        apply(*table, where);
    }

  private:
    static void check_dots(const std::string& text, const std::string& name) {
        const int64_t dots = count_dots(text);
        if (dots > kMaxDots) fail_input("{}: {} dots in keys and numbers, wanted at most {}", name, dots, kMaxDots);
    }

    static toml::table parse(const std::string& text, const std::string& name) {
        check_dots(text, name);
        if (const size_t at = first_beyond_ascii(text); at != std::string::npos) {
            const size_t line_begin = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 is 0
            fail_input("{}:{}:{}: not TOML: a character beyond ASCII outside of a string", name,
                       1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'),
                       1 + at - line_begin);
        }
        try {
            return toml::parse(text, name);
        } catch (const toml::parse_error& error) {
            const toml::source_position at = error.source().begin;
            fail_input("{}:{}:{}: not TOML: {}", name, at.line, at.column, brief(error.description(), 300));
        }
    }

    // `item`: a toml::node or a toml::key.
    template <class Item>
    static std::string place(const Item& item, const std::string& file) {
        const toml::source_position at = item.source().begin;
        return at.line ? fmt::format("{}:{}:{}", file, at.line, at.column) : file;
    }

    void apply(const toml::table& table, const std::string& file) {
        for (const auto& [section, node] : table) {
            std::vector<std::string> sections;
            for (const ConfigField& field : fields_)
                if (sections.empty() || sections.back() != field.section) sections.push_back(field.section);
            if (std::find(sections.begin(), sections.end(), section.str()) == sections.end())
                fail_input("{}: unknown section [{}]; did you mean [{}]? ({} --help lists every key)",
                           place(section, file), brief(section.str()), nearest(section.str(), sections), command_);
            const toml::table* keys = node.as_table();
            if (!keys)
                fail_input("{}: '{}' is a section; write [{}] and its keys below", place(section, file), section.str(),
                           section.str());
            for (const auto& [key, value] : *keys) set(std::string(section.str()), key, value, file);
        }
    }

    void set(const std::string& section, const toml::key& key, const toml::node& node, const std::string& file) {
        std::vector<std::string> keys;
        for (const ConfigField& field : fields_) {
            if (field.section != section) continue;
            keys.push_back(field.key);
            if (field.key != key.str()) continue;
            places_[field.path()] = place(node, file);
            return std::visit([&](auto* value) { assign(field, *value, node, file); }, field.value);
        }
        fail_input("{}: unknown key '{}' in [{}]; did you mean '{}'? ({} --help lists every key)", place(key, file),
                   brief(key.str()), section, nearest(key.str(), keys), command_);
    }

    [[noreturn]] static void wrong_type(const ConfigField& field, std::string_view wanted, const toml::node& node,
                                        const std::string& file) {
        fail_input("{}: {} wants {}, got {}", place(node, file), field.path(), wanted, type_name(node));
    }

    static std::string type_name(const toml::node& node) {
        if (node.is_string()) return fmt::format("the string \"{}\"", brief(*node.value<std::string>()));
        if (node.is_integer()) return fmt::format("the integer {}", *node.value<int64_t>());
        if (node.is_floating_point()) return fmt::format("the number {}", *node.value<double>());
        if (node.is_boolean()) return fmt::format("{}", *node.value<bool>());
        return node.is_array() ? "a list" : node.is_table() ? "a table" : "a date or time";
    }

    static void assign(const ConfigField& field, bool& value, const toml::node& node, const std::string& file) {
        if (!node.is_boolean()) wrong_type(field, "true or false", node, file);
        value = *node.value<bool>();
    }
    static void assign(const ConfigField& field, int64_t& value, const toml::node& node, const std::string& file) {
        if (!node.is_integer()) wrong_type(field, "an integer", node, file);
        value = *node.value<int64_t>();
    }
    static void assign(const ConfigField& field, double& value, const toml::node& node, const std::string& file) {
        if (!node.is_number()) wrong_type(field, "a number", node, file);
        // toml++ gives no double for an integer that is none to the last digit.
        value = node.is_integer() ? static_cast<double>(*node.value<int64_t>()) : *node.value<double>();
        if (!std::isfinite(value)) wrong_type(field, "a finite number", node, file);
    }
    static void assign(const ConfigField& field, std::string& value, const toml::node& node, const std::string& file) {
        if (!node.is_string()) wrong_type(field, "a string", node, file);
        value = *node.value<std::string>();
        // The system takes names of files as C strings: the rest would be dropped without a word.
        if (value.find('\0') != std::string::npos) wrong_type(field, "a string without \\u0000", node, file);
        if (!field.choices.empty() &&
            std::find(field.choices.begin(), field.choices.end(), value) == field.choices.end())
            fail_input("{}: {} = \"{}\": wanted one of {}", place(node, file), field.path(), brief(value),
                       fmt::join(field.choices, ", "));
    }
    static void assign(const ConfigField& field, ParameterGroup& group, const toml::node& node,
                       const std::string& file) {
        const toml::table* table = node.as_table();
        if (!table) wrong_type(field, "tables such as {match = [\"wte.weight\"], lr_scale = 0.1}", node, file);
        double decay = -1;
        const ConfigField fields[] = {{field.section, "groups.match", "", {}, &group.match},
                                      {field.section, "groups.lr_scale", "", {}, &group.lr_scale},
                                      {field.section, "groups.weight_decay", "", {}, &decay}};
        for (const auto& [key, value] : *table) {
            const std::vector<std::string> keys{"match", "lr_scale", "weight_decay"};
            const auto found = std::ranges::find(keys, key.str());
            if (found == keys.end())
                fail_input("{}: unknown key '{}' in {}; did you mean '{}'?", place(key, file), brief(key.str()),
                           field.path(), nearest(key.str(), keys));
            const ConfigField& part = fields[found - keys.begin()];
            const toml::node& entry = value;  // clang before 16 captures no structured bindings
            std::visit([&](auto* to) { assign(part, *to, entry, file); }, part.value);
        }
        if (group.match.empty())
            fail_input("{}: a table of {} without match, the names of its parameters", place(node, file), field.path());
        for (const auto& [key, value] : {std::pair{"lr_scale", group.lr_scale}, {"weight_decay", decay}})
            if (table->contains(key) && value < 0)
                fail_input("{}: {}.{} is {}, must be at least 0", place(node, file), field.path(), key, value);
        if (table->contains("weight_decay")) group.weight_decay = decay;
    }
    template <class T>
    static void assign(const ConfigField& field, std::vector<T>& values, const toml::node& node,
                       const std::string& file) {
        std::vector<T> read;
        const auto append = [&](const toml::node& entry) {
            T value{};
            assign(field, value, entry, file);
            read.push_back(std::move(value));
        };
        if (const toml::array* list = node.as_array())
            for (const toml::node& entry : *list) append(entry);
        else
            append(node);  // one value stands for a list of one
        values = std::move(read);
    }

    const std::vector<ConfigField>& fields_;
    std::map<std::string, std::string>& places_;
    std::string_view command_;
    int64_t files_ = 0;
};

// variants/NAME.toml beside the configuration or in a folder above it, as far as the first that has it.
fs::path find_variant(const std::string& variant, const fs::path& config) {
    if (variant.ends_with(".toml")) return variant;
    const fs::path wanted = fs::path("variants") / (variant + ".toml");
    std::vector<std::string> known;
    for (fs::path folder = fs::absolute(config).parent_path();; folder = folder.parent_path()) {
        if (is_there(folder / wanted)) return folder / wanted;
        std::error_code ignored;
        if (fs::is_directory(folder / "variants", ignored))
            for (const auto& entry : fs::directory_iterator(folder / "variants", ignored))
                if (entry.path().extension() == ".toml") known.push_back(entry.path().stem().string());
        if (folder == folder.parent_path()) break;
    }
    std::sort(known.begin(), known.end());
    if (known.empty())
        fail_input("--variant {}: no folder 'variants' beside {} or above it", brief(variant), config.string());
    fail_input("--variant {}: no such variant; did you mean '{}'? Known: {}", brief(variant), nearest(variant, known),
               fmt::join(known, ", "));
}

void check_at_least(const char* key, double value, double low) {
    if (value < low) fail_input("{} is {}, must be at least {}", key, value, low);
}

}  // namespace

std::string ConfigField::toml() const {
    return std::visit(
        Overloaded{[](const bool* v) -> std::string { return *v ? "true" : "false"; },
                   [](const int64_t* v) { return std::to_string(*v); }, [](const double* v) { return shown(*v); },
                   [](const std::string* v) { return toml_string(*v); },
                   [](const std::vector<std::string>* v) { return list_of<std::string>(*v, toml_string); },
                   [](const std::vector<int64_t>* v) {
                       return list_of<int64_t>(*v, [](const int64_t& n) { return std::to_string(n); });
                   },
                   [](const std::vector<ParameterGroup>* v) { return list_of<ParameterGroup>(*v, group_toml); }},
        value);
}

void read_config(const ConfigSources& sources, const std::vector<ConfigField>& fields,
                 std::map<std::string, std::string>& places, std::string_view command) {
    Reader reader(fields, places, command);
    reader.read_file(sources.file);
    if (!sources.variant.empty()) reader.read_file(find_variant(sources.variant, sources.file));
    for (const std::string& text : sources.overrides) reader.read_override(text);
}

RunConfig load_config(const ConfigSources& sources) {
    RunConfig config;
    read_config(sources, config_fields(config), config.places, "plimsoll train");
    return config;
}

RunConfig parse_config(const std::string& text, const std::string& name) {
    if (text.size() > kMaxBytes) fail_input("{}: {} bytes, wanted at most {}", name, text.size(), kMaxBytes);
    RunConfig config;
    const std::vector<ConfigField> fields = config_fields(config);
    Reader(fields, config.places, "plimsoll train").read_text(text, name);
    return config;
}

void check_naming_places(const std::map<std::string, std::string>& places, const std::function<void()>& check_values) {
    try {
        check_values();
    } catch (const Error& error) {
        const std::string message = error.what();
        size_t first = std::string::npos;
        std::string place;
        for (const auto& [key, set_at] : places)
            if (const size_t at = find_key(message, key); at < first) first = at, place = set_at + ": ";
        throw Error(error.code(), place + brief(message, 1000));
    }
}

void RunConfig::validate() const {
    check_naming_places(places, [&] { check_values(); });
}

void RunConfig::check_values() const {
    NetworkConfig{model, attention, loss, 0}.validate();
    data.validate();
    constexpr int64_t kMany = 1'000'000'000'000'000;  // no product or sum of two sizes below runs over
    check_range("run.seed", run.seed, 0, INT64_MAX);
    check_range("run.threads", run.threads, 0, 4096);
    check_range("train.micro_batch", train.micro_batch, 1, 1 << 20);
    check_range("train.batch_tokens", train.batch_tokens, 0, kMany);
    check_range("train.max_steps", train.max_steps, 0, kMany);
    check_range("train.max_tokens", train.max_tokens, 0, kMany);
    check_range("train.eval_every", train.eval_every, 0, kMany);
    check_range("train.eval_samples", train.eval_samples, 0, kMany);
    check_range("train.save_every", train.save_every, 0, kMany);
    check_range("train.keep", train.keep, 1, kMany);
    check_range("train.keep_every", train.keep_every, 0, kMany);
    check_range("train.log_every", train.log_every, 1, kMany);
    check_at_least("train.max_seconds", train.max_seconds, 0);
    check_range("train.max_restarts", train.max_restarts, 0, kMany);
    check_range("train.sample_every", train.sample_every, 0, kMany);
    check_range("train.sample_tokens", train.sample_tokens, 1, 1 << 24);
    check_range("parallel.virtual_ranks", parallel.virtual_ranks, 1, 4096);
    check_range("parallel.stages", parallel.stages, 1, 4096);
    check_range("parallel.chunks", parallel.chunks, 1, 4096);
    for (const auto& [key, value] : {std::pair{"cad.tolerance", cad.tolerance}, {"cad.min_gain", cad.min_gain}})
        if (!(value >= 0 && value <= 9)) fail_input("{} is {}, must lie in 0 .. 9", key, value);
    check_at_least("cad.byte_cap_mib", cad.byte_cap_mib, 0);
    for (const int64_t speed : cad.speeds) check_range("cad.speeds", speed, 1, 1 << 20);
    if (cad.mode == "on" && parallel.stages > 1 && parallel.schedule != "same-phase")
        fail_input(
            "cad.mode = \"on\" in a pipeline with parallel.schedule = \"{}\"; wanted \"same-phase\": all stages serve "
            "core attention at one time",
            parallel.schedule);
    if (const auto& sources = attention.qk_source;
        parallel.pipelined() && std::ranges::find(sources, "embedding") != sources.end())
        fail_input(
            "attention.qk_source = \"embedding\" in a pipeline (parallel.stages = {}, parallel.chunks = {}): only its "
            "first stage holds the embeddings; wanted 1 of each, or another attention.qk_source",
            parallel.stages, parallel.chunks);
    if (cad.mode == "on" && parallel.pipelined() && train.recompute == "block")
        fail_input("cad.mode = \"on\" in a pipeline with train.recompute = \"block\"; wanted \"none\" or \"light\"");
    if (cad.plans()) {
        // Planner and dispatch know masks whose keys are the first ones and a window.
        if (attention.prefix > 1)
            fail_input(
                "cad.mode = \"{}\" with attention.prefix = {}: queries there see keys behind them, which are not "
                "planned for; wanted attention.prefix = 0, or cad.mode = \"off\"",
                cad.mode, attention.prefix);
        for (const std::string& pattern : attention.pattern)
            if (pattern != "causal")
                fail_input(
                    "cad.mode = \"{}\" with attention.pattern = \"{}\": planned for are the keys of a window and "
                    "pinned ones; wanted \"causal\", or cad.mode = \"off\"",
                    cad.mode, pattern);
    }
    check_range("health.max_skips", health.max_skips, 0, kMany);
    check_range("health.max_rollbacks", health.max_rollbacks, 0, kMany);
    check_range("health.window", health.window, 2, 1 << 20);
    check_range("health.hash_every", health.hash_every, 0, kMany);
    check_at_least("health.spike", health.spike, 0);
    check_at_least("parallel.timeout_seconds", parallel.timeout_seconds, 0.1);
    check_range("parallel.in_flight", parallel.in_flight, 0, 1 << 20);
    check_range("train.shared_placeholders", train.shared_placeholders, 0, model.context - 2);
    check_range("schedule.warmup_steps", schedule.warmup_steps, 0, kMany);
    check_range("probes.tokens", probes.tokens, 0, kMany);
    check_range("probes.samples", probes.samples, 1, 1 << 20);
    check_range("probes.map_tokens", probes.map_tokens, 1, kMany);
    check_at_least("train.clip", train.clip, 0);
    check_at_least("optimizer.lr", optimizer.lr, 0);
    check_at_least("optimizer.eps", optimizer.eps, 0);
    check_at_least("optimizer.weight_decay", optimizer.weight_decay, 0);
    // No name depends on the data's vocabulary.
    if (!optimizer.groups.empty())
        check_groups(optimizer.groups, ParameterTable({model, attention, loss, 1}, StageRange::whole(model)));
    check_at_least("probes.max_share", probes.max_share, 0);
    for (const auto& [key, value] : {std::pair{"optimizer.beta1", optimizer.beta1},
                                     {"optimizer.beta2", optimizer.beta2},
                                     {"optimizer.momentum", optimizer.momentum},
                                     {"optimizer.muon_momentum", optimizer.muon_momentum}})
        if (value < 0 || value >= 1) fail_input("{} is {}, must lie in [0, 1)", key, value);
    for (const auto& [key, value] : {std::pair{"schedule.final_fraction", schedule.final_fraction},
                                     {"schedule.decay_fraction", schedule.decay_fraction}})
        if (value < 0 || value > 1) fail_input("{} is {}, must lie in [0, 1]", key, value);
    if (probes.tokens == 1) fail_input("probes.tokens is 1, must be 0 (all) or at least 2");
    if (!train.max_steps && !train.max_tokens)
        fail_input("train.max_steps and train.max_tokens are both 0; set one of them");
    if (train.max_steps && train.max_tokens)
        fail_input("train.max_steps = {} and train.max_tokens = {} are both set; set one to 0", train.max_steps,
                   train.max_tokens);
    const int64_t micro = tokens_per_micro_batch();
    const int64_t below = std::max<int64_t>(1, batch_tokens() / micro) * micro;
    if (batch_tokens() % micro)
        fail_input(
            "train.batch_tokens is {}, not a multiple of micro_batch x context = {} x {} = {}; the nearest multiples "
            "are {} and {}",
            train.batch_tokens, train.micro_batch, model.context, micro, below, below + micro);
}

int64_t RunConfig::max_steps() const {
    return train.max_steps ? train.max_steps : (train.max_tokens + batch_tokens() - 1) / batch_tokens();
}

std::string RunConfig::directory() const {
    return run.dir.empty() ? fmt::format("runs/{}/{}", run.name, run.variant) : run.dir;
}

}  // namespace plimsoll
