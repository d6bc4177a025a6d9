// Which rank computes which core attention in a run: plans for the micro batches under way.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "data/loader.h"
#include "dist/cad/disaggregated_attention.h"
#include "dist/cad/servers_in_turn.h"
#include "dist/pipeline/schedule.h"
#include "train/network_chunk.h"

namespace plimsoll {

// How equal core attention was in a step: query-key pairs, summed over its rounds and layers.
struct CadBalance {
    double largest_before = 0, largest = 0, mean = 0;  // of a rank: as owned, as planned, on average
    int64_t bytes = 0, most_bytes = 0;                 // planned: of all ranks; of the rank that sends or receives most
    uint64_t hash = 0;                                 // of the plans: ranks that plan differently find out
    double seconds = 0;                                // spent planning
    double before() const { return mean > 0 ? largest_before / mean : 1; }
    double after() const { return mean > 0 ? largest / mean : 1; }
};

// The round of a pass in which, as owned, the largest load is furthest above the mean.
struct CadUnequalRound {
    double excess = -1;  // that distance, in pairs
    int64_t tick = 0;
    int lane = 0;
    int64_t round = 0, layers = 0;  // layers: so many are planned alike
    std::vector<CaSegment> segments;
    CaOptions options;
    CaPlan plan;
};

// Everybody plans for all ranks, from document lengths that the loader gives for any sample: no rank asks another. Core
// attention of a layer is planned for what all ranks compute at one time (a round): the m-th micro batch of each data
// rank; in a pipeline, in one tick of the same-phase schedule, each stage's micro batch in the stage's i-th layer. Rank
// data_rank * stages + stage is home and server.
class CadPlans {
  public:
    // `micro_batches`: of a data rank, in a step, each of them lanes() micro batches of the configuration. One process
    // that stands for ranks (parallel.virtual_ranks, parallel.chunks) plans as they would. All references must outlive
    // this. Throws Error (78) where layers that are computed at one time differ.
    CadPlans(const RunConfig& config, const NetworkConfig& network, DType compute, const Loader& data,
             const RankPlace& place, int64_t micro_batches);

    void begin_step(int64_t first_sample);
    // In this step: most_unequal() is there after it, the same on every rank.
    void keep_most_unequal() { keeps_ = true; }
    const CadUnequalRound& most_unequal(Pass pass) const { return most_unequal_[static_cast<size_t>(pass)]; }
    // What is computed next: the micro batch of a rank of the plans, or, idle, a tick.
    void enter(Pass pass, int data_rank, int stage, int64_t micro_batch);
    void enter_tick(Pass pass, int64_t tick);
    int64_t tick(Pass pass) const { return tick_[static_cast<size_t>(pass)]; }
    // Layers of the deepest stage: so many rounds has a tick.
    int64_t rounds() const { return static_cast<int64_t>(specs_.size()); }
    const AttentionSpec& spec(int64_t round) const { return specs_[static_cast<size_t>(round)]; }
    const CaShape& shape() const { return shape_; }
    int64_t first_layer(int stage) const { return ranges_[static_cast<size_t>(stage)].first_layer; }

    const CaRound& round(Pass pass, const AttentionCall& call);
    const CaHomeRound& home_round(Pass pass, const AttentionCall& call);
    // Plans without any call: for cad.mode = "plan_only".
    void plan_step();
    const CadBalance& balance() const { return balance_; }

  private:
    struct Planned {
        std::vector<CaSegment> segments;
        CaOptions options;
        CaPlan plan;
        std::optional<CaKeys> known_keys;
        std::optional<CaRound> round;
        std::optional<CaHomeRound> home_round;

        const CaKeys& keys();
    };
    Planned& planned(Pass pass, int lane, int64_t round);
    void add_to_balance(Planned& p, int64_t layers);
    void keep_if_most_unequal(Pass pass, int lane, int64_t round, const Planned& p);
    std::vector<CaSegment> segments_of(Pass pass, int lane, int64_t round);
    const std::vector<int32_t>& documents(int64_t first_sample);
    int64_t round_of_layer(int64_t layer) const;

    const RunConfig& config_;
    const Loader& data_;
    CaShape shape_;
    int data_ranks_, stages_, rank_;
    int64_t micro_batches_, first_sample_ = 0;
    std::vector<StageRange> ranges_;    // [stage]
    std::vector<AttentionSpec> specs_;  // [round]
    std::vector<int64_t> like_;         // [round]: the first round that is planned alike
    std::vector<int> groups_;           // [rank]: its stage
    // Micro batch of each stage in a tick, -1 = none: [pass][tick][stage]; and the tick of a stage's micro batch.
    std::vector<std::vector<int64_t>> at_tick_[2];
    std::vector<std::vector<int64_t>> tick_of_[2];  // [pass][stage][micro batch]
    int64_t tick_[2] = {-1, -1};
    int stage_ = 0, home_ = 0;                                   // entered last
    std::map<int64_t, std::vector<int32_t>> documents_;          // of this step, by first sample
    std::map<std::tuple<int, int64_t>, Planned> planned_[2];     // of this tick: lane, round
    std::set<std::tuple<Pass, int64_t, int, int64_t>> counted_;  // pass, tick, lane, round that balance_ has
    CadBalance balance_;
    bool keeps_ = false;
    CadUnequalRound most_unequal_[2];  // [pass]
};

// The plans as the attention servers ask for them.
class PlannedRounds final : public CaRounds {
  public:
    explicit PlannedRounds(CadPlans& plans) : plans_(plans) {}
    const CaRound& forward_round(const AttentionCall& call) override { return plans_.round(Pass::kForward, call); }
    const CaRound& backward_round(const AttentionCall& call) override { return plans_.round(Pass::kBackward, call); }

  private:
    CadPlans& plans_;
};
class PlannedHomeRounds final : public CaHomeRounds {
  public:
    explicit PlannedHomeRounds(CadPlans& plans) : plans_(plans) {}
    const CaHomeRound& forward_round(const AttentionCall& call) override {
        return plans_.home_round(Pass::kForward, call);
    }
    const CaHomeRound& backward_round(const AttentionCall& call) override {
        return plans_.home_round(Pass::kBackward, call);
    }

  private:
    CadPlans& plans_;
};

}  // namespace plimsoll
