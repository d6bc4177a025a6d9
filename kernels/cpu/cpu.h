// The CPU implementations that kernels/dispatch*.cpp choose from. Each follows the contract of the op's own header.
#pragma once

#include "kernels/attention_cached.h"
#include "kernels/attention_tasks.h"
#include "kernels/cross_entropy.h"
#include "kernels/decorrelation.h"
#include "kernels/differential.h"
#include "kernels/embedding.h"
#include "kernels/extra_key.h"
#include "kernels/feature_map.h"
#include "kernels/gate.h"
#include "kernels/global_norm.h"
#include "kernels/key_bias.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/mlp.h"
#include "kernels/muon.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/orthoadam.h"
#include "kernels/qk_norm.h"
#include "kernels/rank_sum.h"
#include "kernels/residual.h"
#include "kernels/rope.h"
#include "kernels/temperature.h"

namespace plimsoll::cpu {
#include "kernels/implementations.inc"

// What runs on the CPU only.
void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec,
                            Tensor squares);
void block_squares(Tensor squares, Tensor x, const Exec& exec);
void block_squares(Tensor squares, Tensor x, std::span<const int32_t> rows, const Exec& exec);
void rope_forward(Tensor x, std::span<const int32_t> positions, std::span<const double> frequencies, const Exec& exec);
void attention_cached_forward(const AttentionTensors& t, std::span<const CachedQuery> queries,
                              std::span<const double> frequencies, const AttentionSpec& spec, const Exec& exec);
}  // namespace plimsoll::cpu
