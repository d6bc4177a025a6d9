// Axes of settings, and their combinations.
#pragma once

#include <string>
#include <vector>

namespace plimsoll {

// Words between blanks.
std::vector<std::string> words_of(const std::string& text);

// The cells of a grid: the settings of each, in the order of the axes, the last axis running fastest. One empty cell
// without axes. An axis names its alternatives, separated by |, each one or more settings, separated by blanks: "a.b=1
// | a.b=2 c.d=3". `key` names the axes in errors. Throws Error (78) for an alternative that sets nothing.
std::vector<std::vector<std::string>> cells_of(const std::string& key, const std::vector<std::string>& axes);

}  // namespace plimsoll
