// Twin of kernels/cuda/native/tensor_map_type.h.
#pragma once

#include "simt/hopper.h"

namespace plimsoll::device {

using TensorMap = ::simt::TensorMap;

}  // namespace plimsoll::device
