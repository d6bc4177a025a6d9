// The CPU implementations that kernels/dispatch*.cpp choose from. Each follows the contract of the op's own header.
#pragma once

#include "kernels/attention_tasks.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/global_norm.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/mlp.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/qk_norm.h"
#include "kernels/rank_sum.h"
#include "kernels/residual.h"
#include "kernels/rope.h"

namespace plimsoll::cpu {
#include "kernels/implementations.inc"
}  // namespace plimsoll::cpu
