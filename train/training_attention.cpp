#include "train/training_attention.h"

#include <algorithm>
#include <utility>

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
        rounds_ = std::make_unique<PlannedRounds>(*plans_);
        auto core = std::make_unique<DisaggregatedAttention>(*grid.attention, *rounds_, plans_->shape(), lanes_);
        travelling_ = core.get();
        core_ = std::move(core);
    } else {
        home_rounds_ = std::make_unique<PlannedHomeRounds>(*plans_);
        core_ = std::make_unique<ServersInTurn>(*home_rounds_);
    }
}

void TrainingAttention::begin_step(int64_t first_sample) {
    if (!plans_) return;
    plans_->begin_step(first_sample);
    sampled_ = std::exchange(sample_next_, false);
    if (sampled_) {
        plans_->keep_most_unequal();
        timeline_.start();
    }
    if (travelling_) travelling_->record_in(sampled_ ? &timeline_ : nullptr);
    if (plan_only_) plans_->plan_step();
}

CaWindow TrainingAttention::window(Pass pass) const {
    const CadUnequalRound& round = most_unequal(pass);
    const auto of_round = [&](const CaInterval& i) {
        return i.pass == pass && i.tick == round.tick && i.lane == round.lane && i.layer == first_layer_ + round.round;
    };
    const CaPhase last = !round.plan.moves        ? CaPhase::kOwn
                         : pass == Pass::kForward ? CaPhase::kWaitForResults
                                                  : CaPhase::kAddUp;
    const std::vector<CaInterval>& all = timeline_.intervals();
    // Where a backward computes its forward again, the first is meant.
    const auto first = std::ranges::find_if(all, of_round);
    const auto end =
        std::find_if(first, all.end(), [&](const CaInterval& i) { return of_round(i) && i.phase == last; });
    CaWindow window;
    if (end == all.end()) return window;
    for (const CaInterval& i : all)
        if (i.end > first->begin && i.begin < end->end && window.count < std::ssize(window.intervals))
            window.intervals[static_cast<size_t>(window.count++)] = i;
    return window;
}

void TrainingAttention::serve(Pass pass, int64_t first_round, const Exec& exec) {
    if (!travels()) return;
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
    if (!travels()) return;
    plans_->enter_tick(pass, tick);
    timeline_.enter(pass, tick);
    serve(pass, 0, exec);
}

}  // namespace plimsoll
