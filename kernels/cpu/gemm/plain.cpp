// Without a library.
#include "kernels/cpu/gemm/fallback.h"

namespace plimsoll::cpu {
namespace {

void fp32(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    GemmLoops<float>::run(c, a, b, accumulate, static_cast<const float*>(bias), exec);
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec) {
    if (a.dtype == DType::kF64)
        return GemmLoops<double>::run(c, a, b, accumulate, static_cast<const double*>(bias), exec);
    if (a.dtype == DType::kBF16) return gemm_bf16_by_fp32(c, a, b, accumulate, bias, exec, fp32);
    fp32(c, a, b, accumulate, bias, exec);
}

std::string gemm_library() {
    return "plain loops";
}
bool gemm_bf16_is_fast() {
    return false;
}

}  // namespace plimsoll::cpu
