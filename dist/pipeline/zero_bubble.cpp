// Schedules that split backward: gradients of weights fill what would be bubbles.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "dist/pipeline/messages.h"
#include "dist/pipeline/simulate.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr MessageRules kSplit{.forward = Moment::kNeeded, .backward = Moment::kReady, .gradient_before_weight = true};

// How a stage chooses among what it could run.
struct Rules {
    bool forward_first;        // a forward that is ready before a backward that is ready
    bool weight_may_delay;     // a weight gradient even if a message is known to come before it ends
    bool weight_at_cap_first;  // at the cap a weight gradient before a backward: it lets the next forward run
};

// List scheduling: always the action that can start first, of all stages. What is not known yet when it is chosen can
// only start later.
class ListScheduler {
  public:
    ListScheduler(int stages, int64_t micro_batches, const PipelineCosts& costs, int64_t cap, Rules rules)
        : costs_(costs), cap_(cap), rules_(rules), orders_(empty_schedule("zb-greedy", stages, micro_batches)) {
        stages_.resize(static_cast<size_t>(stages));
        for (Stage& stage : stages_) {
            stage.forward_at.assign(static_cast<size_t>(micro_batches), kNever);
            stage.backward_at.assign(static_cast<size_t>(micro_batches), kNever);
        }
        std::ranges::fill(stages_[0].forward_at, 0);
    }

    Schedule run() {
        for (size_t left = stages_.size() * 3 * static_cast<size_t>(orders_.micro_batches); left > 0; --left) {
            size_t first = 0;
            Choice best{ActionKind::kForward, kNever};
            for (size_t s = 0; s < stages_.size(); ++s)
                if (const Choice choice = choose(stages_[s], costs_.weight[s]); choice.start < best.start)
                    best = choice, first = s;
            check(best.start < kNever, "zb-greedy: {} actions left that no stage can start", left);
            apply(first, best);
        }
        return std::move(orders_);
    }

  private:
    struct Stage {
        double clock = 0;
        int64_t forward = 0, backward = 0, weight = 0;  // micro batches that are through
        std::vector<double> forward_at, backward_at;    // when a micro batch has come to this stage
    };
    struct Choice {
        ActionKind kind;
        double start;
    };

    Choice choose(const Stage& stage, double weight_cost) const {
        const auto starts = [&](const std::vector<double>& at, int64_t next) {
            const auto i = static_cast<size_t>(next);
            return i < at.size() ? std::max(stage.clock, at[i]) : kNever;
        };
        const bool full = stage.forward - stage.weight >= cap_;
        const double forward = full ? kNever : starts(stage.forward_at, stage.forward);
        const double backward = starts(stage.backward_at, stage.backward);
        const double message = std::min(forward, backward);
        if (stage.weight < stage.backward) {
            const bool fits = rules_.weight_may_delay ? message > stage.clock : message >= stage.clock + weight_cost;
            if (fits || (full && rules_.weight_at_cap_first && stage.forward < orders_.micro_batches))
                return {ActionKind::kWeight, stage.clock};
        }
        const bool choose_forward = forward < backward || (forward == backward && rules_.forward_first);
        return {choose_forward ? ActionKind::kForward : ActionKind::kBackward, message};
    }

    void apply(size_t s, Choice choice) {
        Stage& stage = stages_[s];
        const bool last = s + 1 == stages_.size();
        if (choice.kind == ActionKind::kForward) {
            stage.clock = choice.start + costs_.forward[s];
            const auto m = static_cast<size_t>(stage.forward);
            (last ? stage.backward_at : stages_[s + 1].forward_at)[m] = stage.clock + (last ? 0 : costs_.send);
            orders_.actions[s].push_back({choice.kind, stage.forward++});
        } else if (choice.kind == ActionKind::kBackward) {
            stage.clock = choice.start + costs_.backward[s];
            if (s > 0) stages_[s - 1].backward_at[static_cast<size_t>(stage.backward)] = stage.clock + costs_.send;
            orders_.actions[s].push_back({choice.kind, stage.backward++});
        } else {
            stage.clock = choice.start + costs_.weight[s];
            orders_.actions[s].push_back({choice.kind, stage.weight++});
        }
    }

    const PipelineCosts& costs_;
    int64_t cap_;
    Rules rules_;
    Schedule orders_;
    std::vector<Stage> stages_;
};

// Costs that take part in orders are at least a millionth of the largest: every action takes time.
PipelineCosts checked(const PipelineCosts& costs, int stages) {
    double largest = 0;
    for (const std::vector<double>* list : {&costs.forward, &costs.backward, &costs.weight}) {
        check(list->size() == static_cast<size_t>(stages), "pipeline costs: {} values for {} stages", list->size(),
              stages);
        for (const double cost : *list) largest = std::max(largest, cost);
    }
    PipelineCosts out = costs;
    for (std::vector<double>* list : {&out.forward, &out.backward, &out.weight})
        for (double& cost : *list) {
            if (!std::isfinite(cost) || cost < 0 || largest == 0)
                fail_input("pipeline cost {}: must be finite, at least 0, and not all of them 0", cost);
            cost = std::max(cost, largest * 1e-6);
        }
    if (!std::isfinite(costs.send) || costs.send < 0)
        fail_input("pipeline cost {} of a message: must be finite and at least 0", costs.send);
    return out;
}

}  // namespace

Schedule zero_bubble_h1(int stages, int64_t micro_batches) {
    const Schedule orders = one_forward_one_backward_order("zb-h1", stages, micro_batches, true);
    return with_messages(orders, earliest(orders, unit_costs(stages), kSplit), kSplit);
}

Schedule zero_bubble_greedy(int stages, int64_t micro_batches, const PipelineCosts& costs, int64_t in_flight_cap) {
    check_pipeline_sizes(stages, micro_batches);
    check_range("in-flight cap of 'zb-greedy'", in_flight_cap, 1, 1 << 20);
    const PipelineCosts used = checked(costs, stages);
    Schedule best;
    double shortest = kNever;
    const auto consider = [&](const Schedule& candidate) {
        const double makespan = simulate(candidate, used).makespan;
        if (makespan < shortest) shortest = makespan, best = candidate;
    };
    std::vector<Schedule> seen;  // several rules often agree
    const auto consider_order = [&](const Schedule& orders) {
        const auto same = [&](const Schedule& other) { return other.actions == orders.actions; };
        if (std::ranges::any_of(seen, same)) return;
        seen.push_back(orders);
        for (const Moment forward : {Moment::kReady, Moment::kNeeded})
            for (const Moment backward : {Moment::kReady, Moment::kNeeded}) {
                const MessageRules rules{forward, backward, true};
                consider(with_messages(orders, earliest(orders, used, rules), rules));
            }
    };
    if (in_flight_cap >= std::min<int64_t>(stages, micro_batches)) {
        consider(one_forward_one_backward(stages, micro_batches));
        consider(zero_bubble_h1(stages, micro_batches));
        consider_order(one_forward_one_backward_order("zb-greedy", stages, micro_batches, false));
    }
    const std::array<bool, 2> either{false, true};
    for (const bool forward_first : either)
        for (const bool weight_may_delay : either)
            for (const bool weight_at_cap_first : either) {
                const Rules rules{forward_first, weight_may_delay, weight_at_cap_first};
                consider_order(ListScheduler(stages, micro_batches, used, in_flight_cap, rules).run());
            }
    best.name = "zb-greedy";
    return best;
}

}  // namespace plimsoll
