// GGUF, version 3: metadata and tensors in one file. The format only; what the keys mean is the caller's.
//
// "GGUF", u32 version, u64 tensors, u64 keys; each key: string, u32 type, value; each tensor: string, u32 dimensions,
// u64 sizes (fastest first), u32 type, u64 offset; then, aligned to general.alignment (32), the tensors' bytes one
// after the other, each padded to it. Little-endian.                                       ggml, docs/gguf.md; gguf.cpp
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "data/file.h"
#include "train/export/tensor_types.h"

namespace plimsoll {

// Of one element type. The alternatives stand in the order of GGUF's type numbers, 0 to 12; lists of lists (9) are not
// used by anyone.
using GgufArray = std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                               std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>, std::vector<bool>,
                               std::vector<std::string>, std::monostate, std::vector<uint64_t>, std::vector<int64_t>,
                               std::vector<double>>;
// A value. The alternatives stand in the order of GGUF's type numbers.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                               GgufArray, uint64_t, int64_t, double>;

// Keys in the order in which they are written.
class GgufMetadata {
  public:
    // Throws Error (70) for a key that is there already.
    void add(const std::string& key, GgufValue value);
    const std::deque<std::pair<std::string, GgufValue>>& entries() const { return entries_; }
    // Null if there is none.
    const GgufValue* find(const std::string& key) const;

  private:
    std::deque<std::pair<std::string, GgufValue>> entries_;
    std::map<std::string, size_t> index_;
};

// A value for people: strings in quotes, lists of more than a few entries by their length.
std::string shown(const GgufValue& value);

// A tensor to be written. `shape` is outermost first, as everywhere here: the file has it the other way round.
struct GgufTensorPlan {
    std::string name;
    std::vector<int64_t> shape;
    TensorType type;
};

// Writes a whole file; it gets its name last, so that half a file never has it. `values(i)` gives the elements of
// tensor i, row-major; one tensor is in memory at a time.
// Throws Error: (74) if it cannot be written; (78) for values that do not fit the type.
void write_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufTensorPlan>& tensors,
                const std::function<std::vector<float>(size_t)>& values);

struct GgufTensor {
    std::string name;
    std::vector<int64_t> shape;  // outermost first
    uint32_t type;               // a number of find_type
    int64_t offset;              // bytes, in the file
    int64_t bytes;

    int64_t elements() const;
};

// A GGUF file, mapped. Memory: a few times the file's own metadata, whatever that says.
class GgufFile {
  public:
    // Throws Error (78) naming the file, the place and what is wrong: another format or version, cut off, sizes that
    // run over, unknown types, keys or tensors twice, tensors that overlap, have gaps or lie beyond the end.
    explicit GgufFile(const std::string& path);

    const std::string& path() const { return path_; }
    const GgufMetadata& metadata() const { return metadata_; }
    const std::deque<GgufTensor>& tensors() const { return tensors_; }
    // Null if there is none.
    const GgufTensor* find(const std::string& name) const;
    // The elements in fp32. Throws Error (78) for a type whose values are not known here.
    void read(const GgufTensor& tensor, std::span<float> out) const;

    // The value of a key that must be there, with this type. Throws Error (78).
    template <class T>
    const T& get(const std::string& key) const {
        const GgufValue* value = metadata_.find(key);
        if (!value || !std::holds_alternative<T>(*value)) fail_key(key, GgufValue(T{}).index(), value);
        return std::get<T>(*value);
    }

  private:
    [[noreturn]] void fail_key(const std::string& key, size_t wanted, const GgufValue* value) const;

    std::string path_;
    MappedFile file_;
    GgufMetadata metadata_;
    std::deque<GgufTensor> tensors_;
    std::map<std::string, size_t> index_;
};

// Whether a file begins like GGUF.
bool is_gguf(const std::string& path);

}  // namespace plimsoll
