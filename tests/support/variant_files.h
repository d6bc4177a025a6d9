// The files of configs/variants.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace plimsoll {

// Their names, in order.
inline std::vector<std::string> variant_files() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(PLIMSOLL_SOURCE_DIR "/configs/variants"))
        names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
}

inline std::string path_of_variant(const std::string& name) {
    return PLIMSOLL_SOURCE_DIR "/configs/variants/" + name + ".toml";
}

// As a test's name.
inline std::string identifier_of(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

}  // namespace plimsoll
