#include "dist/pipeline/schedule.h"

#include <algorithm>
#include <array>

#include "dist/pipeline/messages.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// One tick after the other of a same-phase schedule, forward and backward in turn.
class PhaseTicks {
  public:
    PhaseTicks(int stages, int64_t micro_batches, int64_t in_flight_cap)
        : orders(empty_schedule("same-phase", stages, micro_batches)),
          timeline(static_cast<size_t>(stages)),
          cap_(in_flight_cap),
          forward_(static_cast<size_t>(stages), 0),
          backward_(static_cast<size_t>(stages), 0) {}

    bool done() const { return backward_[0] == orders.micro_batches; }

    // A tick in which every stage that can works; none if no stage can.
    void add(bool forward) {
        std::vector<int64_t>& counts = forward ? forward_ : backward_;
        const std::vector<int64_t> ready = forward ? forward_ready() : backward_ready();
        if (counts == ready) return;
        const auto start = static_cast<double>(tick_);
        for (size_t s = 0; s < counts.size(); ++s) {
            const bool works = counts[s] < ready[s];
            const int64_t micro_batch = works ? counts[s]++ : -1;
            if (forward)
                append(s, {works ? ActionKind::kForward : ActionKind::kServeForward, micro_batch}, start);
            else
                append(s, {works ? ActionKind::kBackward : ActionKind::kServeBackward, micro_batch}, start);
            if (works && !forward) append(s, {ActionKind::kWeight, micro_batch}, start + 0.5);
        }
        ++tick_;
    }

    Schedule orders;
    Timeline timeline;

  private:
    void append(size_t s, Action action, double start) {
        action.tick = tick_;
        orders.actions[s].push_back(action);
        timeline[s].push_back({action, start, static_cast<double>(tick_ + 1)});
    }
    // By stage: how many micro batches have come to it, at most one more than it has done.
    std::vector<int64_t> forward_ready() const {
        std::vector<int64_t> ready = forward_;
        if (forward_[0] < orders.micro_batches && forward_[0] - backward_[0] < cap_) ++ready[0];
        for (size_t s = 1; s < ready.size(); ++s) ready[s] += forward_[s] < forward_[s - 1];
        return ready;
    }
    std::vector<int64_t> backward_ready() const {
        std::vector<int64_t> ready = backward_;
        ready.back() += backward_.back() < forward_.back();
        for (size_t s = 0; s + 1 < ready.size(); ++s) ready[s] += backward_[s] < backward_[s + 1];
        return ready;
    }

    int64_t cap_;
    int64_t tick_ = 0;
    std::vector<int64_t> forward_, backward_;  // by stage: micro batches that are through
};

}  // namespace

void check_pipeline_sizes(int stages, int64_t micro_batches) {
    check_range("pipeline stages", stages, 1, 1 << 16);
    check_range("micro batches of a pipeline", micro_batches, 1, 1 << 20);
}

Schedule empty_schedule(std::string name, int stages, int64_t micro_batches, int chunks) {
    return {.name = std::move(name),
            .stages = stages,
            .chunks = chunks,
            .micro_batches = micro_batches,
            .actions = std::vector<std::vector<Action>>(static_cast<size_t>(stages))};
}

std::string_view name_of(ActionKind kind) {
    constexpr std::array<std::string_view, 9> kNames{"forward",          "backward",        "weight gradient",
                                                     "send forward",     "receive forward", "send backward",
                                                     "receive backward", "serve forward",   "serve backward"};
    return static_cast<size_t>(kind) < kNames.size() ? kNames[static_cast<size_t>(kind)] : "unknown action";
}

bool communicates(ActionKind kind) {
    return kind >= ActionKind::kSendForward && kind <= ActionKind::kReceiveBackward;
}

std::string describe(const Action& action) {
    if (action.kind == ActionKind::kServeForward || action.kind == ActionKind::kServeBackward)
        return fmt::format("{} in tick {}", name_of(action.kind), action.tick);
    return fmt::format("{} of micro batch {}, chunk {}", name_of(action.kind), action.micro_batch, action.chunk);
}

int virtual_stage_of(const Schedule& schedule, int stage, const Action& action) {
    return action.chunk * schedule.stages + stage;
}

int peer_of(const Schedule& schedule, int stage, const Action& action) {
    if (!communicates(action.kind) || schedule.stages == 1) return -1;
    const bool next = action.kind == ActionKind::kSendForward || action.kind == ActionKind::kReceiveBackward;
    const int v = virtual_stage_of(schedule, stage, action) + (next ? 1 : -1);
    return v < 0 || v >= schedule.stages * schedule.chunks ? -1 : v % schedule.stages;
}

PipelineCosts unit_costs(int virtual_stages) {
    const std::vector<double> ones(static_cast<size_t>(virtual_stages), 1);
    return {.forward = ones, .backward = ones, .weight = ones};
}

Schedule one_forward_one_backward_order(std::string name, int stages, int64_t micro_batches, bool delay_weights) {
    check_pipeline_sizes(stages, micro_batches);
    Schedule orders = empty_schedule(std::move(name), stages, micro_batches);
    for (int s = 0; s < stages; ++s) {
        const int64_t ahead = std::min<int64_t>(micro_batches, stages - s);
        const int64_t delay = delay_weights ? s : 0;
        std::vector<Action>& list = orders.actions[static_cast<size_t>(s)];
        for (int64_t m = 0; m < ahead; ++m) list.push_back({ActionKind::kForward, m});
        for (int64_t m = 0; m < micro_batches + delay; ++m) {
            if (m < micro_batches) list.push_back({ActionKind::kBackward, m});
            if (m >= delay) list.push_back({ActionKind::kWeight, m - delay});
            if (m + ahead < micro_batches) list.push_back({ActionKind::kForward, m + ahead});
        }
    }
    return orders;
}

Schedule one_forward_one_backward(int stages, int64_t micro_batches) {
    const Schedule orders = one_forward_one_backward_order("1f1b", stages, micro_batches, false);
    return with_messages(orders, earliest(orders, unit_costs(stages), {}), {});
}

Schedule interleaved(int stages, int64_t micro_batches, int chunks) {
    check_pipeline_sizes(stages, micro_batches);
    check_range("pipeline chunks of 'interleaved'", chunks, 2, 1 << 10);
    if (micro_batches % stages != 0)
        fail_input(
            "{} micro batches on {} pipeline stages: 'interleaved' wants a multiple of the stages; "
            "'1f1b' takes any number",
            micro_batches, stages);
    Schedule orders = empty_schedule("interleaved", stages, micro_batches, chunks);
    const int64_t total = micro_batches * chunks, round = int64_t{stages} * chunks;
    // Rounds of `stages` micro batches go through all chunks; backward through the chunks in reverse.
    const auto action = [&](ActionKind kind, int64_t k) -> Action {
        const int chunk = static_cast<int>(k % round / stages);
        return {kind, k / round * stages + k % stages, kind == ActionKind::kForward ? chunk : chunks - 1 - chunk};
    };
    for (int s = 0; s < stages; ++s) {
        const int64_t ahead = std::min<int64_t>(total, 2 * (stages - s - 1) + int64_t{stages} * (chunks - 1) + 1);
        std::vector<Action>& list = orders.actions[static_cast<size_t>(s)];
        for (int64_t k = 0; k < ahead; ++k) list.push_back(action(ActionKind::kForward, k));
        for (int64_t k = 0; k < total; ++k) {
            list.push_back(action(ActionKind::kBackward, k));
            list.push_back(action(ActionKind::kWeight, k));
            if (k + ahead < total) list.push_back(action(ActionKind::kForward, k + ahead));
        }
    }
    return with_messages(orders, earliest(orders, unit_costs(stages * chunks), {}), {});
}

Schedule same_phase(int stages, int64_t micro_batches, int64_t in_flight_cap) {
    check_pipeline_sizes(stages, micro_batches);
    check_range("in-flight cap of 'same-phase'", in_flight_cap, stages, 2 * int64_t{stages} - 1);
    PhaseTicks ticks(stages, micro_batches, in_flight_cap);
    for (bool forward = true; !ticks.done(); forward = !forward) ticks.add(forward);
    return with_messages(ticks.orders, ticks.timeline, {.forward = Moment::kReady, .backward = Moment::kReady});
}

std::vector<Tick> ticks_of(const Schedule& schedule) {
    std::vector<Tick> ticks;
    for (size_t s = 0; s < schedule.actions.size(); ++s)
        for (const Action& action : schedule.actions[s]) {
            if (communicates(action.kind)) continue;
            check(action.tick >= 0,
                  "pipeline schedule {}: stage {} has {} outside of ticks; core attention by plan needs same-phase",
                  schedule.name, s, describe(action));
            const auto number = static_cast<size_t>(action.tick);
            if (number >= ticks.size())
                ticks.resize(number + 1, {.micro_batch = std::vector<int64_t>(schedule.actions.size(), -1)});
            ticks[number].forward = action.kind == ActionKind::kForward || action.kind == ActionKind::kServeForward;
            if (action.kind == ActionKind::kForward || action.kind == ActionKind::kBackward)
                ticks[number].micro_batch[s] = action.micro_batch;
        }
    return ticks;
}

Schedule make_schedule(std::string_view name, const ScheduleOptions& options) {
    const int stages = options.stages;
    const int64_t micro_batches = options.micro_batches, cap = options.in_flight_cap;
    check_pipeline_sizes(stages, micro_batches);
    const bool chunked = name == "interleaved", capped = name == "zb-greedy" || name == "same-phase";
    if (!chunked && !capped && name != "1f1b" && name != "zb-h1")
        fail_input("pipeline schedule '{}' is not known, must be 1f1b, interleaved, zb-h1, zb-greedy or same-phase",
                   name);
    if (!chunked && options.chunks != 1)
        fail_input("{} pipeline chunks with schedule '{}', which has 1; more are for 'interleaved'", options.chunks,
                   name);
    if (!capped && cap != 0)
        fail_input("in-flight cap {} with schedule '{}', which has none; it is for 'zb-greedy' and 'same-phase'", cap,
                   name);
    if (name == "1f1b") return one_forward_one_backward(stages, micro_batches);
    if (chunked) return interleaved(stages, micro_batches, options.chunks);
    if (name == "zb-h1") return zero_bubble_h1(stages, micro_batches);
    if (name == "same-phase") return same_phase(stages, micro_batches, cap == 0 ? 2 * int64_t{stages} - 1 : cap);
    return zero_bubble_greedy(stages, micro_batches, options.costs.forward.empty() ? unit_costs(stages) : options.costs,
                              cap == 0 ? stages : cap);
}

}  // namespace plimsoll
