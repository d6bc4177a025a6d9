#include "train/log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "kernels/error.h"

namespace plimsoll {

std::string duration(double seconds) {
    const auto s = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
    if (s < 60) return fmt::format("{}s", s);
    if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
    return fmt::format("{}h {:02}m", s / 3600, s / 60 % 60);
}

Log::Log(const std::string& path)
    : file_(path.empty() ? nullptr : std::fopen(path.c_str(), "a")), terminal_(isatty(STDOUT_FILENO)) {
    if (!file_ && !path.empty()) fail_io("cannot open log '{}': {}", path, std::strerror(errno));
}

Log::~Log() {
    end_live_line();
    if (file_) std::fclose(file_);
}

void Log::end_live_line() {
    if (live_) std::fputs("\n", stdout);
    live_ = false;
}

void Log::write(const std::string& text) {
    if (!file_) return;
    end_live_line();
    std::fprintf(stdout, "%s\n", text.c_str());
    std::fflush(stdout);
    // A full disk must not stop training: the log is a convenience, metrics.jsonl is checked.
    std::fprintf(file_, "%s\n", text.c_str());
    std::fflush(file_);
}

void Log::progress(const std::string& text, double share, bool on_screen) {
    if (!file_) return;
    std::fprintf(file_, "%s\n", text.c_str());
    if (terminal_) {
        constexpr int kWidth = 20;
        const int filled = std::clamp(static_cast<int>(share * kWidth), 0, kWidth);
        std::fprintf(stdout, "\r\x1b[K[%s%s] %s", std::string(static_cast<size_t>(filled), '#').c_str(),
                     std::string(static_cast<size_t>(kWidth - filled), '.').c_str(), text.c_str());
        std::fflush(stdout);
        live_ = true;
    } else if (on_screen) {
        std::fprintf(stdout, "%s\n", text.c_str());
        std::fflush(stdout);
        std::fflush(file_);
    }
}

}  // namespace plimsoll
