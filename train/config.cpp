#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>

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

int64_t RunConfig::max_steps() const {
    return train.max_steps ? train.max_steps : (train.max_tokens + batch_tokens() - 1) / batch_tokens();
}

std::string RunConfig::directory() const {
    return run.dir.empty() ? fmt::format("runs/{}/{}", run.name, run.variant) : run.dir;
}

std::string RunConfig::gemm_cache() const {
    if (run.gemm_cache != "auto") return run.gemm_cache;
    return (fs::path(directory()) / ".." / "gemm_algorithms.txt").lexically_normal();
}

}  // namespace plimsoll
