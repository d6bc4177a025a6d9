// What a configuration costs, before anything is allocated.
#pragma once

#include <string>

#include "data/loader.h"
#include "kernels/gpu.h"
#include "train/replica.h"

namespace plimsoll {

struct MemoryPlan {
    int64_t bytes = 0;                // all arenas together, and what a GPU's ops and libraries take
    int64_t available = 0;            // on this machine or GPU now
    int64_t largest_micro_batch = 0;  // rows that would fit; 0 = none
    bool fits() const { return bytes <= available; }
};

// How the training split becomes rows.
LoaderOptions training_options(const RunConfig& config);

// The network with loss.logits_mib = 0 replaced by what it stands for on this device, for micro batches of so many
// tokens: on a GPU chunks of the vocabulary would cost a second product each, so there are as few as memory allows.
NetworkConfig with_sized_logits(NetworkConfig network, int64_t tokens, Precision precision, const Exec& exec);

// Memory of a process at this place for the configuration, and the largest micro batch that fits. Needs the vocabulary
// size of the data. Asked before the arenas are allocated.
MemoryPlan plan_memory(const RunConfig& config, const NetworkConfig& network, Precision precision,
                       const RankPlace& place, const Exec& exec);

// What a GPU's ops need beside the arenas, for this network and micro batch.
ScratchSizes scratch_sizes(const Transformer& model, int64_t tokens);

// One line per arena.
std::string arena_table(const NetworkChunk& chunk);

// Prints parameters, FLOPs per token, every tensor of every arena with shape, dtype and MiB, what fits and the expected
// time. Returns 0, or 78 if the configuration does not fit this machine.
// `ranks`: how many processes share the run; at least parallel.stages are assumed. Listed is what rank 0 holds, and of
// a pipeline every stage's share.
int print_plan(const RunConfig& config, int ranks);

}  // namespace plimsoll
