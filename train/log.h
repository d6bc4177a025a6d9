// The human log of a run: RUN/log.txt in plain lines, and the screen.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>

namespace plimsoll {

// "1m 12s"
std::string duration(double seconds);

class Log {
  public:
    // Appends to `path`; an empty one writes nothing anywhere, for ranks above 0. On a terminal progress is one live
    // line with a bar; elsewhere plain lines.
    explicit Log(const std::string& path);
    ~Log();
    Log(const Log&) = delete;

    template <class... Args>
    void line(fmt::format_string<Args...> format, Args&&... args) {
        write(fmt::format(format, std::forward<Args>(args)...));
    }
    void write(const std::string& text);
    // One step: always into the file; on the screen as the live line, or every so many steps (`on_screen`).
    void progress(const std::string& text, double share, bool on_screen);

  private:
    void end_live_line();
    std::FILE* file_;
    bool terminal_;
    bool live_ = false;
};

}  // namespace plimsoll
