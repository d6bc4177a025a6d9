// The network as this process trains it: its part of the layers, their optimizer, their traffic with other ranks.
#pragma once

#include <memory>
#include <optional>

#include "dist/gradient_sync.h"
#include "kernels/replay.h"
#include "train/feed.h"
#include "train/optimizer.h"
#include "train/rank_grid.h"

namespace plimsoll {

// A range of layers with all that belongs to it.
struct NetworkChunk {
    Transformer model;
    ShardLayout layout;  // over the data ranks, or those this process stands for
    Optimizer optimizer;
    std::optional<GradientSync> sync;  // with several data ranks
    ArenaPlan virtual_plan{"sum over virtual ranks"};
    Arena virtual_sum;  // of the gradients

    NetworkChunk(const RunConfig& config, const NetworkConfig& network, StageRange stage, int64_t tokens,
                 Precision precision, const ActivationOptions& activations, const RankPlace& place);
    void allocate(const ParallelSection& parallel, Communicator& data, Device device);
    int64_t bytes() const;  // of all arenas
};

// What one process of a run will hold, planned for micro batches of so many tokens. Allocates nothing.
std::vector<std::unique_ptr<NetworkChunk>> plan_chunks(const RunConfig& config, const NetworkConfig& network,
                                                       Precision precision, int64_t tokens, const RankPlace& place);

class Replica {
  public:
    // Plans, and allocates nothing. Throws Error (78) for what the ranks cannot share. All references must outlive it.
    Replica(const RunConfig& config, const NetworkConfig& network, Precision precision, RankGrid& grid,
            const Loader& data, const Exec& exec);
    void allocate(Device device);

    // Forward and backward of this replica's micro batches of the step that begins at `first_sample`. Sums of their
    // loss, not yet over ranks (zero where the head is elsewhere).
    LossSums compute(int64_t first_sample, const Exec& exec);
    // Waits for the gradients of all ranks: afterwards every rank has the sums it updates with.
    void finish_gradients();
    // sqrt of the sum of squares of all gradients, of all ranks, in a fixed order.
    double gradient_norm(const Exec& exec);
    // One update; the parameters of other ranks arrive while the next forward runs, or until await_parameters().
    void update(double lr, double gradient_scale, int64_t step, const Exec& exec);
    void await_parameters();

    // The whole network, for evaluation and probes.
    Transformer& whole() { return chunks_.front()->model; }
    std::vector<std::unique_ptr<NetworkChunk>>& chunks() { return chunks_; }
    const std::vector<std::unique_ptr<NetworkChunk>>& chunks() const { return chunks_; }
    CoreAttention& core() { return core_; }

  private:
    // Micro batches first ... of the step: as many as this replica, or a virtual rank, has.
    void compute_micro_batches(int64_t first_sample, int64_t first, const Exec& exec);
    LossSums compute_as_virtual_ranks(int64_t first_sample, const Exec& exec);

    const RunConfig& config_;
    RankGrid& grid_;
    int64_t micro_batches_;  // of a step, for this replica or virtual rank
    std::vector<std::unique_ptr<NetworkChunk>> chunks_;
    LocalCoreAttention core_;
    BatchFeed feed_;
    Replay first_micro_batch_, next_micro_batch_;
};

}  // namespace plimsoll
