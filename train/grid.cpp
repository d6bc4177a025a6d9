#include "train/grid.h"

#include <sstream>

#include "kernels/error.h"

namespace plimsoll {

std::vector<std::string> words_of(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    return words;
}

std::vector<std::vector<std::string>> cells_of(const std::string& key, const std::vector<std::string>& axes) {
    std::vector<std::vector<std::string>> cells{{}};
    for (const std::string& axis : axes) {
        std::vector<std::vector<std::string>> alternatives;
        std::istringstream in(axis + " ");  // a | at the end has nothing behind it
        for (std::string alternative; std::getline(in, alternative, '|');) {
            alternatives.push_back(words_of(alternative));
            if (alternatives.back().empty())
                fail_input("{}: '{}' has an alternative that sets nothing", key, brief(axis));
        }
        std::vector<std::vector<std::string>> longer;
        for (const std::vector<std::string>& cell : cells)
            for (const std::vector<std::string>& settings : alternatives) {
                longer.push_back(cell);
                longer.back().insert(longer.back().end(), settings.begin(), settings.end());
            }
        cells = std::move(longer);
    }
    return cells;
}

}  // namespace plimsoll
