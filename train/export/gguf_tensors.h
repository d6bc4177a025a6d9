// The tensors of a GGUF file, by architecture.
#pragma once

#include "train/export/gguf_table.h"
#include "train/export/tensor_map.h"

namespace plimsoll {

// Of an architecture of stock llama.cpp, by the names it looks for.
std::vector<MappedTensor> stock_tensors(const GgufArchitecture& architecture, const NetworkConfig& network);
// Of plimsoll's own: every parameter under its name.
std::vector<MappedTensor> own_tensors(const NetworkConfig& network);

// qwen35 must have a recurrent block: one more, behind the others, of zeros. It adds nothing to the stream.
inline constexpr int64_t kRecurrentState = 32;  // the smallest whose rows can be q8_0
inline constexpr int64_t kRecurrentKernel = 4;

}  // namespace plimsoll
