// Tensor: a non-owning view of memory. Owners are arenas (kernels/arena.h).
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <span>
#include <string>

#include "kernels/dtype.h"

namespace plimsoll {

enum class Device : uint8_t { kCpu, kCuda };

// Up to four dimensions, outermost first.
class Shape {
  public:
    Shape() = default;
    Shape(std::initializer_list<int64_t> dims);
    int rank() const { return rank_; }
    int64_t operator[](int i) const { return dims_[i]; }
    int64_t elements() const;
    // The shape without its first dimension.
    Shape inner() const;
    bool operator==(const Shape&) const = default;
    std::string to_string() const;  // "(2, 3)"

  private:
    std::array<int64_t, 4> dims_{};
    int rank_ = 0;
};

}  // namespace plimsoll

// Shapes are formatted when a message is made, not when a check passes.
template <>
struct fmt::formatter<plimsoll::Shape> : fmt::formatter<std::string> {
    template <class Context>
    auto format(const plimsoll::Shape& shape, Context& context) const {
        return fmt::formatter<std::string>::format(shape.to_string(), context);
    }
};

namespace plimsoll {

// A view (data, dtype, shape, device) whose rows (first dimension) lie `row_stride` elements apart and are themselves
// contiguous. `row_stride` equals the row length for a contiguous tensor; it is larger for a slice of columns, such as
// the queries inside a fused (N, NH + 2 NKV, HS) projection. An empty Tensor (data null) stands for "absent".
struct Tensor {
    void* data = nullptr;
    DType dtype = DType::kF32;
    Device device = Device::kCpu;
    Shape shape;
    int64_t row_stride = 0;  // elements

    Tensor() = default;
    Tensor(void* data, DType dtype, Shape shape, Device device = Device::kCpu);

    explicit operator bool() const { return data != nullptr; }
    int64_t elements() const { return shape.elements(); }
    int64_t rows() const { return shape[0]; }
    int64_t row_elements() const { return shape.inner().elements(); }
    bool contiguous() const { return row_stride == row_elements(); }
    int64_t bytes() const { return elements() * size_of(dtype); }

    // The elements as T. Throws if T is not the dtype.
    template <class T>
    T* ptr() const {
        if (dtype != kDTypeOf<T>) fail_dtype(kDTypeOf<T>);
        return static_cast<T*>(data);
    }
    // A contiguous tensor as a span. Throws if T is not the dtype.
    template <class T>
    std::span<T> span() const {
        if (!contiguous()) fail_contiguous();
        return {ptr<T>(), static_cast<size_t>(elements())};
    }

    // Out of line: ptr() and span() are called per element in places, and must not build messages.
    [[noreturn]] void fail_dtype(DType wanted) const;
    [[noreturn]] void fail_contiguous() const;

    // Rows [begin, begin + count).
    Tensor slice_rows(int64_t begin, int64_t count) const;
    // Entries [begin, begin + count) of the second dimension, for all rows: keeps the row stride.
    Tensor slice_columns(int64_t begin, int64_t count) const;
    // The same elements of a contiguous tensor under another shape.
    Tensor reshape(Shape new_shape) const;
};

}  // namespace plimsoll
