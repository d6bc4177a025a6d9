// What `plimsoll bench` is made of: operands on any device, kernels, whole steps.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "model/transformer.h"
#include "train/device.h"
#include "train/profile.h"

namespace plimsoll {

// Tensors with random contents in one arena.
class BenchOperands {
  public:
    explicit BenchOperands(const Exec& exec) : exec_(exec) {}
    ArenaSlot add(Shape shape, DType dtype) { return plan_.add("operand", shape, dtype); }
    void allocate();
    Tensor operator[](ArenaSlot slot) const { return arena_[slot]; }

  private:
    Exec exec_;
    ArenaPlan plan_{"bench"};
    Arena arena_;
};

// One kernel's time, best seconds of a call, with the arithmetic and the memory traffic it cannot do without.
struct KernelTime {
    std::string name, shape;
    double seconds, flops, bytes;
};
// One per kernel, at the sizes of a GPT-2 124M step: 4 rows of 256 tokens, on a GPU 32 of 1024.
std::vector<KernelTime> time_kernels(DType dtype, const Exec& exec);

struct AttentionShape {
    int64_t B = 0, T = 0, NH = 0, NKV = 0, HS = 0;
    bool full = false;  // every query sees every key of its row: a mask whose prefix is the row
};
// "BxTxNHxNKVxHS", such as 4x4096x16x16x128, or 4x4096x16x16x128:full. Throws Error (78) for anything else.
AttentionShape parse_attention_shape(const std::string& text);
// Core attention of every weighting, causal or full: forward then backward. FLOPs count the visible scores, two
// products forward and five backward.
std::vector<KernelTime> time_attention(const AttentionShape& shape, DType dtype, const Exec& exec);

// Bytes per second of a large elementwise pass (two reads, one write): what memory gives.
double memory_bytes_per_second(const Exec& exec);

struct StepShape {
    const char* name;
    NetworkConfig network;
    int64_t B;            // rows per step
    int64_t micro_batch;  // rows at once: what is fastest here, small enough for activations to stay in cache
    bool gpu = false;     // of a size for GPUs
};
// Shapes measured against PyTorch by scripts/bench/torch_peer.py.
std::vector<StepShape> step_shapes();
// Whole training steps of a shape: forward, backward, global norm, AdamW. Best milliseconds. `ops`, if not null, gets
// what each op took in one more step, submitted op by op.
double step_milliseconds(const StepShape& shape, DType dtype, int64_t steps, int64_t rows, const Exec& exec,
                         std::vector<OpTime>* ops = nullptr);

}  // namespace plimsoll
