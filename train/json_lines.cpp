#include "train/json_lines.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "kernels/error.h"
#include "train/checkpoint_file.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class AppendedFile {
  public:
    explicit AppendedFile(const std::string& path)
        : path_(path), fd_(::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
        if (fd_ < 0) fail("open");
    }
    ~AppendedFile() { ::close(fd_); }
    AppendedFile(const AppendedFile&) = delete;

    // Holds off others that append, who might be seen in the middle of it; on a network file system, where writes at
    // the end of a file from two machines can mix, that too. A process that was stopped with the lock must not stop
    // this one: after a second it goes on without.
    void try_lock() const {
        for (int i = 0; i < 1000 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    void unlock() const { ::flock(fd_, LOCK_UN); }
    bool ends_within_a_line() const {
        const off_t size = ::lseek(fd_, 0, SEEK_END);
        char last = '\n';
        return size > 0 && ::pread(fd_, &last, 1, size - 1) == 1 && last != '\n';
    }
    // One write, unless the system takes less.
    void append(std::string_view text) const {
        while (!text.empty()) {
            const ssize_t written = ::write(fd_, text.data(), text.size());
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) fail("append to");
            text.remove_prefix(static_cast<size_t>(written));
        }
    }
    void flush() const {
        if (::fsync(fd_) != 0) fail("flush");
    }

  private:
    [[noreturn]] void fail(const char* what) const { fail_io("cannot {} '{}': {}", what, path_, std::strerror(errno)); }
    const std::string& path_;
    int fd_;
};

}  // namespace

std::vector<json> read_json_lines(const std::string& path) {
    std::vector<json> lines;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);)
        if (json entry = json::parse(line, nullptr, false); entry.is_object()) lines.push_back(std::move(entry));
    return lines;
}

json last_json_line(const std::string& path) {
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    if (!in) return {};
    const auto size = static_cast<std::streamoff>(in.tellg());
    for (std::streamoff tail = std::min<std::streamoff>(size, 1 << 16); tail > 0; tail = std::min(size, 4 * tail)) {
        std::string text(static_cast<size_t>(tail), '\0');
        in.seekg(size - tail);
        in.read(text.data(), tail);
        // Lines from the last one back; the first one in sight may be cut unless it opens the file.
        for (size_t end = text.size(); end > 0;) {
            const size_t before = text.rfind('\n', end - 1);
            if (before == std::string::npos && tail < size) break;
            const size_t begin = before == std::string::npos ? 0 : before + 1;
            if (json entry = json::parse(text.substr(begin, end - begin), nullptr, false); entry.is_object())
                return entry;
            end = before == std::string::npos ? 0 : before;
        }
        if (tail == size) break;
    }
    return {};
}

void append_json_line(const std::string& path, const json& line) {
    std::error_code ignored;
    const bool is_new = !fs::exists(path, ignored);
    const AppendedFile file(path);
    // What is no UTF-8, such as the name of a folder, must not cost the line.
    const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    file.try_lock();
    file.append(file.ends_within_a_line() ? "\n" + text : text);
    file.unlock();
    file.flush();
    if (is_new) flush_folder(fs::absolute(path).parent_path().string());
}

}  // namespace plimsoll
