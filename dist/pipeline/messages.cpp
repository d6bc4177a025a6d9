#include "dist/pipeline/messages.h"

#include <algorithm>
#include <tuple>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Times by virtual stage and micro batch.
class TimeTable {
  public:
    TimeTable(const Schedule& schedule, double initial)
        : micro_batches_(schedule.micro_batches),
          times_(static_cast<size_t>(schedule.stages * schedule.chunks * schedule.micro_batches), initial) {}
    double& at(int virtual_stage, int64_t micro_batch) {
        return times_[static_cast<size_t>(virtual_stage * micro_batches_ + micro_batch)];
    }

  private:
    int64_t micro_batches_;
    std::vector<double> times_;
};

constexpr double kUnknown = -1;

// One entry of a list that is being put in order of time. At one moment messages come before what starts to compute,
// and have one order among themselves that both their stages see.
struct Entry {
    std::tuple<double, bool, ActionKind, int, int64_t> key;
    Action action;
};

// Whether the gradient of inputs leaves after action i.
bool gradient_leaves(const std::vector<Action>& list, size_t i, const MessageRules& rules) {
    const auto is = [&](size_t index, ActionKind kind) { return index < list.size() && list[index].kind == kind; };
    if (rules.gradient_before_weight) return is(i, ActionKind::kBackward);
    return is(i, ActionKind::kWeight) ? i > 0 && is(i - 1, ActionKind::kBackward)
                                      : is(i, ActionKind::kBackward) && !is(i + 1, ActionKind::kWeight);
}

}  // namespace

Timeline earliest(const Schedule& orders, const PipelineCosts& costs, const MessageRules& rules) {
    const int last = orders.stages * orders.chunks - 1;
    TimeTable forward(orders, kUnknown), backward(orders, kUnknown);
    Timeline timeline(orders.actions.size());
    size_t left = 0;
    for (const std::vector<Action>& list : orders.actions) left += list.size();
    std::vector<double> clock(orders.actions.size(), 0);
    while (left > 0) {
        const size_t before = left;
        for (int s = 0; s < orders.stages; ++s) {
            const std::vector<Action>& list = orders.actions[static_cast<size_t>(s)];
            std::vector<TimedAction>& done = timeline[static_cast<size_t>(s)];
            for (; done.size() < list.size(); --left) {
                const Action& action = list[done.size()];
                const int v = virtual_stage_of(orders, s, action);
                const auto i = static_cast<size_t>(v);
                double ready = 0, cost = costs.weight[i];
                if (action.kind == ActionKind::kForward) {
                    ready = v == 0 ? 0 : forward.at(v - 1, action.micro_batch);
                    cost = costs.forward[i];
                } else if (action.kind == ActionKind::kBackward) {
                    ready = v == last ? 0 : backward.at(v + 1, action.micro_batch);
                    cost = costs.backward[i];
                }
                if (ready == kUnknown) break;
                double& now = clock[static_cast<size_t>(s)];
                const double start = std::max(now, ready);
                now = start + cost;
                done.push_back({action, start, now});
                const double arrival = orders.stages == 1 ? now : now + costs.send;
                if (action.kind == ActionKind::kForward) forward.at(v, action.micro_batch) = arrival;
                if (gradient_leaves(list, done.size() - 1, rules)) backward.at(v, action.micro_batch) = arrival;
            }
        }
        check(left < before, "pipeline schedule {}: {} actions cannot run in any order of the stages", orders.name,
              left);
    }
    return timeline;
}

Schedule with_messages(Schedule orders, const Timeline& timeline, const MessageRules& rules) {
    const int stages = orders.stages, last = stages * orders.chunks - 1;
    TimeTable forward_use(orders, 0), backward_use(orders, 0);
    for (int s = 0; s < stages; ++s)
        for (const TimedAction& timed : timeline[static_cast<size_t>(s)]) {
            const int v = virtual_stage_of(orders, s, timed.action);
            if (timed.action.kind == ActionKind::kForward) forward_use.at(v, timed.action.micro_batch) = timed.start;
            if (timed.action.kind == ActionKind::kBackward) backward_use.at(v, timed.action.micro_batch) = timed.start;
        }

    std::vector<std::vector<Entry>> lists(static_cast<size_t>(stages));
    const auto exchange = [&](double time, ActionKind send, ActionKind receive, int from, int to, int64_t micro_batch) {
        for (const auto& [kind, v] : {std::pair{send, from}, std::pair{receive, to}})
            lists[static_cast<size_t>(v % stages)].push_back(
                {{time, false, send, from, micro_batch}, {kind, micro_batch, v / stages, -1}});
    };
    for (int s = 0; s < stages; ++s) {
        const std::vector<TimedAction>& done = timeline[static_cast<size_t>(s)];
        for (size_t i = 0; i < done.size(); ++i) {
            const Action& action = done[i].action;
            const int v = virtual_stage_of(orders, s, action);
            lists[static_cast<size_t>(s)].push_back(
                {{done[i].start, true, action.kind, v, action.micro_batch}, action});
            if (stages == 1) continue;
            if (action.kind == ActionKind::kForward && v != last) {
                const double use = forward_use.at(v + 1, action.micro_batch);
                exchange(rules.forward == Moment::kReady ? done[i].end : use, ActionKind::kSendForward,
                         ActionKind::kReceiveForward, v, v + 1, action.micro_batch);
            } else if (v != 0 && gradient_leaves(orders.actions[static_cast<size_t>(s)], i, rules)) {
                const double use = backward_use.at(v - 1, action.micro_batch);
                exchange(rules.backward == Moment::kReady ? done[i].end : use, ActionKind::kSendBackward,
                         ActionKind::kReceiveBackward, v, v - 1, action.micro_batch);
            }
        }
    }
    for (int s = 0; s < stages; ++s) {
        std::vector<Entry>& list = lists[static_cast<size_t>(s)];
        std::ranges::sort(list, {}, &Entry::key);
        orders.actions[static_cast<size_t>(s)].clear();
        for (const Entry& entry : list) orders.actions[static_cast<size_t>(s)].push_back(entry.action);
    }
    return orders;
}

}  // namespace plimsoll
