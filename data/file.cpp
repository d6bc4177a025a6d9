#include "data/file.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

// A file descriptor that closes itself.
class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }

  private:
    int fd_;
};

// Opens for reading what must be a regular file; `size` receives its length in bytes.
int open_regular(const std::string& path, std::string_view what, int64_t& size) {
    // Without O_NONBLOCK opening a pipe would wait for its writer.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        fail_input("{} '{}': cannot be opened ({}); relative paths start at the current folder '{}'", what, path,
                   std::strerror(errno), std::filesystem::current_path().string());
    }
    struct stat info {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        ::close(fd);
        fail_input("{} '{}': is not a regular file", what, path);
    }
    size = info.st_size;
    return fd;
}

void write_all(int fd, std::string_view bytes, const std::string& path) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) fail_io("cannot write '{}': {}", path, std::strerror(errno));
        bytes.remove_prefix(static_cast<size_t>(written));
    }
}

void sync_folder(const std::filesystem::path& folder) {
    const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() < 0 || ::fsync(fd.get()) != 0)
        fail_io("cannot sync folder '{}': {}", folder.string(), std::strerror(errno));
}

}  // namespace

std::string read_file(const std::string& path, std::string_view what, int64_t max_bytes) {
    int64_t size = 0;
    const Descriptor fd(open_regular(path, what, size));
    if (size > max_bytes) fail_input("{} '{}': {} bytes, wanted at most {}", what, path, size, max_bytes);
    std::string content(static_cast<size_t>(size), '\0');
    size_t filled = 0;
    while (filled < content.size()) {
        const ssize_t count = ::read(fd.get(), content.data() + filled, content.size() - filled);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail_io("{} '{}': cannot be read: {}", what, path, std::strerror(errno));
        if (count == 0) fail_io("{} '{}': ended at byte {} of {}; is it being written?", what, path, filled, size);
        filled += static_cast<size_t>(count);
    }
    return content;
}

AtomicFile::AtomicFile(const std::string& path)
    : path_(path),
      temporary_(path + ".temporary"),
      fd_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail_io("cannot create '{}': {}", temporary_, std::strerror(errno));
}

AtomicFile::~AtomicFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
    write_all(fd_, bytes, temporary_);
}

void AtomicFile::commit() {
    if (::fsync(fd_) != 0) fail_io("cannot sync '{}': {}", temporary_, std::strerror(errno));
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        fail_io("cannot rename '{}' to '{}': {}", temporary_, path_, std::strerror(errno));
    }
    ::close(std::exchange(fd_, -1));
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    sync_folder(folder.empty() ? "." : folder);
}

void write_file_atomically(const std::string& path, std::initializer_list<std::string_view> parts) {
    AtomicFile file(path);
    for (const std::string_view part : parts) file.write(part);
    file.commit();
}

std::vector<std::string> match_files(const std::string& pattern) {
    glob_t found{};
    std::vector<std::string> paths;
    const int result = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
    if (result == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    if (result != 0 && result != GLOB_NOMATCH) fail_io("cannot list files that match '{}'", pattern);
    std::sort(paths.begin(), paths.end());
    return paths;
}

MappedFile::MappedFile(const std::string& path, std::string_view what) {
    int64_t size = 0;
    const Descriptor fd(open_regular(path, what, size));
    if (size == 0) return;  // mmap refuses an empty file; an empty span says the same
    void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) fail_io("{} '{}': cannot be mapped: {}", what, path, std::strerror(errno));
    bytes_ = {static_cast<const std::byte*>(data), static_cast<size_t>(size)};
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

uint64_t hash_content(std::span<const std::byte> bytes) {
    constexpr size_t kBlock = 64 * 1024, kBlocks = 256;
    const size_t stride = std::max(kBlock, bytes.size() / kBlocks);
    std::string blocks = fmt::format("{}", bytes.size());
    for (size_t begin = 0; begin < bytes.size(); begin += stride) {
        const auto block = bytes.subspan(begin, std::min(kBlock, bytes.size() - begin));
        blocks += fmt::format(" {:016x}", hash_name({reinterpret_cast<const char*>(block.data()), block.size()}));
    }
    return hash_name(blocks);
}

}  // namespace plimsoll
