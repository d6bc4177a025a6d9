// A range of the network's layers with all that belongs to it.
#pragma once

#include <memory>
#include <optional>

#include "dist/gradient_sync.h"
#include "dist/pipeline/balance.h"
#include "dist/pipeline/schedule.h"
#include "train/optimizer.h"
#include "train/rank_grid.h"

namespace plimsoll {

struct NetworkChunk {
    Transformer model;
    ShardLayout layout;                              // over the data ranks, or those this process stands for
    std::vector<std::vector<ElementRange>> counted;  // by data rank: what it owns of the gradients, without copies
    Optimizer optimizer;
    std::optional<GradientSync> sync;  // with several data ranks
    ArenaPlan extra_plan{"sums of gradients"};
    ArenaSlot virtual_sum, other_table;  // with virtual ranks; with a tied table in two places: the other's gradient
    Arena extra;

    // Plans for micro batches of so many tokens, and allocates nothing.
    NetworkChunk(const RunConfig& config, const NetworkConfig& network, StageRange stage, int64_t tokens,
                 Precision precision, const ActivationOptions& activations, const RankPlace& place);
    void allocate(Communicator& data, Device device);
    int64_t bytes() const;  // of all arenas
    int64_t layers() const { return model.stage().last_layer - model.stage().first_layer; }

    // Its table is tied, and the head or the embedding elsewhere: both have a copy, whose gradients are added up.
    bool shares_table() const;
    // The copy at the head, which counts neither in norms nor in checkpoints.
    bool holds_copy() const { return shares_table() && model.stage().head; }
    Tensor table_gradient() const { return model.table().view(model.gradients(), 0); }

    // The layer's gradients are complete, for the last time in this step. Those of a shared table go on their way with
    // table_is_summed().
    void on_ready(int64_t layer);
    void table_is_summed();
    // Waits for the parameters of this layer, or of all.
    void await(int64_t layer);
    void await_all();
};

// A pipeline's schedule for so many micro batches per step. Throws Error (78) for what the schedule cannot do.
Schedule schedule_of(const ParallelSection& parallel, int64_t micro_batches);

// FLOPs per token of each layer.
LayerCosts layer_costs(const NetworkConfig& network);

// The layers of each virtual stage, as equal in FLOPs as whole blocks allow.
std::vector<StageRange> stage_ranges(const NetworkConfig& network, int64_t virtual_stages);

// The layers of a chunk, and what it keeps of its micro batches.
struct ChunkShape {
    StageRange stage;
    ActivationOptions activations;
};
// Of each chunk of a process: what follows from the schedule, whatever the micro batch.
std::vector<ChunkShape> chunk_shapes(const RunConfig& config, const NetworkConfig& network, const RankPlace& place);

// What one process of a run holds, chunk by chunk, planned for micro batches of so many tokens. Allocates nothing.
std::vector<std::unique_ptr<NetworkChunk>> plan_chunks(const RunConfig& config, const NetworkConfig& network,
                                                       Precision precision, int64_t tokens, const RankPlace& place,
                                                       const std::vector<ChunkShape>& shapes);

}  // namespace plimsoll
