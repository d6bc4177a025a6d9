// The one exception type of plimsoll, and the checks that throw it.
//
// A message gives the value seen, the value wanted, and the file or key, then a hint:
//   token shard 'x.bin': header says 1000 tokens, file holds 998; was the download cut off?
#pragma once

// nvcc's host pass cannot evaluate fmt's compile-time checks of format strings: there they happen at run time.
#ifdef __CUDACC__
#define FMT_CONSTEVAL
#define FMT_USE_CONSTEXPR 1  // fmt 9 turns it off for nvcc, but not everywhere
#define PLIMSOLL_CONSTEVAL constexpr
#else
#define PLIMSOLL_CONSTEVAL consteval
#endif
#include <fmt/format.h>

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace plimsoll {

// What went wrong, as the process's exit code. Codes follow sysexits.h where one fits; what each means: exit_codes.h.
enum class ExitCode : int {
    kOk = 0,
    kInternal = 70,
    kIo = 74,
    kTransient = 75,
    kBadInput = 78,
    kSavedOnSignal = 85,
    kInterrupted = 130,
};

class Error : public std::runtime_error {
  public:
    Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ExitCode code() const { return code_; }

  private:
    ExitCode code_;
};

// What a message shows of a text from a file, which may hold anything at any length: its first `bytes`, cut between
// UTF-8 characters, control characters as \xNN.
inline std::string brief(std::string_view text, size_t bytes = 60) {
    const bool cut = text.size() > bytes;
    while (cut && bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
    std::string shown;
    for (const char c : text.substr(0, bytes)) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            shown += c;
    }
    return cut ? shown + "..." : shown;
}

// Throws an Error for input that cannot be used (exit code 78).
template <class... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
    throw Error(ExitCode::kBadInput, fmt::format(format, std::forward<Args>(args)...));
}

// Throws an Error (78) unless low <= value <= high. `key` names the setting.
inline void check_range(const char* key, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) fail_input("{} is {}, must lie in {} .. {}", key, value, low, high);
}

// Throws an Error for a failed read or write (exit code 74). Put strerror(errno) into the message.
template <class... Args>
[[noreturn]] void fail_io(fmt::format_string<Args...> format, Args&&... args) {
    throw Error(ExitCode::kIo, fmt::format(format, std::forward<Args>(args)...));
}

// Where a call stands: std::source_location, or its part used here where clang before 16 hides it.
#ifdef __cpp_lib_source_location
using SourceLocation = std::source_location;
#else
class SourceLocation {
  public:
    static constexpr SourceLocation current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        SourceLocation here;
        here.file_ = file;
        here.line_ = line;
        return here;
    }
    constexpr const char* file_name() const { return file_; }
    constexpr unsigned line() const { return line_; }

  private:
    const char* file_ = "";
    unsigned line_ = 0;
};
#endif

// A format string that also records where it was written.
template <class... Args>
struct CheckedFormat {
    template <class String>
    PLIMSOLL_CONSTEVAL CheckedFormat(const String& text, SourceLocation location = SourceLocation::current())
        : format(text), where(location) {}
    fmt::format_string<Args...> format;
    SourceLocation where;
};

// Checks a promise between parts of plimsoll (shapes, dtypes, orders): exit code 70, with the place in the source.
template <class... Args>
void check(bool holds, CheckedFormat<std::type_identity_t<Args>...> message, Args&&... args) {
    if (holds) return;
    throw Error(ExitCode::kInternal, fmt::format("{} [{}:{}]", fmt::format(message.format, std::forward<Args>(args)...),
                                                 message.where.file_name(), message.where.line()));
}

}  // namespace plimsoll
