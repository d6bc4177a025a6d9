// Parameters that learn at their own rate, or decay by their own: optimizer.groups.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/parameters.h"

namespace plimsoll {

// Some parameters by their names. A name is in the first group that matches it.
struct ParameterGroup {
    std::vector<std::string> match;      // patterns: '*' stands for any characters, dots too, '?' for one
    double lr_scale = 1;                 // times the scheduled learning rate
    std::optional<double> weight_decay;  // of all of them, whatever optimizer.decay says; none = as without a group
    bool operator==(const ParameterGroup&) const = default;
};

// Whether the whole name fits the pattern. Takes time in proportion to the product of their lengths at most.
bool matches_pattern(std::string_view pattern, std::string_view name);

// The first group that a parameter is in; null for none.
const ParameterGroup* group_of(const std::vector<ParameterGroup>& groups, std::string_view name);

// Throws Error (78) for a pattern that no name matches, naming the nearest, and for a group whose parameters are all in
// groups before it.
void check_groups(const std::vector<ParameterGroup>& groups, const ParameterTable& table);

}  // namespace plimsoll
