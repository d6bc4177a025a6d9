// Ways to share the documents of a step among ranks, side by side: all compute the same documents, whole.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dist/simulator/costs.h"
#include "dist/simulator/step.h"
#include "dist/simulator/step_documents.h"

namespace plimsoll {

enum class Policy {
    // Packed in order, cut where a rank is full. Keys of documents that began on another rank are fetched.
    kFixed,
    // Packed in order for groups of context ranks; each rank has one chunk from the front and one from the back of its
    // group's tokens, and gathers the keys. Keys of documents that began in another group are there for nothing.
    kSequenceContext,
    // The same, but every document is cut into two chunks per rank: equal work within a group. WLB-LLM,
    // arXiv:2503.17924.
    kDocumentContext,
    // Whole documents to groups by pack_longest_first, kDocumentContext within a group.
    kWlbLike,
    // Every rank has the same tokens and pairs, and nothing to gather: what no packing can beat, bubbles included.
    kPerfectPacking,
    kCad,
    kCadNoPingPong,
    kCadFreeTraffic,
};
inline constexpr Policy kPolicies[] = {Policy::kFixed,         Policy::kSequenceContext, Policy::kDocumentContext,
                                       Policy::kWlbLike,       Policy::kPerfectPacking,  Policy::kCad,
                                       Policy::kCadNoPingPong, Policy::kCadFreeTraffic};
std::string_view name_of(Policy policy);
bool is_cad(Policy policy);

struct PolicySetting {
    ParallelShape parallel;
    StepCosts costs;
    int64_t micro_batches = 1;
    int64_t tokens = 131072;        // of a rank and micro batch
    std::string schedule = "1f1b";  // of all but CAD, which needs same-phase
    int64_t in_flight = 0;  // of same-phase: micro batches that a stage holds at most; 0 = as many as it takes, or fit
    double memory = 0;      // bytes of a GPU
    std::vector<int64_t> contexts;                // context ranks to try; empty = powers of two that divide the columns
    std::vector<double> caps = {1.0, 1.1, 1.25};  // kWlbLike: tokens of a bin over the mean, to try
    CadOptions cad;

    int64_t columns() const { return parallel.columns; }
};

// One policy in one layout ("context 4, cap 1.1"; empty where there is no choice).
struct PolicyRun {
    Policy policy{};
    std::string layout;
    SimulatedStep result;
    bool as_fixed = false;  // CAD: planned to gain less than 2 %, so the step runs like kFixed
};

// Every policy in every layout. All compute the same query-key pairs; throws Error (70) if one does not.
std::vector<PolicyRun> simulate_policies(const StepDocuments& documents, const PolicySetting& setting);

}  // namespace plimsoll
