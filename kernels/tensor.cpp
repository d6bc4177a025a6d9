#include "kernels/tensor.h"

namespace plimsoll {

Shape::Shape(std::initializer_list<int64_t> dims) : rank_(static_cast<int>(dims.size())) {
    check(dims.size() <= dims_.size(), "a shape has at most {} dimensions, got {}", dims_.size(), dims.size());
    std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::elements() const {
    return std::accumulate(dims_.begin(), dims_.begin() + rank_, int64_t{1}, std::multiplies<>());
}

Shape Shape::inner() const {
    Shape result;
    result.rank_ = rank_ > 0 ? rank_ - 1 : 0;
    for (int i = 0; i < result.rank_; ++i) result.dims_[i] = dims_[i + 1];
    return result;
}

std::string Shape::to_string() const {
    std::string text = "(";
    for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i ? ", " : "", dims_[i]);
    return text + ")";
}

Tensor::Tensor(void* data, DType dtype, Shape shape, Device device)
    : data(data), dtype(dtype), device(device), shape(shape), row_stride(shape.inner().elements()) {}

void Tensor::fail_dtype(DType wanted) const {
    throw Error(ExitCode::kInternal,
                fmt::format("tensor {} is {}, kernel wants {}", shape, name_of(dtype), name_of(wanted)));
}

void Tensor::fail_contiguous() const {
    throw Error(ExitCode::kInternal, fmt::format("tensor {} with row stride {} is not contiguous", shape, row_stride));
}

Tensor Tensor::slice_rows(int64_t begin, int64_t count) const {
    check(begin >= 0 && count >= 0 && begin + count <= shape[0], "rows [{}, {}) of tensor {}", begin, begin + count,
          shape);
    Tensor result = *this;
    result.data = static_cast<char*>(data) + begin * row_stride * size_of(dtype);
    switch (shape.rank()) {
        case 1:
            result.shape = {count};
            break;
        case 2:
            result.shape = {count, shape[1]};
            break;
        case 3:
            result.shape = {count, shape[1], shape[2]};
            break;
        default:
            result.shape = {count, shape[1], shape[2], shape[3]};
            break;
    }
    return result;
}

Tensor Tensor::slice_columns(int64_t begin, int64_t count) const {
    check(shape.rank() >= 2 && begin >= 0 && begin + count <= shape[1], "columns [{}, {}) of tensor {}", begin,
          begin + count, shape);
    Tensor result = *this;
    const int64_t inner = shape.rank() == 3 ? shape[2] : 1;
    check(shape.rank() <= 3, "columns of a tensor of rank {}", shape.rank());
    result.data = static_cast<char*>(data) + begin * inner * size_of(dtype);
    result.shape = shape.rank() == 3 ? Shape{shape[0], count, shape[2]} : Shape{shape[0], count};
    return result;
}

Tensor Tensor::reshape(Shape new_shape) const {
    check(contiguous() && new_shape.elements() == elements(), "cannot view {} (row stride {}) as {}", shape, row_stride,
          new_shape.to_string());
    return Tensor(data, dtype, new_shape, device);
}

}  // namespace plimsoll
