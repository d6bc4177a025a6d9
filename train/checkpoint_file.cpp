#include "train/checkpoint_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "data/file.h"
#include "kernels/error.h"
#include "train/crc32c.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// Twenty thousand tensors on a thousand ranks stay below.
constexpr uintmax_t kLargestManifest = uintmax_t{256} << 20;

void check_part(const CheckpointPart& part) {
    check(part.data.device == Device::kCpu && part.data.elements() == part.range.size() && part.range.begin >= 0 &&
              part.range.end <= part.shape.elements(),
          "checkpoint part '{}': elements {} to {} of {} in a tensor {}", part.name, part.range.begin, part.range.end,
          part.shape, part.data.shape);
}

// A checkpoint's data files, opened when they are needed.
class DataFiles {
  public:
    DataFiles(const std::string& folder, const Manifest& manifest)
        : folder_(folder), manifest_(manifest), files_(manifest.files.size()) {}

    // A chunk of a piece, verified. The bytes are valid until the next call.
    std::span<const char> chunk(const StoredTensor& tensor, const StoredPiece& piece, size_t number) {
        const int64_t begin = static_cast<int64_t>(number) * manifest_.chunk_bytes;
        const int64_t size = std::min(manifest_.chunk_bytes, tensor.bytes_of(piece) - begin);
        const std::string path = folder_ + "/" + data_file_name(piece.file);
        std::unique_ptr<Descriptor>& file = files_[static_cast<size_t>(piece.file)];
        if (!file) file = std::make_unique<Descriptor>(path, O_RDONLY);
        buffer_.resize(static_cast<size_t>(size));
        file->read_all(buffer_.data(), size, piece.offset + begin);
        if (const uint32_t seen = plimsoll::crc32c(buffer_.data(), buffer_.size()); seen != piece.crc32c[number])
            fail_input("{}: '{}' is damaged: bytes {} to {} have checksum {:08x}, the manifest says {:08x}", path,
                       tensor.name, piece.offset + begin, piece.offset + begin + size, seen, piece.crc32c[number]);
        return buffer_;
    }

  private:
    const std::string& folder_;
    const Manifest& manifest_;
    std::vector<std::unique_ptr<Descriptor>> files_;
    std::vector<char> buffer_;
};

// The parts that want elements of each stored tensor, by the tensor's index.
std::vector<std::vector<const CheckpointPart*>> parts_by_tensor(const std::string& folder, const Manifest& manifest,
                                                                std::span<const CheckpointPart> parts) {
    std::vector<std::vector<const CheckpointPart*>> wanted(manifest.tensors.size());
    for (const CheckpointPart& part : parts) {
        check_part(part);
        const int index = manifest.find(part.name);
        if (index < 0) fail_input("{}: has no tensor '{}'", folder, part.name);
        const StoredTensor& stored = manifest.tensors[static_cast<size_t>(index)];
        if (stored.dtype != part.data.dtype || stored.shape != part.shape)
            fail_input("{}: '{}' is {} {}, this run wants {} {}", folder, part.name, name_of(stored.dtype),
                       stored.shape, name_of(part.data.dtype), part.shape);
        wanted[static_cast<size_t>(index)].push_back(&part);
    }
    return wanted;
}

}  // namespace

Descriptor::Descriptor(std::string path, int flags)
    : path_(std::move(path)), fd_(::open(path_.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail_io("cannot open '{}': {}", path_, std::strerror(errno));
}

Descriptor::~Descriptor() {
    ::close(fd_);
}

void Descriptor::write_all(const void* data, int64_t size, int64_t offset) const {
    const char* bytes = static_cast<const char*>(data);
    while (size > 0) {
        const ssize_t written = ::pwrite(fd_, bytes, static_cast<size_t>(size), offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail_io("writing '{}' at byte {}: {}", path_, offset, std::strerror(errno));
        bytes += written, offset += written, size -= written;
    }
}

void Descriptor::read_all(void* data, int64_t size, int64_t offset) const {
    char* bytes = static_cast<char*>(data);
    while (size > 0) {
        const ssize_t read = ::pread(fd_, bytes, static_cast<size_t>(size), offset);
        if (read < 0 && errno == EINTR) continue;
        if (read < 0) fail_io("reading '{}' at byte {}: {}", path_, offset, std::strerror(errno));
        if (read == 0) fail_input("{}: ends at byte {}, {} more were wanted", path_, offset, size);
        bytes += read, offset += read, size -= read;
    }
}

void Descriptor::flush() const {
    if (::fsync(fd_) != 0) fail_io("flushing '{}' to disk: {}", path_, std::strerror(errno));
}

void flush_folder(const std::string& path) {
    Descriptor(path, O_RDONLY | O_DIRECTORY).flush();
}

void write_flushed(const std::string& path, std::string_view text) {
    const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
    file.write_all(text.data(), static_cast<int64_t>(text.size()), 0);
    file.flush();
}

Manifest write_parts(const std::string& folder, int64_t rank, std::span<const CheckpointPart> parts,
                     int64_t chunk_bytes) {
    const Descriptor file(folder + "/" + data_file_name(rank), O_WRONLY | O_CREAT | O_TRUNC);
    Manifest share{.state = {}, .chunk_bytes = chunk_bytes, .files = {{}}};
    StoredFile& stored = share.files[0];
    for (const CheckpointPart& part : parts) {
        check_part(part);
        if (part.range.size() == 0) continue;
        StoredPiece piece{.offset = stored.bytes, .range = part.range};
        const char* data = static_cast<const char*>(part.data.data);
        for (int64_t at = 0; at < part.data.bytes(); at += chunk_bytes) {
            const int64_t size = std::min(chunk_bytes, part.data.bytes() - at);
            file.write_all(data + at, size, stored.bytes);
            piece.crc32c.push_back(crc32c(data + at, static_cast<size_t>(size)));
            stored.crc32c = crc32c_combine(stored.crc32c, piece.crc32c.back(), static_cast<uint64_t>(size));
            stored.bytes += size;
        }
        share.tensors.push_back(
            {.name = part.name, .dtype = part.data.dtype, .shape = part.shape, .pieces = {std::move(piece)}});
    }
    file.flush();
    return share;
}

Manifest read_manifest(const std::string& folder) {
    const std::string path = folder + "/MANIFEST";
    std::error_code error;
    if (const uintmax_t size = fs::file_size(path, error); !error && size > kLargestManifest)
        fail_input("{}: {} bytes; a manifest has at most {}", path, size, kLargestManifest);
    Manifest manifest = parse_manifest(read_file(path, "checkpoint manifest"), path);
    for (size_t f = 0; f < manifest.files.size(); ++f) {
        const std::string data = folder + "/" + data_file_name(static_cast<int64_t>(f));
        const auto size = static_cast<int64_t>(fs::file_size(data, error));
        if (error) fail_input("{}: {}; the manifest says {} bytes", data, error.message(), manifest.files[f].bytes);
        if (size != manifest.files[f].bytes)
            fail_input("{}: {} bytes, the manifest says {}", data, size, manifest.files[f].bytes);
    }
    return manifest;
}

void load_parts(const std::string& folder, const Manifest& manifest, std::span<const CheckpointPart> parts, int rank,
                int ranks) {
    const std::vector<std::vector<const CheckpointPart*>> wanted = parts_by_tensor(folder, manifest, parts);
    DataFiles files(folder, manifest);
    int64_t chunk_number = 0;
    for (size_t t = 0; t < manifest.tensors.size(); ++t) {
        const StoredTensor& tensor = manifest.tensors[t];
        const int64_t element = size_of(tensor.dtype);
        for (const StoredPiece& piece : tensor.pieces)
            for (size_t c = 0; c < piece.crc32c.size(); ++c, ++chunk_number) {
                // The chunk's bytes of the tensor.
                const int64_t begin = piece.range.begin * element + static_cast<int64_t>(c) * manifest.chunk_bytes;
                const int64_t end = std::min(begin + manifest.chunk_bytes, piece.range.end * element);
                const auto overlap = [&](const CheckpointPart* part) {
                    return ElementRange{std::max(begin, part->range.begin * element),
                                        std::min(end, part->range.end * element)};
                };
                const bool needed = std::any_of(wanted[t].begin(), wanted[t].end(),
                                                [&](const CheckpointPart* part) { return overlap(part).size() > 0; });
                if (!needed && chunk_number % ranks != rank) continue;
                const std::span<const char> bytes = files.chunk(tensor, piece, c);
                for (const CheckpointPart* part : wanted[t])
                    if (const ElementRange bytes_of_part = overlap(part); bytes_of_part.size() > 0)
                        std::memcpy(
                            static_cast<char*>(part->data.data) + bytes_of_part.begin - part->range.begin * element,
                            bytes.data() + bytes_of_part.begin - begin, static_cast<size_t>(bytes_of_part.size()));
            }
    }
}

}  // namespace plimsoll
