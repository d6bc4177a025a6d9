#include "train/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/error.h"
#include "train/crc32c.h"
#include "train/json_reader.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int kFormat = 2;
constexpr size_t kLastLine = std::string_view("crc32c 01234567\n").size();

std::vector<int64_t> dims_of(const Shape& shape) {
    std::vector<int64_t> dims;
    for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
    return dims;
}

json json_of(const StoredFile& file, size_t rank) {
    return {{"name", data_file_name(static_cast<int64_t>(rank))}, {"bytes", file.bytes}, {"crc32c", file.crc32c}};
}

json json_of(const StoredTensor& tensor) {
    json pieces = json::array();
    for (const StoredPiece& piece : tensor.pieces)
        pieces.push_back({{"file", piece.file},
                          {"offset", piece.offset},
                          {"begin", piece.range.begin},
                          {"end", piece.range.end},
                          {"crc32c", piece.crc32c}});
    return {{"name", tensor.name},
            {"dtype", name_of(tensor.dtype)},
            {"shape", dims_of(tensor.shape)},
            {"pieces", std::move(pieces)}};
}

json lists_of(const Manifest& manifest) {
    json files = json::array(), tensors = json::array();
    for (size_t i = 0; i < manifest.files.size(); ++i) files.push_back(json_of(manifest.files[i], i));
    for (const StoredTensor& tensor : manifest.tensors) tensors.push_back(json_of(tensor));
    return {{"chunk_bytes", manifest.chunk_bytes}, {"files", std::move(files)}, {"tensors", std::move(tensors)}};
}

// Names in a configuration may be any bytes; what is not UTF-8 is replaced.
std::string dumped(const json& value) {
    return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

// Reads what a manifest has beyond plain JSON.
class Parser : public JsonReader {
  public:
    using JsonReader::JsonReader;

    StoredFile file(const json& value, size_t rank) const {
        const std::string &name = string(value, "name"), wanted = data_file_name(static_cast<int64_t>(rank));
        if (name != wanted) fail_input("{}: file {} is '{}', must be '{}'", path(), rank, name, wanted);
        return {.bytes = integer(value, "bytes", 0),
                .crc32c = static_cast<uint32_t>(integer(value, "crc32c", 0, UINT32_MAX))};
    }

    StoredTensor tensor(const json& value, size_t files) const {
        StoredTensor tensor{
            .name = string(value, "name"), .dtype = dtype(string(value, "dtype")), .shape = shape(value), .pieces = {}};
        for (const json& piece : list(value, "pieces")) {
            tensor.pieces.push_back({.file = integer(piece, "file", 0, static_cast<int64_t>(files) - 1),
                                     .offset = integer(piece, "offset", 0),
                                     .range = {.begin = integer(piece, "begin", 0), .end = integer(piece, "end", 0)}});
            for (const json& crc : list(piece, "crc32c"))
                tensor.pieces.back().crc32c.push_back(
                    static_cast<uint32_t>(integer_value(crc, "crc32c", 0, UINT32_MAX)));
        }
        return tensor;
    }

    void lists(const json& object, Manifest& manifest) const {
        manifest.chunk_bytes = integer(object, "chunk_bytes", 1, kChunkBytes);
        for (const json& entry : list(object, "files")) manifest.files.push_back(file(entry, manifest.files.size()));
        for (const json& entry : list(object, "tensors"))
            manifest.tensors.push_back(tensor(entry, manifest.files.size()));
    }

  private:
    DType dtype(const std::string& name) const {
        for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64, DType::kI32})
            if (name == name_of(dtype)) return dtype;
        fail_input("{}: unknown dtype '{}'", path(), name);
    }

    Shape shape(const json& value) const {
        const json& list = this->list(value, "shape");
        if (list.empty() || list.size() > 4) fail_input("{}: a shape of {} dimensions", path(), list.size());
        std::vector<int64_t> dims;
        int64_t most = INT64_MAX / 8;  // bytes of any dtype can be counted
        for (const json& dim : list) {
            dims.push_back(integer_value(dim, "shape", 1, most));
            most /= dims.back();
        }
        switch (dims.size()) {
            case 1:
                return {dims[0]};
            case 2:
                return {dims[0], dims[1]};
            case 3:
                return {dims[0], dims[1], dims[2]};
            default:
                return {dims[0], dims[1], dims[2], dims[3]};
        }
    }
};

// Every tensor stored once, by pieces that lie in their files.
void check_tensors(const Manifest& m, const std::string& path) {
    for (size_t i = 0; i < m.tensors.size(); ++i) {
        const StoredTensor& t = m.tensors[i];
        if (i > 0 && t.name <= m.tensors[i - 1].name)
            fail_input("{}: tensor '{}' after '{}'; names must rise", path, t.name, m.tensors[i - 1].name);
        const int64_t elements = t.shape.elements();
        int64_t next = 0;
        for (const StoredPiece& p : t.pieces) {
            if (p.range.begin != next)
                fail_input("{}: '{}' {} elements from {} to {}", path, t.name,
                           p.range.begin > next ? "lacks" : "has twice the", std::min(next, p.range.begin),
                           std::max(next, p.range.begin));
            if (p.range.end <= p.range.begin || p.range.end > elements)
                fail_input("{}: '{}' has a piece of elements {} to {}, of {}", path, t.name, p.range.begin, p.range.end,
                           elements);
            const int64_t bytes = t.bytes_of(p), in_file = m.files[static_cast<size_t>(p.file)].bytes;
            if (p.offset > in_file || bytes > in_file - p.offset)
                fail_input("{}: '{}' is said to be bytes {} + {} of {}, which has {}", path, t.name, p.offset, bytes,
                           data_file_name(p.file), in_file);
            const int64_t chunks = (bytes - 1) / m.chunk_bytes + 1;
            if (chunks != static_cast<int64_t>(p.crc32c.size()))
                fail_input("{}: '{}' has {} checksums, {} bytes want {}", path, t.name, p.crc32c.size(), bytes, chunks);
            next = p.range.end;
        }
        if (next != elements) fail_input("{}: '{}' lacks elements from {} to {}", path, t.name, next, elements);
    }
}

// Every byte of a file belongs to one piece, and so has a checksum; together these are the file's.
void check_files(const Manifest& m, const std::string& path) {
    struct Span {
        int64_t offset, bytes;
        const StoredPiece* piece;
    };
    std::vector<std::vector<Span>> spans(m.files.size());
    for (const StoredTensor& t : m.tensors)
        for (const StoredPiece& p : t.pieces)
            spans[static_cast<size_t>(p.file)].push_back({p.offset, t.bytes_of(p), &p});
    for (size_t f = 0; f < spans.size(); ++f) {
        const std::string name = data_file_name(static_cast<int64_t>(f));
        std::sort(spans[f].begin(), spans[f].end(), [](const Span& a, const Span& b) { return a.offset < b.offset; });
        int64_t next = 0;
        uint32_t crc = 0;
        for (const Span& span : spans[f]) {
            if (span.offset != next)
                fail_input("{}: bytes {} to {} of {} belong to {}", path, std::min(next, span.offset),
                           std::max(next, span.offset), name, span.offset > next ? "nothing" : "two tensors");
            for (size_t chunk = 0; chunk < span.piece->crc32c.size(); ++chunk) {
                const int64_t left = span.bytes - static_cast<int64_t>(chunk) * m.chunk_bytes;
                crc = crc32c_combine(crc, span.piece->crc32c[chunk],
                                     static_cast<uint64_t>(std::min(left, m.chunk_bytes)));
            }
            next = span.offset + span.bytes;
        }
        if (next != m.files[f].bytes)
            fail_input("{}: bytes {} to {} of {} belong to nothing", path, next, m.files[f].bytes, name);
        if (crc != m.files[f].crc32c)
            fail_input("{}: {} has checksum {:08x}, its pieces have {:08x}", path, name, m.files[f].crc32c, crc);
    }
}

}  // namespace

int Manifest::find(std::string_view name) const {
    const auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                     [](const StoredTensor& t, std::string_view n) { return t.name < n; });
    return at != tensors.end() && at->name == name ? static_cast<int>(at - tensors.begin()) : -1;
}

std::string data_file_name(int64_t rank) {
    return fmt::format("rank_{}.bin", rank);
}

std::string manifest_text(const Manifest& m) {
    json out = lists_of(m);
    out["format"] = kFormat;
    out["world_size"] = m.files.size();
    out["build"] = m.build;
    out["step"] = m.state.step;
    out["samples"] = m.state.samples;
    out["tokens"] = m.state.tokens;
    out["seconds"] = m.state.seconds;
    out["best_loss"] = m.state.best_loss;
    out["best_step"] = m.state.best_step;
    out["config"] = m.state.config;
    out["config_hash"] = fmt::format("{:016x}", hash_content(std::as_bytes(std::span(m.state.config))));
    out["data_hash"] = m.state.data_hash;
    out["tokenizer_hash"] = m.state.tokenizer_hash;
    out["extra"] = json::parse(m.state.extra, nullptr, false);
    std::string text = dumped(out);
    return text + fmt::format("crc32c {:08x}\n", crc32c(text.data(), text.size()));
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
    const size_t end = text.size() < kLastLine ? 0 : text.size() - kLastLine;
    const std::string_view last = text.substr(end);
    if (end == 0 || !last.starts_with("crc32c ") || last.back() != '\n')
        fail_input("{}: {} bytes that end without their checksum line; the file was cut off", path, text.size());
    const std::string_view wanted = last.substr(7, 8);
    const std::string seen = fmt::format("{:08x}", crc32c(text.data(), end));
    if (wanted != seen) fail_input("{}: checksum is {}, the file says {}; it was damaged", path, seen, wanted);

    const Parser parser(path);
    const json m = parser.parse(text.substr(0, end));
    if (const int64_t format = parser.integer(m, "format", 0); format != kFormat)
        fail_input("{}: format {}, this build reads {}", path, format, kFormat);
    const json& extra = parser.member(m, "extra");
    if (!extra.is_object()) fail_input("{}: 'extra' is no object", path);
    // Checkpoints from before it was kept have none.
    const std::string tokenizer_hash = m.contains("tokenizer_hash") ? parser.string(m, "tokenizer_hash") : "";
    Manifest manifest{.state = {.step = parser.integer(m, "step", 0),
                                .samples = parser.integer(m, "samples", 0),
                                .tokens = parser.integer(m, "tokens", 0),
                                .seconds = parser.number(m, "seconds"),
                                .best_loss = parser.number(m, "best_loss"),
                                .best_step = parser.integer(m, "best_step", -1),
                                .config = parser.string(m, "config"),
                                .data_hash = parser.string(m, "data_hash"),
                                .tokenizer_hash = tokenizer_hash,
                                .extra = extra.dump()},
                      .build = parser.string(m, "build")};
    parser.lists(m, manifest);
    if (const int64_t ranks = parser.integer(m, "world_size", 1); ranks != static_cast<int64_t>(manifest.files.size()))
        fail_input("{}: {} files of {} ranks", path, manifest.files.size(), ranks);
    check_tensors(manifest, path);
    check_files(manifest, path);
    return manifest;
}

std::string share_text(const Manifest& share) {
    return lists_of(share).dump();
}

void add_share(Manifest& manifest, std::string_view text) {
    const std::string path = fmt::format("what rank {} saved", manifest.files.size());
    const Parser parser(path);
    Manifest share;
    parser.lists(parser.parse(text), share);
    const auto file = static_cast<int64_t>(manifest.files.size());
    check(share.files.size() == 1, "{}: {} files", path, share.files.size());
    manifest.chunk_bytes = share.chunk_bytes;
    manifest.files.push_back(share.files[0]);
    for (StoredTensor& t : share.tensors) {
        for (StoredPiece& piece : t.pieces) piece.file = file;
        const auto at = std::lower_bound(manifest.tensors.begin(), manifest.tensors.end(), t.name,
                                         [](const StoredTensor& a, const std::string& name) { return a.name < name; });
        if (at == manifest.tensors.end() || at->name != t.name) {
            manifest.tensors.insert(at, std::move(t));
            continue;
        }
        check(at->dtype == t.dtype && at->shape == t.shape, "{}: '{}' is {} {}, on an earlier rank {} {}", path, t.name,
              name_of(t.dtype), t.shape, name_of(at->dtype), at->shape);
        at->pieces.insert(at->pieces.end(), t.pieces.begin(), t.pieces.end());
        std::sort(at->pieces.begin(), at->pieces.end(),
                  [](const StoredPiece& a, const StoredPiece& b) { return a.range.begin < b.range.begin; });
    }
}

}  // namespace plimsoll
