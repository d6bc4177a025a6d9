// safetensors: u64 length of a JSON header {name: {dtype, shape, data_offsets}}, the header, then the bytes of all
// tensors without gaps. Little-endian, row-major. The format only; what names mean is the caller's.
//                                                                  huggingface/safetensors, "Format"
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/file.h"
#include "train/export/tensor_types.h"

namespace plimsoll {

struct SafeTensor {
    std::string dtype;           // "F32", "BF16", ...
    std::vector<int64_t> shape;  // outermost first
    int64_t offset = 0;          // bytes, in the file
    int64_t bytes = 0;

    int64_t elements() const;
};

// A safetensors file, mapped. Memory: some times the header, whatever that says.
class SafetensorsFile {
  public:
    // Throws Error (78) naming the file and what is wrong: cut off, a header that is no JSON or too long, names twice,
    // sizes that run over or do not fit their bytes, bytes that belong to no tensor or to two.
    explicit SafetensorsFile(const std::string& path);

    const std::string& path() const { return path_; }
    const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
    // The elements in fp32. Throws Error (78) for a dtype other than F32, F16, BF16 and F64.
    void read(const std::string& name, std::span<float> out) const;

  private:
    void check_layout(size_t begin) const;

    std::string path_;
    MappedFile file_;
    std::map<std::string, SafeTensor> tensors_;
};

struct SafeTensorPlan {
    std::string name;
    std::vector<int64_t> shape;
    TensorType type;  // kF32, kF16 or kBF16
};

// Writes a whole file; it gets its name last. `values(i)` gives the elements of tensor i, row-major.
// Throws Error: (74) if it cannot be written; (78) for values that do not fit the type.
void write_safetensors(const std::string& path, const std::vector<SafeTensorPlan>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<std::vector<float>(size_t)>& values);

}  // namespace plimsoll
