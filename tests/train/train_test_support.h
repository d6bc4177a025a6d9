// What tests of runs share, beside what those of data do.
#pragma once

#include <nlohmann/json.hpp>

#include "data/data_test_support.h"

namespace plimsoll {

// Writes a text file, making the folders above it. Returns its path.
inline std::string write_text(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    return write_bytes(path, text);
}

inline std::vector<nlohmann::json> read_lines(const std::string& path) {
    std::vector<nlohmann::json> lines;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
}

}  // namespace plimsoll
