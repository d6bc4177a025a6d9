// A disk that fails on demand: preloaded into plimsoll (LD_PRELOAD), it stands before the system calls that change
// files below one folder, numbers them, and injects a fault at some of them. harness.py sets its environment:
//
//   PLIMSOLL_SHIM_FOLDER   only files below it are watched
//   PLIMSOLL_SHIM_JOURNAL  every change that succeeded is appended here, with its bytes: power_cut.py makes of it the
//                          disk after a power cut at any of them. Those with an error are there as "failed"
//   PLIMSOLL_SHIM_MODE     kill: the process dies before the change; enospc, eio: it fails with this error;
//                          short: a write stores half of its bytes; eintr: a write is interrupted, then goes on
//   PLIMSOLL_SHIM_FROM     changes are numbered from 1 on from the first whose path contains this
//   PLIMSOLL_SHIM_AT       number of the first change of this process with the fault
//   PLIMSOLL_SHIM_FOR      how many changes have it (1)
//   PLIMSOLL_SHIM_RANK     the only rank that has it (0)
//
// Limits: writes keep their order, and memory maps and what the C library does inside itself are not seen; plimsoll
// writes checkpoints with pwrite. Works for a program that is linked dynamically.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace {

std::string environment(const char* name, const char* otherwise = "") {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

// The function that the program would have called without this library.
template <class F>
F* real(const char* name) {
    return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}
#define REAL(function) real<decltype(function)>(#function)

struct Shim {
    std::mutex mutex;
    std::string folder = environment("PLIMSOLL_SHIM_FOLDER"), mode = environment("PLIMSOLL_SHIM_MODE");
    std::string rank = environment("OMPI_COMM_WORLD_RANK", "0");
    long at = std::atol(environment("PLIMSOLL_SHIM_AT", "0").c_str());
    long last = at + std::atol(environment("PLIMSOLL_SHIM_FOR", "1").c_str()) - 1;
    bool faulty_rank = rank == environment("PLIMSOLL_SHIM_RANK", "0");
    bool interrupted = false;  // the write before
    std::string from = environment("PLIMSOLL_SHIM_FROM");
    long count = 0;
    int journal = -1;

    Shim() {
        const std::string path = environment("PLIMSOLL_SHIM_JOURNAL");
        if (!path.empty()) journal = REAL(open)(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    bool watches(const std::string& path) const {
        return !folder.empty() && (path == folder || path.starts_with(folder + "/"));
    }
    // One record, in one piece between those of other ranks: kind, rank, number, paths, offset, bytes that follow.
    void record(const char* kind, const std::string& path, const std::string& target = "", long offset = 0,
                const void* bytes = nullptr, size_t size = 0) const {
        if (journal < 0) return;
        std::string line = std::string(kind) + "\t" + rank + "\t" + std::to_string(count) + "\t" + path + "\t" +
                           target + "\t" + std::to_string(offset) + "\t" + std::to_string(size) + "\n";
        if (size > 0) line.append(static_cast<const char*>(bytes), size);
        if (REAL(write)(journal, line.data(), line.size()) != static_cast<ssize_t>(line.size())) abort();
    }
};

Shim& shim() {
    static Shim* const instance = new Shim;  // outlives everything that writes at exit
    return *instance;
}

// One change at a time, of all ranks where a journal wants to know their order.
class Turn {
  public:
    Turn() : lock_(shim().mutex) {
        if (shim().journal >= 0) flock(shim().journal, LOCK_EX);
    }
    ~Turn() {
        const int error = errno;  // the caller's
        if (shim().journal >= 0) flock(shim().journal, LOCK_UN);
        errno = error;
    }
    Turn(const Turn&) = delete;

  private:
    std::lock_guard<std::mutex> lock_;
};

std::string path_of(int fd) {
    char target[PATH_MAX];
    const ssize_t size = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
    return size < 0 ? "" : std::string(target, static_cast<size_t>(size));
}

std::string absolute(int folder, const char* path) {
    if (path[0] == '/') return path;
    char current[PATH_MAX];
    const std::string base = folder == AT_FDCWD ? std::string(getcwd(current, sizeof current)) : path_of(folder);
    return base + "/" + path;
}

// What becomes of a change.
enum class Fate { kDone, kFails, kHalf };

// Counts the change; dies, or sets errno, if it is one with a fault. The lock is held.
Fate fate_of_next(const char* kind, const std::string& path) {
    Shim& s = shim();
    if (s.count == 0 && path.find(s.from) == std::string::npos) return Fate::kDone;
    ++s.count;
    if (!s.faulty_rank || s.at <= 0 || s.count < s.at || s.count > s.last) return Fate::kDone;
    if (s.mode == "kill") {
        ::kill(getpid(), SIGKILL);
        pause();
    }
    if (s.mode == "eio" || (s.mode == "enospc" && kind != std::string("remove"))) {
        s.record("failed", path, kind);
        errno = s.mode == "eio" ? EIO : ENOSPC;
        return Fate::kFails;
    }
    if (kind != std::string("write")) return Fate::kDone;
    if (s.mode == "short") return Fate::kHalf;
    if (s.mode == "eintr" && (s.interrupted = !s.interrupted)) {
        errno = EINTR;
        return Fate::kFails;
    }
    return Fate::kDone;
}

// Does what `call` does unless it fails, and notes it.
template <class Call>
int change(const char* kind, const std::string& path, const std::string& target, const Call& call) {
    Shim& s = shim();
    if (!s.watches(path)) return call();
    const Turn turn;
    if (fate_of_next(kind, path) == Fate::kFails) return -1;
    const int result = call();
    if (result >= 0) s.record(kind, path, target);
    return result;
}

template <class Call>
ssize_t change_bytes(int fd, const void* bytes, size_t size, off_t offset, const Call& call) {
    Shim& s = shim();
    const std::string path = s.folder.empty() ? "" : path_of(fd);
    if (!s.watches(path)) return call(size);
    const Turn turn;
    const Fate fate = fate_of_next("write", path);
    if (fate == Fate::kFails) return -1;
    const ssize_t written = call(fate == Fate::kHalf && size > 1 ? size / 2 : size);
    if (written < 0) return written;
    const long at = offset >= 0 ? offset : lseek(fd, 0, SEEK_CUR) - written;
    s.record("write", path, "", at, bytes, static_cast<size_t>(written));
    return written;
}

// A file that is only read changes nothing.
template <class Call>
int opened(const std::string& path, int flags, const Call& call) {
    if ((flags & O_ACCMODE) == O_RDONLY) return call();
    return change(flags & O_TRUNC ? "create" : "open", path, "", call);
}

mode_t mode_argument(int flags, va_list arguments) {
    return flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_argument(flags, arguments);
    va_end(arguments);
    return opened(absolute(AT_FDCWD, path), flags, [&] { return REAL(open)(path, flags, mode); });
}

int openat(int folder, const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_argument(flags, arguments);
    va_end(arguments);
    return opened(absolute(folder, path), flags, [&] { return REAL(openat)(folder, path, flags, mode); });
}

ssize_t write(int fd, const void* bytes, size_t size) {
    return change_bytes(fd, bytes, size, -1, [&](size_t n) { return REAL(write)(fd, bytes, n); });
}

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
    return change_bytes(fd, bytes, size, offset, [&](size_t n) { return REAL(pwrite)(fd, bytes, n, offset); });
}

ssize_t writev(int fd, const iovec* parts, int count) {
    std::string bytes;
    for (int i = 0; i < count; ++i) bytes.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    return write(fd, bytes.data(), bytes.size());
}

int fsync(int fd) {
    return change("fsync", shim().folder.empty() ? "" : path_of(fd), "", [&] { return REAL(fsync)(fd); });
}

int rename(const char* from, const char* to) noexcept {
    return change("rename", absolute(AT_FDCWD, from), absolute(AT_FDCWD, to), [&] { return REAL(rename)(from, to); });
}

int mkdir(const char* path, mode_t mode) noexcept {
    return change("mkdir", absolute(AT_FDCWD, path), "", [&] { return REAL(mkdir)(path, mode); });
}

int unlinkat(int folder, const char* path, int flags) noexcept {
    return change("remove", absolute(folder, path), "", [&] { return REAL(unlinkat)(folder, path, flags); });
}

int remove(const char* path) noexcept {
    return change("remove", absolute(AT_FDCWD, path), "", [&] { return REAL(remove)(path); });
}

// What the program says: the journal has it between the changes, so that a claim ("saved") can be held against them.
int fprintf(FILE* file, const char* format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    char text[512];
    vsnprintf(text, sizeof text, format, again);
    va_end(again);
    const int result = vfprintf(file, format, arguments);
    va_end(arguments);
    if (file == stdout && !shim().folder.empty()) {
        const Turn turn;
        shim().record("said", std::string(text, strcspn(text, "\n")));
    }
    return result;
}
}
