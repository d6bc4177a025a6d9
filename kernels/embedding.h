// Token and position embeddings.
#pragma once

#include <span>

#include "kernels/exec.h"

namespace plimsoll {

// out_n = token_table[tokens_n] + position_table[positions_n].
// token_table (V, C), position_table (T, C; may be absent) and out (N, C) fp32 or fp64. tokens, positions: N ids.
// Throws Error if an id lies outside its table.
void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec);

// Adds dout_n to dtoken_table[tokens_n] and to dposition_table[positions_n]. Both tables are added to, never replaced:
// with a tied head dtoken_table already holds the head's gradient. Each element is summed over n in ascending order.
void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec);

}  // namespace plimsoll
