#include "train/inspect_checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "data/file.h"
#include "kernels/error.h"
#include "train/checkpoint_store.h"
#include "train/crc32c.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

int64_t total_bytes(const Manifest& manifest) {
    int64_t bytes = 0;
    for (const StoredFile& file : manifest.files) bytes += file.bytes;
    return bytes;
}

double mib(int64_t bytes) {
    return static_cast<double>(bytes) / (1 << 20);
}

std::string layout_text(const StoredTensor& tensor) {
    std::string text;
    for (const StoredPiece& piece : tensor.pieces)
        text += fmt::format("{}[{}, {}) in {}", text.empty() ? "" : ", ", piece.range.begin, piece.range.end,
                            data_file_name(piece.file));
    return text;
}

std::string state_text(const Manifest& m) {
    const TrainingState& s = m.state;
    std::string text = fmt::format("step {}, {} tokens, next sample {}, {:.1f} s of training\n", s.step, s.tokens,
                                   s.samples, s.seconds);
    if (s.best_step >= 0) text += fmt::format("best validation loss {:.6f} at step {}\n", s.best_loss, s.best_step);
    text += fmt::format("data {}, tokenizer {}, configuration {:016x}, build {}, other state {}\n", s.data_hash,
                        s.tokenizer_hash.empty() ? "unknown" : s.tokenizer_hash,
                        hash_content(std::as_bytes(std::span(s.config))), m.build, s.extra);
    return text + fmt::format("{} ranks, {:.2f} MiB in chunks of at most {} bytes\n", m.files.size(),
                              mib(total_bytes(m)), m.chunk_bytes);
}

std::string hashes_text(const Manifest& manifest) {
    std::string text;
    for (const StoredTensor& t : manifest.tensors)
        text +=
            fmt::format("{:08x}  {} {} {}\n", tensor_hash(t, manifest.chunk_bytes), t.name, name_of(t.dtype), t.shape);
    return text;
}

void inspect_one(const std::string& folder, Shown shown, const std::function<void(const std::string&)>& write) {
    const Manifest manifest = read_manifest(folder);
    if (shown == Shown::kAll) {
        write(state_text(manifest));
        for (size_t f = 0; f < manifest.files.size(); ++f)
            write(fmt::format("{:08x}  {}: {} bytes\n", manifest.files[f].crc32c,
                              data_file_name(static_cast<int64_t>(f)), manifest.files[f].bytes));
        for (const StoredTensor& t : manifest.tensors)
            write(fmt::format("{:08x}  {} {} {}: {}\n", tensor_hash(t, manifest.chunk_bytes), t.name, name_of(t.dtype),
                              t.shape, layout_text(t)));
    } else {
        write(hashes_text(manifest));
    }
    load_parts(folder, manifest, {}, 0, 1);
    write(fmt::format("{:016x}  all tensors\n", tensors_hash(manifest)));
    if (shown == Shown::kAll) write("whole: every checksum is right\n");
}

void inspect_run(const std::string& run, const std::function<void(const std::string&)>& write) {
    const CheckpointStore store(run);
    int damaged = 0;
    std::string first;
    for (const int64_t step : store.steps()) {
        try {
            const Manifest manifest = read_manifest(store.folder(step));
            load_parts(store.folder(step), manifest, {}, 0, 1);
            write(fmt::format("{}: whole, {} ranks, {:.2f} MiB, tensors {:016x}{}\n", store.folder(step),
                              manifest.files.size(), mib(total_bytes(manifest)), tensors_hash(manifest),
                              manifest.state.best_step == step ? ", best so far" : ""));
        } catch (const Error& error) {
            write(fmt::format("{}: damaged: {}\n", store.folder(step), error.what()));
            if (damaged++ == 0) first = error.what();
        }
    }
    if (damaged > 0) fail_input("{}: {} of {} checkpoints damaged: {}", run, damaged, store.steps().size(), first);
}

}  // namespace

uint32_t tensor_hash(const StoredTensor& tensor, int64_t chunk_bytes) {
    uint32_t hash = 0;
    for (const StoredPiece& piece : tensor.pieces)
        for (size_t c = 0; c < piece.crc32c.size(); ++c) {
            const int64_t left = tensor.bytes_of(piece) - static_cast<int64_t>(c) * chunk_bytes;
            hash = crc32c_combine(hash, piece.crc32c[c], static_cast<uint64_t>(std::min(left, chunk_bytes)));
        }
    return hash;
}

uint64_t tensors_hash(const Manifest& manifest) {
    const std::string text = hashes_text(manifest);
    return hash_content(std::as_bytes(std::span(text)));
}

void inspect_checkpoint(const std::string& path, Shown shown, const std::function<void(const std::string&)>& write) {
    if (fs::is_directory(path + "/checkpoints")) return inspect_run(path, write);
    if (!fs::is_directory(path)) fail_input("'{}' is no folder; wanted a checkpoint's or a run's", path);
    inspect_one(path, shown, write);
}

}  // namespace plimsoll
