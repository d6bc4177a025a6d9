#include "train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kChunkBytes = int64_t{64} << 20;
constexpr int kFormat = 1;

// A file or folder descriptor that closes itself.
class Descriptor {
  public:
    Descriptor(const fs::path& path, int flags) : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
        if (fd_ < 0) fail_io("cannot open '{}': {}", path.string(), std::strerror(errno));
    }
    ~Descriptor() { ::close(fd_); }
    Descriptor(const Descriptor&) = delete;

    void write_all(const void* data, int64_t size, int64_t offset) const {
        const char* bytes = static_cast<const char*>(data);
        while (size > 0) {
            const ssize_t written = ::pwrite(fd_, bytes, static_cast<size_t>(size), offset);
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) fail_io("writing '{}' at byte {}: {}", path_.string(), offset, std::strerror(errno));
            bytes += written, offset += written, size -= written;
        }
    }
    void flush() const {
        if (::fsync(fd_) != 0) fail_io("flushing '{}' to disk: {}", path_.string(), std::strerror(errno));
    }

  private:
    fs::path path_;
    int fd_;
};

void flush_folder(const fs::path& path) {
    Descriptor(path, O_RDONLY | O_DIRECTORY).flush();
}

std::vector<int64_t> dims(const Shape& shape) {
    std::vector<int64_t> out;
    for (int i = 0; i < shape.rank(); ++i) out.push_back(shape[i]);
    return out;
}

// Writes the tensors; returns their entries in the manifest, and the file's size.
json write_tensors(const fs::path& path, const std::vector<CheckpointTensor>& tensors, int64_t& offset) {
    const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
    json entries = json::array();
    offset = 0;
    for (const CheckpointTensor& t : tensors) {
        json chunks = json::array();
        const char* data = static_cast<const char*>(t.data.data);
        for (int64_t at = 0; at < t.data.bytes(); at += kChunkBytes) {
            const int64_t size = std::min(kChunkBytes, t.data.bytes() - at);
            file.write_all(data + at, size, offset + at);
            chunks.push_back(crc32c(data + at, static_cast<size_t>(size)));
        }
        entries.push_back({{"name", t.name},
                           {"dtype", name_of(t.data.dtype)},
                           {"shape", dims(t.data.shape)},
                           {"offset", offset},
                           {"bytes", t.data.bytes()},
                           {"crc32c", std::move(chunks)}});
        offset += t.data.bytes();
    }
    file.flush();
    return entries;
}

struct StoredTensor {
    std::string name, dtype;
    std::vector<int64_t> shape;
    int64_t offset = 0, bytes = 0;
    std::vector<uint32_t> crc32c;  // one for each chunk
};

// A stored tensor's bytes, every chunk's checksum verified. Throws Error (78) where they are not what was saved.
std::string_view verified_bytes(const StoredTensor& t, const MappedFile& mapped, const std::string& path) {
    const std::string_view file(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
    const auto size = static_cast<int64_t>(file.size());
    if (t.offset < 0 || t.bytes < 0 || t.offset > size || t.bytes > size - t.offset)
        fail_input("{}: '{}' is said to be bytes {} + {} of {}", path, t.name, t.offset, t.bytes, size);
    const int64_t chunks = (t.bytes + kChunkBytes - 1) / kChunkBytes;
    if (chunks != static_cast<int64_t>(t.crc32c.size()))
        fail_input("{}: '{}' has {} checksums, {} bytes want {}", path, t.name, t.crc32c.size(), t.bytes, chunks);
    const std::string_view bytes = file.substr(static_cast<size_t>(t.offset), static_cast<size_t>(t.bytes));
    for (size_t chunk = 0; chunk < t.crc32c.size(); ++chunk) {
        const std::string_view part = bytes.substr(chunk * kChunkBytes, kChunkBytes);
        const uint32_t seen = crc32c(part.data(), part.size());
        if (seen != t.crc32c[chunk])
            fail_input("{}: '{}' is damaged: bytes {} on have checksum {:08x}, the manifest says {:08x}", path, t.name,
                       t.offset + static_cast<int64_t>(chunk) * kChunkBytes, seen, t.crc32c[chunk]);
    }
    return bytes;
}

// The step of a folder's name, "step_00001000"; -1 for any other name.
int64_t step_of(std::string_view name) {
    if (!name.starts_with("step_")) return -1;
    int64_t step = -1;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 5, end, step);
    return error == std::errc{} && stop == end ? step : -1;
}

}  // namespace

struct Checkpointer::Manifest {
    TrainingState state;
    std::vector<StoredTensor> tensors;
};

Checkpointer::Checkpointer(std::string run_directory) : root_(std::move(run_directory) + "/checkpoints") {}

std::string Checkpointer::folder(int64_t step) const {
    return fmt::format("{}/step_{:08}", root_, step);
}

std::string Checkpointer::save(const TrainingState& state, const std::vector<CheckpointTensor>& tensors,
                               int64_t keep) const {
    const fs::path final_folder = folder(state.step), temporary = folder(state.step) + ".tmp";
    try {
        if (fs::exists(final_folder)) {
            if (is_whole(state.step)) return final_folder.string();  // the same step of the same run: the same bits
            fs::remove_all(final_folder);
        }
        fs::remove_all(temporary);
        fs::create_directories(temporary);
        int64_t bytes = 0;
        json manifest{{"format", kFormat},
                      {"world_size", 1},
                      {"step", state.step},
                      {"samples", state.samples},
                      {"tokens", state.tokens},
                      {"seconds", state.seconds},
                      {"best_loss", state.best_loss},
                      {"best_step", state.best_step},
                      {"config", state.config},
                      {"data_hash", state.data_hash}};
        manifest["tensors"] = write_tensors(temporary / "rank_0.bin", tensors, bytes);
        manifest["files"] = json::array({{{"name", "rank_0.bin"}, {"bytes", bytes}}});
        std::string text = manifest.dump(1) + "\n";
        text += fmt::format("crc32c {:08x}\n", crc32c(text.data(), text.size()));
        const Descriptor file(temporary / "MANIFEST", O_WRONLY | O_CREAT | O_TRUNC);
        file.write_all(text.data(), static_cast<int64_t>(text.size()), 0);
        file.flush();
        flush_folder(temporary);
        fs::rename(temporary, final_folder);
        flush_folder(root_);
        prune(state, keep);
    } catch (const fs::filesystem_error& error) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        fail_io("saving step {}: {}", state.step, error.what());
    } catch (const Error&) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        throw;
    }
    return final_folder.string();
}

std::vector<int64_t> Checkpointer::steps() const {
    std::vector<int64_t> found;
    if (!fs::is_directory(root_)) return found;
    for (const auto& entry : fs::directory_iterator(root_)) {
        const std::string name = entry.path().filename().string();
        std::error_code ignored;
        if (name.starts_with("step_") && name.ends_with(".tmp"))
            fs::remove_all(entry.path(), ignored);
        else if (const int64_t step = step_of(name); step >= 0)
            found.push_back(step);
    }
    std::sort(found.begin(), found.end());
    return found;
}

// Checkpoints of later steps are not counted, and left: a run that fell back to an older one found them damaged, and
// replaces them when it comes to their steps again.
void Checkpointer::prune(const TrainingState& state, int64_t keep) const {
    std::vector<int64_t> done = steps();
    std::erase_if(done, [&](int64_t step) { return step > state.step; });
    for (size_t i = 0; i + static_cast<size_t>(keep) < done.size(); ++i)
        if (done[i] != state.best_step) fs::remove_all(folder(done[i]));
}

Checkpointer::Manifest Checkpointer::read_manifest(int64_t step) const {
    const std::string path = folder(step) + "/MANIFEST";
    const std::string text = read_file(path, "checkpoint manifest");
    const size_t end = text.rfind("crc32c ");
    if (end == std::string::npos || text.size() != end + 16 || text.back() != '\n')
        fail_input("{}: ends without its checksum line; the file was cut off", path);
    const std::string wanted = text.substr(end + 7, 8), seen = fmt::format("{:08x}", crc32c(text.data(), end));
    if (wanted != seen) fail_input("{}: checksum is {}, the file says {}; it was damaged", path, seen, wanted);
    try {
        const json m = json::parse(text.substr(0, end));
        if (m.at("format") != kFormat)
            fail_input("{}: format {}, this build reads {}", path, m.at("format").dump(), kFormat);
        for (const json& file : m.at("files").get<json::array_t>()) {
            const fs::path data = fs::path(folder(step)) / file.at("name").get<std::string>();
            std::error_code error;
            const auto size = static_cast<int64_t>(fs::file_size(data, error));
            if (error) fail_input("{}: {}", data.string(), error.message());
            if (size != file.at("bytes"))
                fail_input("{}: {} bytes, the manifest says {}", data.string(), size, file.at("bytes").dump());
        }
        Manifest manifest{.state = {.step = m.at("step"),
                                    .samples = m.at("samples"),
                                    .tokens = m.at("tokens"),
                                    .seconds = m.at("seconds"),
                                    .best_loss = m.at("best_loss"),
                                    .best_step = m.at("best_step"),
                                    .config = m.at("config"),
                                    .data_hash = m.at("data_hash")},
                          .tensors = {}};
        for (const json& t : m.at("tensors").get<json::array_t>())
            manifest.tensors.push_back({.name = t.at("name"),
                                        .dtype = t.at("dtype"),
                                        .shape = t.at("shape"),
                                        .offset = t.at("offset"),
                                        .bytes = t.at("bytes"),
                                        .crc32c = t.at("crc32c")});
        return manifest;
    } catch (const json::exception& error) {
        fail_input("{}: not a manifest of format {}: {}", path, kFormat, error.what());
    }
}

bool Checkpointer::is_whole(int64_t step) const {
    try {
        const Manifest manifest = read_manifest(step);
        const std::string path = folder(step) + "/rank_0.bin";
        const MappedFile file(path, "checkpoint");
        for (const StoredTensor& t : manifest.tensors) verified_bytes(t, file, path);
        return true;
    } catch (const Error&) {
        return false;
    }
}

TrainingState Checkpointer::read_state(int64_t step) const {
    return read_manifest(step).state;
}

void Checkpointer::load(int64_t step, const std::vector<CheckpointTensor>& tensors) const {
    const Manifest manifest = read_manifest(step);
    const std::string path = folder(step) + "/rank_0.bin";
    const MappedFile file(path, "checkpoint");
    for (const CheckpointTensor& t : tensors) {
        const auto stored = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                         [&](const StoredTensor& s) { return s.name == t.name; });
        if (stored == manifest.tensors.end()) fail_input("{}: has no tensor '{}'", path, t.name);
        if (stored->dtype != name_of(t.data.dtype) || stored->shape != dims(t.data.shape) ||
            stored->bytes != t.data.bytes())
            fail_input("{}: '{}' is {} ({}) of {} bytes, this run wants {} {} of {} bytes", path, t.name, stored->dtype,
                       fmt::join(stored->shape, ", "), stored->bytes, name_of(t.data.dtype), t.data.shape.to_string(),
                       t.data.bytes());
        const std::string_view bytes = verified_bytes(*stored, file, path);
        std::memcpy(t.data.data, bytes.data(), bytes.size());
    }
}

}  // namespace plimsoll
