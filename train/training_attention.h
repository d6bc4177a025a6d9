// Core attention as a run trains with it: by this process, by all ranks together, or as these would, in one process.
#pragma once

#include <memory>

#include "train/cad_plans.h"

namespace plimsoll {

class TrainingAttention {
  public:
    // `micro_batches`: of a data rank in a step, each of them lanes() micro batches. References must outlive this.
    // Throws Error (78) for what cannot be planned.
    TrainingAttention(const RunConfig& config, const NetworkConfig& network, DType compute, RankGrid& grid,
                      const Loader& data, int64_t micro_batches);

    CoreAttention& core() { return *core_; }
    // Whether core attention waits for other ranks: a micro batch cannot be recorded then.
    bool travels() const { return travels_; }
    void begin_step(int64_t first_sample);
    // Which micro batch of which rank is computed next.
    void enter(Pass pass, int data_rank, int stage, int64_t micro_batch) {
        if (plans_) plans_->enter(pass, data_rank, stage, micro_batch);
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
    bool travels_ = false, plan_only_ = false;
    int lanes_ = 1;
    int64_t first_layer_ = 0;  // of this stage
};

}  // namespace plimsoll
