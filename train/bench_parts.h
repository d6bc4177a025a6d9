// What `plimsoll bench` is made of: operands on any device, kernels, whole steps.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "kernels/replay.h"
#include "model/transformer.h"
#include "train/config.h"
#include "train/device.h"
#include "train/optimizer.h"
#include "train/profile.h"
#include "train/roofline.h"

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
// Core attention of the weightings named, of none: of all; causal or full: forward then backward. FLOPs count the
// visible scores, two products forward and five backward.
std::vector<KernelTime> time_attention(const AttentionShape& shape, const std::vector<std::string>& weightings,
                                       DType dtype, const Exec& exec);

// Bytes per second of a large elementwise pass (two reads, one write): what memory gives.
double memory_bytes_per_second(const Exec& exec);

struct StepShape {
    std::string name;
    NetworkConfig network;
    int64_t B;            // rows per step
    int64_t micro_batch;  // rows at once: what is fastest on a CPU, where activations are to stay in cache
    bool gpu = false;     // of a size for GPUs
    OptimizerSection optimizer = {};
    bool clip = true;  // the global norm of all gradients is computed, and the update limited by it
};
// Shapes measured against PyTorch by scripts/bench/torch_peer.py and gpu_peer.py, and bb-mini, the quickstart's.
// In fp32 arithmetic takes several times as long, memory does not: then more rows at once, for longer sums of weight
// gradients, are faster.
std::vector<StepShape> step_shapes(DType compute);

// A shape's training step, to be repeated: forward, backward, global norm where the shape clips, and the optimizer,
// over micro batches of `rows` rows of random ids, the same in every step; a document per row.
class StepBench {
  public:
    // Allocates everything. `exec` and what it leads to must outlive this.
    StepBench(const StepShape& shape, DType dtype, int64_t rows, const Exec& exec);
    StepBench(const StepBench&) = delete;
    // One step, submitted by replays from the second on.
    void run();
    // What one more step and each of its ops take, submitted op by op; on the CPU with what every op works.
    StepProfile profile();

  private:
    int64_t rows_, micro_batches_, T_;
    bool clip_;
    Exec exec_;
    NetworkConfig network_;
    Precision precision_;
    Transformer model_;
    Optimizer optimizer_;
    LocalCoreAttention core_;
    std::unique_ptr<DeviceIds> tokens_, targets_, positions_, documents_;
    std::array<Replay, 3> replays_;  // of the first micro batch, of the others, of the update
    int64_t step_ = 0;
};

// Milliseconds of each of `steps` measurements (timing.h) of a shape's whole training step, after two steps that
// warm up. `profile`, if not null, gets the fastest of as many more that are profiled.
std::vector<double> step_milliseconds(const StepShape& shape, DType dtype, int64_t steps, int64_t rows,
                                      const Exec& exec, StepProfile* profile = nullptr);

// Milliseconds of steps of two shapes that take turns in one process, [pair][first, second]; the second goes first in
// every other pair. Each warms up with two steps.
std::vector<std::array<double, 2>> paired_step_milliseconds(const StepShape& first, const StepShape& second,
                                                            DType dtype, int64_t pairs, const Exec& exec);
// The step of a configuration: its network with the vocabulary of its data, micro batches, optimizer, clipping. Ids and
// documents are those of StepBench. Throws Error (78) as training would, and for several ranks or stages.
StepShape step_shape(const RunConfig& config);

}  // namespace plimsoll
