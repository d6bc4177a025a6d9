// Twin of kernels/cuda/tensor_map.cpp: the emulated device takes the description itself.
#include <algorithm>

#include "kernels/cuda/tensor_map.h"

namespace plimsoll::cuda {

device::TensorMap make_tensor_map(const TensorMapSpec& spec) {
    device::TensorMap map{};
    map.base = const_cast<void*>(spec.base);
    std::copy_n(spec.size, 4, map.size);
    std::copy_n(spec.stride, 4, map.stride);
    std::copy_n(spec.box, 4, map.box);
    map.swizzle_bytes = spec.swizzle_bytes;
    return map;
}

}  // namespace plimsoll::cuda
