// The keys of a configuration as a list: for reading TOML, --help, and the dump of what was resolved.
//
// A configuration has visit_sections(self, f), which calls f(section name, section) for each; a section has
// visit(self, visitor), which calls v.field(key, value, doc), v.choice(key, value, {legal values}, doc) or
// v.list(key, value, doc) for each key.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "train/parameter_groups.h"

namespace plimsoll {

// One key of a configuration, with where its value lies.
struct ConfigField {
    std::string section, key;
    std::string doc;
    std::vector<std::string> choices;  // legal values; empty = any
    std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*, std::vector<int64_t>*,
                 std::vector<ParameterGroup>*>
        value;

    std::string path() const { return section + "." + key; }
    std::string toml() const;  // the value as TOML
};

// Collects the fields of one section.
struct FieldLister {
    std::string section;
    std::vector<ConfigField>& fields;

    template <class T>
    void field(std::string_view key, T& value, std::string_view doc) {
        fields.push_back({section, std::string(key), std::string(doc), {}, &value});
    }
    void choice(std::string_view key, std::string& value, std::initializer_list<std::string_view> legal,
                std::string_view doc) {
        fields.push_back({section, std::string(key), std::string(doc), {legal.begin(), legal.end()}, &value});
    }
    template <class T>
    void list(std::string_view key, std::vector<T>& value, std::string_view doc) {
        field(key, value, doc);
    }
};

// Every key, in order. The pointers lead into `config`.
template <class Config>
std::vector<ConfigField> config_fields(Config& config) {
    std::vector<ConfigField> fields;
    Config::visit_sections(config, [&](std::string_view name, auto& section) {
        using Section = std::remove_reference_t<decltype(section)>;
        FieldLister lister{std::string(name), fields};
        Section::visit(section, lister);
    });
    return fields;
}

struct ConfigSources {
    std::string file;                    // TOML; may name others by a top-level `include` (a path or a list)
    std::string variant;                 // a file, or a name looked up as variants/NAME.toml beside `file` and above it
    std::vector<std::string> overrides;  // "section.key=value", value in TOML or a bare word
};

// Reads in this order: includes of a file before the file, then the variant, then the overrides; later values win.
// Relative includes are looked up from the file that names them. `places` gets where each key was found last,
// "model.layers": "run.toml:3:10"; `command` lists every key by --help.
// Throws Error (78) with file, line, column and the nearest legal key for what is malformed, unknown or of the wrong
// type.
void read_config(const ConfigSources& sources, const std::vector<ConfigField>& fields,
                 std::map<std::string, std::string>& places, std::string_view command);

// Calls `check_values`, and says in its error where the key that the message names first was set.
void check_naming_places(const std::map<std::string, std::string>& places, const std::function<void()>& check_values);

// The fields as TOML, every key with its meaning.
std::string toml_of(const std::vector<ConfigField>& fields);
// For --help: every key with meaning and default.
std::string reference_of(const std::vector<ConfigField>& fields);

}  // namespace plimsoll
