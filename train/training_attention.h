// Core attention as a run trains with it: by this process, by all ranks together, or as these would, in one process.
#pragma once

#include <array>
#include <memory>

#include "train/cad_plans.h"

namespace plimsoll {

// What a rank did while one call's core attention was under way: of this call, and of others meanwhile.
struct CaWindow {
    int64_t count = 0;
    std::array<CaInterval, 48> intervals;  // two lanes have up to 36
};

class TrainingAttention {
  public:
    // `micro_batches`: of a data rank in a step, each of them lanes() micro batches. References must outlive this.
    // Throws Error (78) for what cannot be planned.
    TrainingAttention(const RunConfig& config, const NetworkConfig& network, DType compute, RankGrid& grid,
                      const Loader& data, int64_t micro_batches);

    CoreAttention& core() { return *core_; }
    // Whether core attention waits for other ranks: a micro batch cannot be recorded then.
    bool travels() const { return travelling_; }
    // The step that begins next is a sample: its most unequal rounds are kept, and what this rank did when.
    void sample_next_step() { sample_next_ = true; }
    bool sampled() const { return sampled_; }
    const CadUnequalRound& most_unequal(Pass pass) const { return plans_->most_unequal(pass); }
    // Of the most unequal round, in the first of its layers.
    CaWindow window(Pass pass) const;
    void begin_step(int64_t first_sample);
    // Which micro batch of which rank is computed next.
    void enter(Pass pass, int data_rank, int stage, int64_t micro_batch) {
        if (!plans_) return;
        plans_->enter(pass, data_rank, stage, micro_batch);
        timeline_.enter(pass, plans_->tick(pass));
    }
    // Serves the others in this tick's layers `first_round`, ... of the deepest stage, as one who has no such layers:
    // ascending, or in a backward descending.
    void serve(Pass pass, int64_t first_round, const Exec& exec);
    void serve_tick(Pass pass, int64_t tick, const Exec& exec);
    // Of the step; null without plans.
    const CadBalance* balance() const { return plans_ ? &plans_->balance() : nullptr; }

  private:
    std::unique_ptr<CadPlans> plans_;
    std::unique_ptr<CaRounds> rounds_;
    std::unique_ptr<CaHomeRounds> home_rounds_;
    std::unique_ptr<CoreAttention> core_;
    DisaggregatedAttention* travelling_ = nullptr;  // core_, if it is one
    CaTimeline timeline_;
    bool plan_only_ = false, sample_next_ = false, sampled_ = false;
    int lanes_ = 1;
    int64_t first_layer_ = 0;  // of this stage
};

}  // namespace plimsoll
