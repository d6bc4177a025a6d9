// How long one step takes all ranks, with and without core-attention disaggregation.
//
// Ranks are stage x columns + column; a column is a data rank, or one context rank of it. Everything is a pure function
// of where documents lie, the schedule and the costs: costs may be a cluster's, or measured ones of processes that
// sleep instead of computing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dist/pipeline/schedule.h"
#include "dist/simulator/costs.h"
#include "dist/simulator/step_documents.h"

namespace plimsoll {

// Where the documents of a step lie: segments of the columns' ranks, by micro batch and nano batch. Every stage
// computes the same micro batches, so homes are columns.
struct StepPlacement {
    int columns = 1;
    std::vector<std::vector<std::vector<CaSegment>>> micro_batches;
};

// Documents packed in order over the columns; two nano batches per micro batch, or one.
StepPlacement place(const StepDocuments& documents, int columns, int nano_batches);
// Whole documents where they are: lengths by micro batch, nano batch and column.
StepPlacement place_whole(const std::vector<std::vector<std::vector<Documents>>>& lengths);

// Seconds of one direction of a step, of the slowest ranks, the mean of the stages.
struct StepParts {
    double linear = 0, attention = 0, copies = 0, head = 0;
    double waits = 0;  // for messages of core attention that nothing hides

    double computing() const { return linear + attention + copies + head; }
    double sum() const { return computing() + waits; }
    StepParts& operator+=(const StepParts& other);
    StepParts& operator*=(double factor);
};

struct SimulatedStep {
    explicit SimulatedStep(size_t ranks = 0) : busy(ranks, 0), sent(ranks, 0), memory(ranks, 0) {}

    double seconds = 0;
    StepParts forward, backward;  // what is missing to `seconds`: bubbles, the update
    double exposed = 0;           // seconds of them in which the slowest ranks wait for messages
    std::vector<double> busy;     // by rank: seconds of computing, packing and unpacking
    std::vector<int64_t> sent;    // by rank: bytes of core attention (queries, keys, their gradients)
    std::vector<double> memory;   // by rank: bytes, of one GPU, at the peak
    int64_t over_cap = 0;         // plans that no tolerance brings under the byte cap
    int64_t pairs = 0;            // query-key pairs of core attention, one block, forward
    // Pairs of the slowest rank over the mean, of each micro batch that runs at once, weighted by pairs: by homes, and
    // as computed.
    double imbalance_before = 1, imbalance = 1;

    double idle() const;         // share of all ranks' time in which they do not compute
    double peak_memory() const;  // of any rank
};

struct CadOptions {
    double tolerance = 0.02;
    int64_t block = 128;
    bool two_hop = true;
    int64_t byte_cap = 0;    // per rank and plan; 0 = any number
    double spread = 1.05;    // time over pairs, of the slowest rank's kernels relative to all: planned load is no time
    bool copy_local = true;  // what stays on its rank passes through the buffers as well
    bool resend = true;      // see CostOptions
    bool free_traffic = false;  // all-to-alls take no time
};

// Every rank computes the core attention of its own tokens; keys of documents that began on another rank are fetched
// before, and nothing hides that. Any schedule.
SimulatedStep simulate_step(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs);

// Core attention by plan, over all stages and columns. `schedule` has ticks (same-phase): in each, active stages
// compute the linear pieces of their micro batch, and all ranks serve. Forward and backward have plans of their own.
// Two nano batches alternate (DistCA's ping-pong), so that an all-to-all of one hides under computing of the other:
//   tick of a block   computes                                 moves
//   0                 end of block l - 1, begin of l, nano 0   results of nano 1 home
//   1                 the same, nano 1                         queries and keys of nano 0
//   2                 core attention of nano 0                 queries and keys of nano 1
//   3                 core attention of nano 1                 results of nano 0 home
// and takes the sum over ticks of max(computing, moving). With one nano batch all follows one after the other.
SimulatedStep simulate_cad_step(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs,
                                const CadOptions& options);

// What one rank does in one micro batch and one block, the same on every stage.
struct RankWork {
    int64_t tokens = 0, pairs = 0;
    double waits_forward = 0, waits_backward = 0;     // seconds for messages that nothing hides
    int64_t copied_forward = 0, copied_backward = 0;  // bytes
    int64_t sent = 0;                                 // bytes, forward and backward
    double kept = 0;                                  // bytes of one GPU until backward, besides activations
};

// `work` by column and micro batch. Each `context` neighbouring columns wait for each other in every micro batch.
SimulatedStep simulate_pipelines(const std::vector<std::vector<RankWork>>& work, int context, const Schedule& schedule,
                                 const StepCosts& costs);

}  // namespace plimsoll
