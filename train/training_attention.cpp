#include "train/training_attention.h"

namespace plimsoll {

TrainingAttention::TrainingAttention(const RunConfig& config, const NetworkConfig& network, DType compute,
                                     RankGrid& grid, const Loader& data, int64_t micro_batches)
    : plan_only_(config.cad.mode == "plan_only"), lanes_(config.lanes()) {
    core_ = std::make_unique<LocalCoreAttention>();
    if (!config.cad.plans()) return;
    plans_ = std::make_unique<CadPlans>(config, network, compute, data, grid, micro_batches);
    if (plan_only_) return;
    first_layer_ = plans_->first_layer(grid.stage);
    if (grid.attention) {
        travels_ = true;
        rounds_ = std::make_unique<PlannedRounds>(*plans_);
        core_ = std::make_unique<DisaggregatedAttention>(*grid.attention, *rounds_, plans_->shape(), lanes_);
    } else {
        home_rounds_ = std::make_unique<PlannedHomeRounds>(*plans_);
        core_ = std::make_unique<ServersInTurn>(*home_rounds_);
    }
}

void TrainingAttention::begin_step(int64_t first_sample) {
    if (!plans_) return;
    plans_->begin_step(first_sample);
    if (plan_only_) plans_->plan_step();
}

void TrainingAttention::serve(Pass pass, int64_t first_round, const Exec& exec) {
    if (!travels_) return;
    const int64_t count = plans_->rounds() - first_round;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t round = pass == Pass::kForward ? first_round + i : first_round + count - 1 - i;
        const auto each_lane = [&](auto phase) {
            for (int lane = 0; lane < lanes_; ++lane) {
                AttentionCall idle;
                idle.spec = plans_->spec(round), idle.layer = first_layer_ + round, idle.lane = lane;
                ((*core_).*phase)(idle, exec);
            }
        };
        if (pass == Pass::kForward) {
            each_lane(&CoreAttention::begin_forward);
            each_lane(&CoreAttention::compute_forward);
            each_lane(&CoreAttention::end_forward);
        } else {
            each_lane(&CoreAttention::begin_backward);
            each_lane(&CoreAttention::compute_backward);
            each_lane(&CoreAttention::end_backward);
        }
    }
}

void TrainingAttention::serve_tick(Pass pass, int64_t tick, const Exec& exec) {
    if (!travels_) return;
    plans_->enter_tick(pass, tick);
    serve(pass, 0, exec);
}

}  // namespace plimsoll
