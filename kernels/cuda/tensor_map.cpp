#include "kernels/cuda/tensor_map.h"

#include "kernels/cuda/context.h"

namespace plimsoll::cuda {
namespace {

// The driver's function; plimsoll links no driver library.
decltype(&cuTensorMapEncodeTiled) encoder() {
    static const auto function = [] {
        void* entry = nullptr;
        cudaDriverEntryPointQueryResult found;
        check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
                   "cudaGetDriverEntryPointByVersion");
        check(entry && found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
        return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
    }();
    return function;
}

}  // namespace

device::TensorMap make_tensor_map(const TensorMapSpec& spec) {
    device::TensorMap map;
    const cuuint64_t size[4] = {spec.size[0], spec.size[1], spec.size[2], spec.size[3]};
    const cuuint64_t stride[3] = {spec.stride[1], spec.stride[2], spec.stride[3]};  // the first is an element's
    const cuuint32_t box[4] = {spec.box[0], spec.box[1], spec.box[2], spec.box[3]}, every[4] = {1, 1, 1, 1};
    const CUtensorMapSwizzle swizzle = spec.swizzle_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                       : spec.swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                  : CU_TENSOR_MAP_SWIZZLE_32B;
    const CUresult result = encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(spec.base), size,
                                      stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    check(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error {} for {} rows of {} bytes, boxes of {} rows",
          static_cast<int>(result), spec.size[1], spec.stride[1], spec.box[1]);
    return map;
}

}  // namespace plimsoll::cuda
