#include "dist/pipeline/simulate.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr double kWaiting = -1;

// Messages from one stage to another: the k-th send belongs to the k-th receive, as NCCL and MPI have it.
struct Edge {
    struct Side {
        size_t action;
        double time;
    };
    std::vector<Side> sends, receives;
    size_t matched = 0;
};

class Run {
  public:
    Run(const Schedule& schedule, const ActionSeconds& seconds, double send)
        : schedule_(schedule),
          seconds_(seconds),
          send_(send),
          stages_(static_cast<size_t>(schedule.stages)),
          edges_(stages_ * stages_),
          next_(stages_, 0),
          posted_(stages_, 0),
          clock_(stages_, 0) {
        result_.busy.assign(stages_, 0);
        for (const std::vector<Action>& list : schedule.actions)
            result_.times.push_back(std::vector<ActionTime>(list.size(), {0, kWaiting}));
    }

    Simulation finish() {
        bool moved = true;
        while (moved && result_.stuck.empty()) {
            moved = false;
            for (size_t s = 0; s < stages_; ++s)
                while (result_.stuck.empty() && advance(s)) moved = true;
            moved = start_tick() || moved;
        }
        if (result_.stuck.empty()) name_waiting();
        result_.makespan = *std::ranges::max_element(clock_);
        double busy = 0;
        for (const double part : result_.busy) busy += part;
        if (result_.makespan > 0) result_.bubble = 1 - busy / (static_cast<double>(stages_) * result_.makespan);
        result_.peak_in_flight = peak_in_flight(schedule_);
        return std::move(result_);
    }

  private:
    const std::vector<Action>& list(size_t stage) const { return schedule_.actions[stage]; }

    // One step of one stage, if it can take one.
    bool advance(size_t s) {
        if (next_[s] == list(s).size()) return false;
        const Action& action = list(s)[next_[s]];
        if (communicates(action.kind)) return exchange_group(s);
        if (action.tick > tick_) return false;
        const double cost = seconds_(static_cast<int>(s), action);
        result_.times[s][next_[s]++] = {clock_[s], clock_[s] + cost};
        result_.busy[s] += cost;
        clock_[s] += cost;
        return true;
    }

    // Opens the next tick when every stage that is not at its end has come to it.
    bool start_tick() {
        double ready = 0;
        bool waiting = false;
        for (size_t s = 0; s < stages_; ++s) {
            ready = std::max(ready, clock_[s]);
            if (next_[s] == list(s).size()) continue;
            if (list(s)[next_[s]].tick <= tick_) return false;
            waiting = true;
        }
        if (!waiting) return false;
        ++tick_;
        for (size_t s = 0; s < stages_; ++s)
            if (next_[s] < list(s).size()) clock_[s] = ready;
        return true;
    }

    bool exchange_group(size_t s) {
        size_t end = next_[s];
        while (end < list(s).size() && communicates(list(s)[end].kind)) ++end;
        if (posted_[s] <= next_[s]) {
            for (size_t i = next_[s]; i < end; ++i) post(s, i);
            posted_[s] = end;
        }
        double done = clock_[s];
        for (size_t i = next_[s]; i < end; ++i) {
            if (result_.times[s][i].end == kWaiting) return false;
            done = std::max(done, result_.times[s][i].end);
        }
        next_[s] = end;
        clock_[s] = done;
        return true;
    }

    void post(size_t s, size_t index) {
        const Action& action = list(s)[index];
        const auto peer = static_cast<size_t>(peer_of(schedule_, static_cast<int>(s), action));
        const bool sends = action.kind == ActionKind::kSendForward || action.kind == ActionKind::kSendBackward;
        const auto [from, to] = sends ? std::pair{s, peer} : std::pair{peer, s};
        Edge& edge = edges_[from * stages_ + to];
        (sends ? edge.sends : edge.receives).push_back({index, clock_[s]});
        result_.times[s][index].start = clock_[s];
        while (edge.matched < std::min(edge.sends.size(), edge.receives.size())) match(edge, from, to);
    }

    void match(Edge& edge, size_t from, size_t to) {
        const auto& [send, sent] = edge.sends[edge.matched];
        const auto& [receive, received] = edge.receives[edge.matched];
        ++edge.matched;
        const Action &out = list(from)[send], &in = list(to)[receive];
        const bool forward = out.kind == ActionKind::kSendForward;
        const int step = forward ? 1 : -1;
        if (out.micro_batch != in.micro_batch || forward != (in.kind == ActionKind::kReceiveForward) ||
            virtual_stage_of(schedule_, static_cast<int>(from), out) + step !=
                virtual_stage_of(schedule_, static_cast<int>(to), in))
            result_.stuck = fmt::format("stage {} action {}, {}, meets stage {} action {}, {}", from, send,
                                        describe(out), to, receive, describe(in));
        result_.times[from][send].end = result_.times[to][receive].end = std::max(sent, received) + send_;
    }

    void name_waiting() {
        for (size_t s = 0; s < stages_; ++s) {
            if (next_[s] == list(s).size()) continue;
            const Action& action = list(s)[next_[s]];
            result_.stuck +=
                fmt::format("{}stage {} waits at action {}", result_.stuck.empty() ? "" : "; ", s, next_[s]);
            if (!communicates(action.kind)) result_.stuck += fmt::format(" for tick {}", action.tick);
            for (size_t i = next_[s], named = 0; i < posted_[s]; ++i)
                if (result_.times[s][i].end == kWaiting)
                    result_.stuck += fmt::format(
                        "{} {} {} {}", named++ ? " and" : " in", describe(list(s)[i]),
                        list(s)[i].kind == ActionKind::kSendForward || list(s)[i].kind == ActionKind::kSendBackward
                            ? "to"
                            : "from",
                        peer_of(schedule_, static_cast<int>(s), list(s)[i]));
        }
    }

    const Schedule& schedule_;
    const ActionSeconds& seconds_;
    double send_;
    size_t stages_;
    std::vector<Edge> edges_;     // by sender and receiver
    std::vector<size_t> next_;    // by stage: its first action that is not done
    std::vector<size_t> posted_;  // by stage: end of the last group posted
    std::vector<double> clock_;
    int64_t tick_ = -1;  // the last one that was opened
    Simulation result_;
};

}  // namespace

Simulation simulate(const Schedule& schedule, const ActionSeconds& seconds, double send) {
    check(
        schedule.stages >= 1 && schedule.chunks >= 1 && schedule.actions.size() == static_cast<size_t>(schedule.stages),
        "pipeline schedule {}: {} lists for {} stages of {} chunks", schedule.name, schedule.actions.size(),
        schedule.stages, schedule.chunks);
    for (int s = 0; s < schedule.stages; ++s)
        for (const Action& action : schedule.actions[static_cast<size_t>(s)]) {
            check(0 <= action.chunk && action.chunk < schedule.chunks, "pipeline schedule {}: stage {} has {} of {}",
                  schedule.name, s, describe(action), schedule.chunks);
            check(!communicates(action.kind) || peer_of(schedule, s, action) >= 0,
                  "pipeline schedule {}: stage {} has nobody to {}", schedule.name, s, describe(action));
        }
    return Run(schedule, seconds, send).finish();
}

Simulation simulate(const Schedule& schedule, const PipelineCosts& costs) {
    const auto virtual_stages = static_cast<size_t>(schedule.stages) * static_cast<size_t>(schedule.chunks);
    for (const std::vector<double>* list : {&costs.forward, &costs.backward, &costs.weight})
        check(list->size() == virtual_stages, "pipeline costs: {} values for {} virtual stages", list->size(),
              virtual_stages);
    const auto seconds = [&](int stage, const Action& action) -> double {
        const auto v = static_cast<size_t>(virtual_stage_of(schedule, stage, action));
        switch (action.kind) {
            case ActionKind::kForward:
                return costs.forward[v];
            case ActionKind::kBackward:
                return costs.backward[v];
            case ActionKind::kWeight:
                return costs.weight[v];
            default:
                return 0;
        }
    };
    return simulate(schedule, seconds, costs.send);
}

std::vector<int64_t> peak_in_flight(const Schedule& schedule) {
    std::vector<int64_t> peaks;
    for (const std::vector<Action>& list : schedule.actions) {
        int64_t held = 0, peak = 0;
        for (const Action& action : list) {
            if (action.kind == ActionKind::kForward) peak = std::max(peak, ++held);
            if (action.kind == ActionKind::kWeight) --held;
        }
        peaks.push_back(peak);
    }
    return peaks;
}

double bubble_of_one_forward_one_backward(int stages, int64_t micro_batches) {
    return (stages - 1) / (static_cast<double>(micro_batches) + stages - 1);
}

double bubble_of_interleaved(int stages, int64_t micro_batches, int chunks) {
    return bubble_of_one_forward_one_backward(stages, micro_batches * chunks);
}

double bubble_of_zero_bubble_h1(int stages, int64_t micro_batches, double forward, double backward, double weight) {
    const double idle = (stages - 1) * (forward + backward - weight);
    return idle / (static_cast<double>(micro_batches) * (forward + backward + weight) + idle);
}

}  // namespace plimsoll
