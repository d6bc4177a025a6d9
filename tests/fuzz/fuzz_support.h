// What the fuzz targets share: a folder for the input as a file, and the rules every parser of a file keeps.
//
// A parser either takes its input or throws an Error with exit code 78. Any other exception leaves the target and ends
// the fuzzer, as does a single allocation beyond a few times the size of the input: a count in a header is not
// believed. An input may take a second of the processor; beside other programs that lasts longer, so libFuzzer's own
// limit, on elapsed time, is only for those that hang.
#pragma once

#include <sanitizer/allocator_interface.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/error.h"

namespace plimsoll {

// Ends the fuzzer with a finding.
[[noreturn]] inline void report(const std::string& what) {
    std::fprintf(stderr, "finding: %s\n", what.c_str());
    std::abort();
}

inline void require(bool holds, const char* what) {
    if (!holds) report(what);
}

// A folder under TMPDIR, which run_fuzzer.py removes, and each of its files.
inline const std::string& fuzz_folder() {
    static const std::string folder = [] {
        std::string name = (std::filesystem::temp_directory_path() / "plimsoll_fuzz_XXXXXX").string();
        require(::mkdtemp(name.data()) != nullptr, "no temporary folder");
        return name;
    }();
    return folder;
}

inline void write_input(const std::string& path, std::string_view bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    require(file.flush().good(), "the input cannot be written");
}

// Stands for one input, from its first line on: ends the fuzzer if the process spent more than a second of the
// processor on it.
class TimedInput {
  public:
    TimedInput() : start_(std::clock()) {}
    ~TimedInput() {
        const double seconds = static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC;
        if (seconds > 1)
            report(fmt::format("an input that takes {:.1f} s of the processor, wanted at most 1", seconds));
    }
    TimedInput(const TimedInput&) = delete;
    TimedInput& operator=(const TimedInput&) = delete;

  private:
    std::clock_t start_;
};

inline size_t allocation_limit = SIZE_MAX;  // bytes, of one allocation
inline void refuse_large_allocation(const volatile void*, size_t bytes) {
    if (bytes <= allocation_limit) return;
    const size_t limit = std::exchange(allocation_limit, SIZE_MAX);  // the report allocates too
    report(fmt::format("an allocation of {} bytes, wanted at most {}", bytes, limit));
}
inline void ignore_free(const volatile void*) {}

// Calls `parse`, which reads a file of `bytes`; false if it refused the input.
template <class Parse>
bool accepted(size_t bytes, Parse&& parse) {
    static const int hooked = __sanitizer_install_malloc_and_free_hooks(refuse_large_allocation, ignore_free);
    require(hooked != 0, "allocations cannot be watched");
    struct Limit {
        explicit Limit(size_t limit) { allocation_limit = limit; }
        ~Limit() { allocation_limit = SIZE_MAX; }
    } const limit((64 << 10) + 4 * bytes);
    try {
        parse();
        return true;
    } catch (const Error& error) {
        if (error.code() != ExitCode::kBadInput) report(error.what());
        require(error.what()[0] != '\0', "a refusal without a message");
        return false;
    }
}

}  // namespace plimsoll
