#include "train/export/safetensors_file.h"

#include <algorithm>
#include <cstring>

#include "kernels/error.h"
#include "train/json_reader.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr uint64_t kLongestHeader = 100'000'000;  // as the format's own library
constexpr size_t kHeaderAlignment = 8;
constexpr const char* kMetadata = "__metadata__";

// Bytes of an element of each dtype of the format.
struct SafeType {
    std::string_view name;
    int64_t bytes;
};
constexpr SafeType kTypes[] = {{"F64", 8}, {"F32", 4}, {"F16", 2},  {"BF16", 2},    {"I64", 8},
                               {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U64", 8},     {"U32", 4},
                               {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

std::string_view safe_name(TensorType type) {
    switch (type) {
        case TensorType::kF32:
            return "F32";
        case TensorType::kF16:
            return "F16";
        case TensorType::kBF16:
            return "BF16";
        default:
            break;
    }
    throw Error(ExitCode::kInternal, fmt::format("safetensors has no type {}", name_of(type)));
}

SafeTensor parse_tensor(const JsonReader& reader, const std::string& name, const json& entry, size_t begin) {
    SafeTensor tensor{.dtype = reader.string(entry, "dtype"), .shape = {}};
    const auto type = std::ranges::find(kTypes, tensor.dtype, &SafeType::name);
    if (type == std::end(kTypes))
        fail_input("{}: tensor '{}' has the unknown dtype '{}'", reader.path(), brief(name), brief(tensor.dtype));
    int64_t most = INT64_MAX / 16;
    for (const json& size : reader.list(entry, "shape")) {
        tensor.shape.push_back(reader.integer_value(size, "shape", 0, most));
        most /= std::max<int64_t>(1, tensor.shape.back());
    }
    const json& offsets = reader.list(entry, "data_offsets");
    if (offsets.size() != 2)
        fail_input("{}: tensor '{}' has {} data_offsets, wanted 2", reader.path(), brief(name), offsets.size());
    const int64_t first = reader.integer_value(offsets[0], "data_offsets", 0, INT64_MAX / 4),
                  last = reader.integer_value(offsets[1], "data_offsets", first, INT64_MAX / 4);
    tensor.offset = static_cast<int64_t>(begin) + first;
    tensor.bytes = last - first;
    if (tensor.bytes != tensor.elements() * type->bytes)
        fail_input("{}: tensor '{}' has {} bytes, {} of shape ({}) want {}", reader.path(), brief(name), tensor.bytes,
                   tensor.dtype, fmt::join(tensor.shape, ", "), tensor.elements() * type->bytes);
    return tensor;
}

}  // namespace

int64_t SafeTensor::elements() const {
    int64_t product = 1;
    for (const int64_t size : shape) product *= size;
    return product;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path, "safetensors file") {
    const std::span<const std::byte> bytes = file_.bytes();
    uint64_t length = 0;
    if (bytes.size() < sizeof(length)) fail_input("{}: {} bytes; wanted a safetensors file", path_, bytes.size());
    std::memcpy(&length, bytes.data(), sizeof(length));
    if (length > kLongestHeader || length > bytes.size() - sizeof(length))
        fail_input("{}: says that its header has {} bytes, the file has {}; was the download cut off?", path_, length,
                   bytes.size());
    const JsonReader reader(path_);
    const json header =
        reader.parse({reinterpret_cast<const char*>(bytes.data()) + sizeof(length), length}, JsonReader::Keys::kUnique);
    if (!header.is_object()) fail_input("{}: its header is no JSON object", path_);
    const size_t begin = sizeof(length) + length;
    for (const auto& [name, entry] : header.items())
        if (name != kMetadata) tensors_.emplace(name, parse_tensor(reader, name, entry, begin));
    check_layout(begin);
}

// Every byte of the data belongs to one tensor.
void SafetensorsFile::check_layout(size_t begin) const {
    std::vector<std::pair<int64_t, const std::string*>> order;
    for (const auto& [name, tensor] : tensors_) order.emplace_back(tensor.offset, &name);
    std::ranges::sort(order, [](const auto& a, const auto& b) { return a.first < b.first; });
    auto next = static_cast<int64_t>(begin);
    for (const auto& [offset, name] : order) {
        const SafeTensor& tensor = tensors_.at(*name);
        if (tensor.bytes > 0 && offset != next)
            fail_input("{}: tensor '{}' begins at byte {}, the one before ends at {}", path_, brief(*name), offset,
                       next);
        next = std::max(next, offset + tensor.bytes);
    }
    const auto size = static_cast<int64_t>(file_.bytes().size());
    if (next != size)
        fail_input("{}: its tensors end at byte {}, the file at {}; was the download cut off?", path_, next, size);
}

void SafetensorsFile::read(const std::string& name, std::span<float> out) const {
    const SafeTensor& tensor = tensors_.at(name);
    const auto bytes = file_.bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
    if (tensor.dtype == "F64") return decode(out, bytes, TensorType::kF64);
    for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16})
        if (tensor.dtype == safe_name(type)) return decode(out, bytes, type);
    fail_input("{}: tensor '{}' is {}; wanted F32, F16, BF16 or F64", path_, brief(name), tensor.dtype);
}

void write_safetensors(const std::string& path, const std::vector<SafeTensorPlan>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<std::vector<float>(size_t)>& values) {
    nlohmann::ordered_json header;
    if (!metadata.empty()) header[kMetadata] = metadata;
    int64_t offset = 0;
    for (const SafeTensorPlan& tensor : tensors) {
        int64_t elements = 1;
        for (const int64_t size : tensor.shape) elements *= size;
        const int64_t end = offset + bytes_of(tensor.type, elements);
        check(!header.contains(tensor.name), "tensor '{}' twice", tensor.name);
        header[tensor.name] = {
            {"dtype", safe_name(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
        offset = end;
    }
    std::string text = header.dump();
    text.append((kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
    const uint64_t length = text.size();
    AtomicFile file(path);
    file.write({reinterpret_cast<const char*>(&length), sizeof(length)});
    file.write(text);
    for (size_t i = 0; i < tensors.size(); ++i) {
        std::string bytes;
        encode(bytes, values(i), tensors[i].type, tensors[i].name);
        file.write(bytes);
    }
    file.commit();
}

}  // namespace plimsoll
