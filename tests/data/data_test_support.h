// What the tests of data/ share: a folder that removes itself, files written byte by byte, and messages of errors.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "data/file.h"
#include "data/shard_writer.h"
#include "kernels/error.h"

namespace plimsoll {

class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "plimsoll_data_XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "cannot make a temporary folder";
        path_ = name;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    std::string operator/(std::string_view name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

inline std::string write_bytes(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path;
}

inline std::string excerpt_path() {
    return std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/shakespeare_excerpt.txt";
}
inline std::string excerpt() {
    return read_file(excerpt_path(), "golden text");
}

inline std::vector<int32_t> counting_ids(int64_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
}

// Expects `call` to throw an Error with this code, whose message holds all of `parts`.
template <class Call>
void expect_error(ExitCode code, std::initializer_list<std::string_view> parts, Call&& call) {
    try {
        call();
        ADD_FAILURE() << "no error was thrown; wanted one that says '" << *parts.begin() << "'";
    } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
        for (const std::string_view part : parts) {
            EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
                << "wanted '" << part << "' in: " << error.what();
        }
    }
}

}  // namespace plimsoll
