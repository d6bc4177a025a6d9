// Which part of a run this process is: one stage of one replica.
#pragma once

#include <optional>

#include "dist/communicator.h"
#include "train/config.h"

namespace plimsoll {

// A process among those of a run. Stage `stage` of each data rank holds the same layers.
struct RankPlace {
    int stages = 1, stage = 0;
    int data_ranks = 1, data_rank = 0;
};

// Where a world rank stands: rank = data_rank * stages + stage. Throws Error (78) if parallel.stages does not divide
// the ranks.
RankPlace place_of(int rank, int ranks, const ParallelSection& parallel);

// The groups of this process. Ranks of one stage hold the same parameters and share the micro batches of a step; the
// stages of one data rank hold one network together.
struct RankGrid : RankPlace {
    Communicator world;
    Communicator data;  // ranks of this stage, by data_rank
    // The stages of this data rank, once for what goes forward and once for what comes back: the messages of each
    // arrive in the order they were sent in, whatever the other does.
    Communicator forward, backward;
    std::optional<Communicator> attention;  // all ranks, where they compute core attention together

    // Splits the world. Throws Error (78) if its size is no multiple of parallel.stages.
    RankGrid(Communicator everyone, const RunConfig& config);
    // From now on tensors may lie in the memory of exec's GPU.
    void bind(const Exec& exec);
    // What this rank sent, and waited for, since the start.
    struct Traffic {
        int64_t bytes = 0;
        double wait_seconds = 0;  // what computing did not hide
        Traffic operator-(const Traffic& before) const {
            return {bytes - before.bytes, wait_seconds - before.wait_seconds};
        }
    };
    Traffic traffic();
    template <class F>
    void for_each_group(F&& f) {
        for (Communicator* group : {&world, &data, &forward, &backward}) f(*group);
        if (attention) f(*attention);
    }
    bool is_root() const { return world.rank() == 0; }
};

}  // namespace plimsoll
