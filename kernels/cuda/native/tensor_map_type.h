// The type of a tensor map, for host and device code. Twin: tests/support/simt/include/tensor_map_type.h.
#pragma once

#include <cuda.h>

namespace plimsoll::device {

// A tensor in global memory and a box of it (kernels/cuda/tensor_map.h); a kernel's parameter, __grid_constant__ const.
using TensorMap = CUtensorMap;

}  // namespace plimsoll::device
