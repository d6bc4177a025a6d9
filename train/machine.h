// What the program runs on, and how it was built.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "kernels/tensor.h"

namespace plimsoll {

std::string cpu_name();
// Logical CPUs this process may use.
int usable_threads();
// What a setting asks for: 0 means all of them.
int threads_of(int64_t wanted);
// Bytes of memory this process can still take: the smaller of the machine's available memory and the cgroup's limit.
int64_t available_memory();
// Instruction sets that matter here, such as "avx2 avx512f avx512_bf16".
std::string cpu_features();
// Version, commit, compiler, flags, libraries.
nlohmann::json build_info();
std::string version_text();
// "auto", "fp32", "bf16" or "fp64" to the dtype of matmul operands. Throws Error (78) for fp64 on a GPU.
DType compute_dtype(const std::string& precision, Device device = Device::kCpu);

// Prints what was found and what was not, and the command that would add it. Returns 0.
int doctor();

}  // namespace plimsoll
