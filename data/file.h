// Files, as the data room needs them: read whole, mapped, found by pattern, written so that no half file is ever seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

// The bytes of a regular file. `what` opens the message of an error ("data.text", "tokenizer file").
// Throws Error: 78 if there is no such file, it is not a regular file, or it has more than `max_bytes`; 74 if reading
// fails.
std::string read_file(const std::string& path, std::string_view what, int64_t max_bytes = INT64_MAX);

// A file that gets its name only once it is whole: bytes go to `path`.temporary; commit() does fsync, rename, fsync of
// the folder. After a crash `path` holds either its old content or all of the new. Errors are Error (74).
class AtomicFile {
  public:
    explicit AtomicFile(const std::string& path);
    // Without commit() nothing is left.
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    void write(std::string_view bytes);
    void commit();

  private:
    std::string path_, temporary_;
    int fd_;
};

// Writes `parts` one after the other as an AtomicFile.
void write_file_atomically(const std::string& path, std::initializer_list<std::string_view> parts);

// Paths that match a shell pattern (* ? [...]), sorted by byte value; empty when none does. A pattern without
// wildcards matches the path itself if it exists.
std::vector<std::string> match_files(const std::string& pattern);

// A regular file mapped read-only. Moves, does not copy. Throws like read_file.
class MappedFile {
  public:
    MappedFile(const std::string& path, std::string_view what);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&&) = delete;

    std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::span<const std::byte> bytes_;
};

// FNV-1a (64 bit) of the content. Files above 16 MiB are sampled: 256 evenly spaced blocks of 64 KiB and the size,
// so that a data set of many GiB is named within seconds; below, every byte counts.
uint64_t hash_content(std::span<const std::byte> bytes);

}  // namespace plimsoll
