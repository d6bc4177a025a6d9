#include "train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

}  // namespace

Checkpointer::Checkpointer(std::string run_directory) : root_(std::move(run_directory) + "/checkpoints") {}

std::string Checkpointer::folder(int64_t step) const {
    return fmt::format("{}/step_{:08}", root_, step);
}

std::string Checkpointer::save(const TrainingState& state, const std::vector<CheckpointTensor>& tensors,
                               int64_t keep) const {
    const fs::path final_folder = folder(state.step), temporary = folder(state.step) + ".tmp";
    if (fs::exists(final_folder)) return final_folder.string();  // the same step of the same run: the same bits
    try {
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
        prune(state.best_step, keep);
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
        if (!name.starts_with("step_")) continue;
        std::error_code ignored;
        if (name.ends_with(".tmp"))
            fs::remove_all(entry.path(), ignored);
        else if (name.find_first_not_of("0123456789", 5) == std::string::npos && name.size() < 24)
            found.push_back(std::stoll(name.substr(5)));
    }
    std::sort(found.begin(), found.end());
    return found;
}

void Checkpointer::prune(int64_t best_step, int64_t keep) const {
    std::vector<int64_t> all = steps();
    for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i)
        if (all[i] != best_step) fs::remove_all(folder(all[i]));
}

json Checkpointer::read_manifest(int64_t step) const {
    const std::string path = folder(step) + "/MANIFEST";
    const std::string text = read_file(path, "checkpoint manifest");
    const size_t end = text.rfind("crc32c ");
    if (end == std::string::npos || text.size() != end + 16 || text.back() != '\n')
        fail_input("{}: ends without its checksum line; the file was cut off", path);
    const std::string wanted = text.substr(end + 7, 8), seen = fmt::format("{:08x}", crc32c(text.data(), end));
    if (wanted != seen) fail_input("{}: checksum is {}, the file says {}; it was damaged", path, seen, wanted);
    json manifest = json::parse(text.substr(0, end), nullptr, false);
    if (!manifest.is_object() || manifest.value("format", 0) != kFormat)
        fail_input("{}: not a manifest of format {}", path, kFormat);
    for (const json& file : manifest.at("files")) {
        const fs::path data = fs::path(folder(step)) / file.at("name").get<std::string>();
        std::error_code error;
        const auto size = static_cast<int64_t>(fs::file_size(data, error));
        if (error) fail_input("{}: {}", data.string(), error.message());
        if (size != file.at("bytes"))
            fail_input("{}: {} bytes, the manifest says {}", data.string(), size, file.at("bytes").get<int64_t>());
    }
    return manifest;
}

TrainingState Checkpointer::read_state(int64_t step) const {
    const json m = read_manifest(step);
    return {.step = m.at("step"),
            .samples = m.at("samples"),
            .tokens = m.at("tokens"),
            .seconds = m.at("seconds"),
            .best_loss = m.at("best_loss"),
            .best_step = m.at("best_step"),
            .config = m.at("config"),
            .data_hash = m.at("data_hash")};
}

void Checkpointer::load(int64_t step, const std::vector<CheckpointTensor>& tensors) const {
    const json manifest = read_manifest(step);
    const std::string path = folder(step) + "/rank_0.bin";
    const MappedFile file(path, "checkpoint");
    for (const CheckpointTensor& t : tensors) {
        const auto entry = std::find_if(manifest.at("tensors").begin(), manifest.at("tensors").end(),
                                        [&](const json& e) { return e.at("name") == t.name; });
        if (entry == manifest.at("tensors").end()) fail_input("{}: has no tensor '{}'", path, t.name);
        if (entry->at("dtype") != name_of(t.data.dtype) ||
            entry->at("shape").get<std::vector<int64_t>>() != dims(t.data.shape))
            fail_input("{}: '{}' is {} {}, this run wants {} {}", path, t.name, entry->at("dtype").get<std::string>(),
                       entry->at("shape").dump(), name_of(t.data.dtype), t.data.shape.to_string());
        const int64_t offset = entry->at("offset");
        check(offset >= 0 && offset + t.data.bytes() <= static_cast<int64_t>(file.bytes().size()),
              "{}: '{}' lies outside the file", path, t.name);
        std::memcpy(t.data.data, file.bytes().data() + offset, static_cast<size_t>(t.data.bytes()));
        for (size_t chunk = 0; chunk < entry->at("crc32c").size(); ++chunk) {
            const int64_t at = static_cast<int64_t>(chunk) * kChunkBytes;
            const uint32_t seen = crc32c(static_cast<const char*>(t.data.data) + at,
                                         static_cast<size_t>(std::min(kChunkBytes, t.data.bytes() - at)));
            if (seen != entry->at("crc32c")[chunk])
                fail_input("{}: '{}' is damaged: bytes {} on have checksum {:08x}, the manifest says {:08x}", path,
                           t.name, offset + at, seen, entry->at("crc32c")[chunk].get<uint32_t>());
        }
    }
}

}  // namespace plimsoll
