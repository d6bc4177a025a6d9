#include "train/export/gguf_file.h"

#include <cstring>
#include <fstream>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;
constexpr uint32_t kArrayType = 9;
constexpr uint64_t kMostDimensions = 4;
constexpr size_t kLongestTensorName = 63;  // GGML_MAX_NAME - 1
constexpr size_t kLongestKey = 65535;
constexpr const char* kAlignmentKey = "general.alignment";

constexpr const char* kTypeNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                      "bool",  "string", "a list", "uint64", "int64",  "float64"};

uint64_t aligned(uint64_t size, uint64_t alignment) {
    return (size + alignment - 1) / alignment * alignment;
}

// Appends what GGUF writes for a value.
struct Writer {
    std::string& out;

    template <class T>
    requires std::is_arithmetic_v<T>
    void operator()(const T& value) {
        if constexpr (std::is_same_v<T, bool>)
            out += value ? '\1' : '\0';
        else
            out.append(reinterpret_cast<const char*>(&value), sizeof(T));
    }
    void operator()(const std::string& text) {
        (*this)(uint64_t{text.size()});
        out += text;
    }
    void operator()(const std::monostate&) {}
    void operator()(const GgufArray& array) {
        (*this)(static_cast<uint32_t>(array.index()));
        std::visit(
            [&](const auto& list) {
                if constexpr (!std::is_same_v<std::decay_t<decltype(list)>, std::monostate>) {
                    (*this)(uint64_t{list.size()});
                    for (const auto& item : list) (*this)(item);
                }
            },
            array);
    }
};

// Reads what a hostile file says. Every count is compared with the bytes that are left before anything is allocated.
class Parser {
  public:
    Parser(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

    size_t at() const { return at_; }
    size_t left() const { return bytes_.size() - at_; }

    template <class... Args>
    [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
        fail_input("{}: byte {}: {}", path_, at_, fmt::format(format, std::forward<Args>(args)...));
    }

    template <class T>
    T number(const char* what) {
        if (left() < sizeof(T)) fail("the file ends within {}; was the download cut off?", what);
        T value;
        std::memcpy(&value, bytes_.data() + at_, sizeof(T));
        at_ += sizeof(T);
        return value;
    }
    // Of things that take at least `least` bytes each.
    size_t count(const char* what, size_t least) {
        const auto value = number<uint64_t>(what);
        if (value > left() / least) fail("{} says {}, {} bytes are left", what, value, left());
        return static_cast<size_t>(value);
    }
    std::string string(const char* what, size_t longest) {
        const size_t size = count(what, 1);
        if (size > longest) fail("{} of {} bytes, wanted at most {}", what, size, longest);
        std::string text(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
        at_ += size;
        return text;
    }

    GgufValue value(uint32_t type) {
        if (type == kArrayType)
            return of_type(number<uint32_t>("a list"), [&]<class T>() -> GgufValue { return list<T>(); });
        return of_type(type, [&]<class T>() -> GgufValue { return one<T>(); });
    }

  private:
    template <class F>
    GgufValue of_type(uint32_t type, F&& f) const {
        switch (type) {
            case 0:
                return f.template operator()<uint8_t>();
            case 1:
                return f.template operator()<int8_t>();
            case 2:
                return f.template operator()<uint16_t>();
            case 3:
                return f.template operator()<int16_t>();
            case 4:
                return f.template operator()<uint32_t>();
            case 5:
                return f.template operator()<int32_t>();
            case 6:
                return f.template operator()<float>();
            case 7:
                return f.template operator()<bool>();
            case 8:
                return f.template operator()<std::string>();
            case 10:
                return f.template operator()<uint64_t>();
            case 11:
                return f.template operator()<int64_t>();
            case 12:
                return f.template operator()<double>();
            default:
                fail("a value of type {}, wanted 0 to 12, in lists without 9", type);
        }
    }

    template <class T>
    T one() {
        if constexpr (std::is_same_v<T, std::string>) {
            return string("a string", SIZE_MAX);
        } else if constexpr (std::is_same_v<T, bool>) {
            const auto byte = number<uint8_t>("a bool");
            if (byte > 1) fail("a bool of value {}", byte);
            return byte == 1;
        } else {
            return number<T>("a value");
        }
    }

    template <class T>
    GgufArray list() {
        const size_t size = count("a list", std::is_same_v<T, std::string> ? sizeof(uint64_t) : sizeof(T));
        std::vector<T> items;
        items.reserve(size);
        for (size_t i = 0; i < size; ++i) items.push_back(one<T>());
        return items;
    }

    const std::string& path_;
    std::span<const std::byte> bytes_;
    size_t at_ = 0;
};

// Name, shape and type; `offset` as the file has it, from the start of the data.
GgufTensor parse_tensor(Parser& parser) {
    GgufTensor tensor{
        .name = parser.string("a tensor's name", kLongestTensorName), .shape = {}, .type = 0, .offset = 0, .bytes = 0};
    const auto dimensions = parser.number<uint32_t>("a tensor");
    if (dimensions < 1 || dimensions > kMostDimensions)
        parser.fail("tensor '{}' has {} dimensions, wanted 1 to {}", brief(tensor.name), dimensions, kMostDimensions);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
        const auto size = parser.number<uint64_t>("a tensor");
        if (size < 1 || size > (uint64_t{1} << 48) / elements)  // bytes of any type can be counted
            parser.fail("tensor '{}': size {} of dimension {}", brief(tensor.name), size, i);
        elements *= size;
        tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    tensor.type = parser.number<uint32_t>("a tensor");
    const TensorTypeInfo* type = find_type(tensor.type);
    if (!type) parser.fail("tensor '{}' is of type {}, which is not known", brief(tensor.name), tensor.type);
    if (tensor.shape.back() % type->block)
        parser.fail("tensor '{}' has rows of {}, {} wants a multiple of {}", brief(tensor.name), tensor.shape.back(),
                    type->name, type->block);
    tensor.bytes = static_cast<int64_t>(elements) / type->block * type->bytes;
    const auto offset = parser.number<uint64_t>("a tensor");
    if (offset > uint64_t{INT64_MAX} / 2) parser.fail("tensor '{}' at byte {}", brief(tensor.name), offset);
    tensor.offset = static_cast<int64_t>(offset);
    return tensor;
}

}  // namespace

void GgufMetadata::add(const std::string& key, GgufValue value) {
    check(index_.emplace(key, entries_.size()).second, "key '{}' twice", key);
    entries_.emplace_back(key, std::move(value));
}

const GgufValue* GgufMetadata::find(const std::string& key) const {
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : &entries_[found->second].second;
}

std::string shown(const GgufValue& value) {
    constexpr size_t kShownItems = 8;
    const auto item = [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>)
            return '"' + brief(v) + '"';
        else
            return fmt::format("{}", v);
    };
    return std::visit(
        [&](const auto& v) -> std::string {
            using T = std::decay_t<decltype(v)>;
            if constexpr (!std::is_same_v<T, GgufArray>)
                return item(v);
            else
                return std::visit(
                    [&](const auto& list) -> std::string {
                        if constexpr (std::is_same_v<std::decay_t<decltype(list)>, std::monostate>) {
                            return "[]";
                        } else {
                            std::string text;
                            for (size_t i = 0; i < std::min(list.size(), kShownItems); ++i) {
                                const typename std::decay_t<decltype(list)>::value_type entry = list[i];
                                text += (i ? ", " : "") + item(entry);
                            }
                            if (list.size() > kShownItems) text += fmt::format(", ... {} in all", list.size());
                            return "[" + text + "]";
                        }
                    },
                    v);
        },
        value);
}

void write_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufTensorPlan>& tensors,
                const std::function<std::vector<float>(size_t)>& values) {
    std::string head(kMagic);
    Writer write{head};
    write(kVersion), write(uint64_t{tensors.size()}), write(uint64_t{metadata.entries().size()});
    for (const auto& [key, value] : metadata.entries()) {
        write(key), write(static_cast<uint32_t>(value.index()));
        std::visit(write, value);
    }
    uint64_t offset = 0;
    for (const GgufTensorPlan& tensor : tensors) {
        check(tensor.name.size() <= kLongestTensorName, "tensor name '{}'", tensor.name);
        int64_t elements = 1;
        write(tensor.name), write(static_cast<uint32_t>(tensor.shape.size()));
        for (size_t i = tensor.shape.size(); i-- > 0; elements *= tensor.shape[i])
            write(static_cast<uint64_t>(tensor.shape[i]));
        write(static_cast<uint32_t>(tensor.type)), write(offset);
        offset = aligned(offset + static_cast<uint64_t>(bytes_of(tensor.type, elements)), kAlignment);
    }
    head.resize(aligned(head.size(), kAlignment), '\0');
    AtomicFile file(path);
    file.write(head);
    for (size_t i = 0; i < tensors.size(); ++i) {
        std::string bytes;
        encode(bytes, values(i), tensors[i].type, tensors[i].name);
        bytes.resize(aligned(bytes.size(), kAlignment), '\0');
        file.write(bytes);
    }
    file.commit();
}

int64_t GgufTensor::elements() const {
    int64_t product = 1;
    for (const int64_t size : shape) product *= size;
    return product;
}

GgufFile::GgufFile(const std::string& path) : path_(path), file_(path, "GGUF file") {
    Parser parser(path_, file_.bytes());
    if (parser.left() < kMagic.size() || std::memcmp(file_.bytes().data(), kMagic.data(), kMagic.size()) != 0)
        fail_input("{}: does not begin with \"{}\"; wanted a GGUF file", path_, kMagic);
    parser.number<uint32_t>("the magic");
    if (const auto version = parser.number<uint32_t>("the version"); version != kVersion)
        parser.fail("GGUF version {}, wanted {}{}", version, kVersion,
                    version == kVersion << 24 ? " (this file is big-endian)" : "");
    // At least: a tensor's name length, dimensions, one size, type, offset; a key's length, a byte, a type and a value.
    const size_t tensors = parser.count("the number of tensors", 8 + 4 + 8 + 4 + 8);
    const size_t keys = parser.count("the number of keys", 8 + 1 + 4 + 1);
    for (size_t i = 0; i < keys; ++i) {
        const std::string key = parser.string("a key", kLongestKey);
        if (key.empty()) parser.fail("an empty key");
        if (metadata_.find(key)) parser.fail("key '{}' twice", brief(key));
        metadata_.add(key, parser.value(parser.number<uint32_t>("a key's type")));
    }
    const uint64_t alignment = metadata_.find(kAlignmentKey) ? get<uint32_t>(kAlignmentKey) : kAlignment;
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > (1 << 20))
        parser.fail("{} is {}, wanted a power of two up to 2^20", kAlignmentKey, alignment);
    for (size_t i = 0; i < tensors; ++i) {
        tensors_.push_back(parse_tensor(parser));
        if (!index_.emplace(tensors_.back().name, i).second)
            parser.fail("tensor '{}' twice", brief(tensors_.back().name));
    }
    const uint64_t begin = aligned(parser.at(), alignment), size = file_.bytes().size();
    uint64_t next = 0;
    for (GgufTensor& tensor : tensors_) {
        if (static_cast<uint64_t>(tensor.offset) != next)
            fail_input("{}: tensor '{}' is said to begin at byte {} of the data, the one before ends at {}", path_,
                       brief(tensor.name), tensor.offset, next);
        const uint64_t end = begin + next + static_cast<uint64_t>(tensor.bytes);
        if (end > size)
            fail_input("{}: tensor '{}' ends at byte {}, the file at {}; was the download cut off?", path_,
                       brief(tensor.name), end, size);
        next = aligned(next + static_cast<uint64_t>(tensor.bytes), alignment);
        tensor.offset += static_cast<int64_t>(begin);
    }
    if (size > begin + next) fail_input("{}: {} bytes after the last tensor", path_, size - begin - next);
}

const GgufTensor* GgufFile::find(const std::string& name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
}

void GgufFile::read(const GgufTensor& tensor, std::span<float> out) const {
    for (const TensorType type :
         {TensorType::kF32, TensorType::kF16, TensorType::kQ8_0, TensorType::kF64, TensorType::kBF16})
        if (static_cast<uint32_t>(type) == tensor.type)
            return decode(out,
                          file_.bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes)),
                          type);
    fail_input("{}: tensor '{}' is {}, whose values plimsoll does not know; wanted f32, f16, bf16 or q8_0", path_,
               brief(tensor.name), find_type(tensor.type)->name);
}

void GgufFile::fail_key(const std::string& key, size_t wanted, const GgufValue* value) const {
    if (!value) fail_input("{}: has no key '{}'", path_, key);
    fail_input("{}: key '{}' is {}, wanted {}", path_, key, kTypeNames[value->index()], kTypeNames[wanted]);
}

bool is_gguf(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    char magic[kMagic.size()];
    return file.read(magic, sizeof(magic)) && std::string_view(magic, sizeof(magic)) == kMagic;
}

}  // namespace plimsoll
