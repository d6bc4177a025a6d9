#include "train/parameter_groups.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {

bool matches_pattern(std::string_view pattern, std::string_view name) {
    // The last '*' seen takes one character more each time the rest does not fit: none before it needs another try.
    size_t p = 0, n = 0, star = std::string_view::npos, taken = 0;
    while (n < name.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++, taken = n;
        } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
            ++p, ++n;
        } else {
            if (star == std::string_view::npos) return false;
            p = star + 1, n = ++taken;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

const ParameterGroup* group_of(const std::vector<ParameterGroup>& groups, std::string_view name) {
    const auto found = std::ranges::find_if(groups, [&](const ParameterGroup& group) {
        return std::ranges::any_of(group.match, [&](const auto& pattern) { return matches_pattern(pattern, name); });
    });
    return found == groups.end() ? nullptr : &*found;
}

void check_groups(const std::vector<ParameterGroup>& groups, const ParameterTable& table) {
    for (size_t g = 0; g < groups.size(); ++g) {
        for (const std::string& pattern : groups[g].match) {
            const auto fits = [&](const Parameter& p) { return matches_pattern(pattern, p.name); };
            if (std::ranges::any_of(table.entries(), fits)) continue;
            std::vector<std::string> names;
            for (const Parameter& p : table.entries())
                if (p.layer <= 0 || p.name.starts_with("final_") || p.name.starts_with("lm_")) names.push_back(p.name);
            fail_input(
                "optimizer.groups[{}]: no parameter is called '{}'; in block 0 and outside the blocks there are {}", g,
                brief(pattern), fmt::join(names, ", "));
        }
        if (std::ranges::none_of(table.entries(),
                                 [&](const Parameter& p) { return group_of(groups, p.name) == &groups[g]; }))
            fail_input(
                "optimizer.groups[{}]: all of its parameters are in groups before it; the first that matches counts",
                g);
    }
}

}  // namespace plimsoll
