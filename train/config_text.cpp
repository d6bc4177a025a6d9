// Configurations as text: written out, explained, compared.
#include "kernels/error.h"
#include "train/config.h"

namespace plimsoll {

std::string toml_of(const std::vector<ConfigField>& fields) {
    std::string out, section;
    for (const ConfigField& field : fields) {
        if (field.section != section) {
            out += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", field.section);
            section = field.section;
        }
        out += fmt::format("{} = {}  # {}\n", field.key, field.toml(), field.doc);
    }
    return out;
}

std::string resolved_toml(const RunConfig& config) {
    RunConfig copy = config;
    return toml_of(config_fields(copy));
}

std::string reference_of(const std::vector<ConfigField>& fields) {
    std::string out, section;
    for (const ConfigField& field : fields) {
        if (field.section != section) out += fmt::format("\n[{}]\n", field.section);
        section = field.section;
        out += fmt::format("  {} = {}\n      {}\n", field.key, field.toml(), field.doc);
        if (!field.choices.empty()) out += fmt::format("      one of: {}\n", fmt::join(field.choices, ", "));
    }
    return out;
}

std::string config_reference() {
    RunConfig defaults;
    return reference_of(config_fields(defaults));
}

std::vector<std::pair<ConfigField, ConfigField>> differing_fields(RunConfig& here, RunConfig& there) {
    const std::vector<ConfigField> left = config_fields(here), right = config_fields(there);
    std::vector<std::pair<ConfigField, ConfigField>> out;
    for (size_t i = 0; i < left.size(); ++i)
        if (left[i].toml() != right[i].toml()) out.emplace_back(left[i], right[i]);
    return out;
}

std::vector<std::string> config_differences(const RunConfig& here, const RunConfig& there) {
    RunConfig a = here, b = there;
    std::vector<std::string> out;
    for (const auto& [left, right] : differing_fields(a, b))
        out.push_back(fmt::format("{}: {} here, {} there", left.path(), left.toml(), right.toml()));
    return out;
}

}  // namespace plimsoll
