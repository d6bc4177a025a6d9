#include "dist/pipeline/validate.h"

#include <algorithm>
#include <array>
#include <utility>

#include "dist/pipeline/simulate.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr size_t kKinds = 9;  // of ActionKind

template <class... Args>
std::string problem(const Schedule& schedule, fmt::format_string<Args...> format, Args&&... args) {
    return fmt::format("pipeline schedule {}: {}", schedule.name, fmt::format(format, std::forward<Args>(args)...));
}

bool serves(ActionKind kind) {
    return kind == ActionKind::kServeForward || kind == ActionKind::kServeBackward;
}
bool runs_forward(ActionKind kind) {
    return kind == ActionKind::kForward || kind == ActionKind::kServeForward;
}

// Sizes and indices, so that all that follows may use them.
std::optional<std::string> problem_with_sizes(const Schedule& schedule) {
    if (schedule.stages < 1 || schedule.chunks < 1 || schedule.micro_batches < 1 ||
        schedule.actions.size() != static_cast<size_t>(schedule.stages))
        return problem(schedule, "{} lists of actions for {} stages of {} chunks and {} micro batches",
                       schedule.actions.size(), schedule.stages, schedule.chunks, schedule.micro_batches);
    for (int s = 0; s < schedule.stages; ++s) {
        const std::vector<Action>& list = schedule.actions[static_cast<size_t>(s)];
        // First of all, because memory is taken for so many.
        if (schedule.micro_batches > static_cast<int64_t>(list.size()) / 3 / schedule.chunks)
            return problem(schedule, "stage {} has {} actions, too few for {} micro batches and {} chunks", s,
                           list.size(), schedule.micro_batches, schedule.chunks);
        for (const Action& action : list) {
            if (static_cast<size_t>(action.kind) >= kKinds)
                return problem(schedule, "stage {} has an action of unknown kind {}", s, static_cast<int>(action.kind));
            const int64_t low = serves(action.kind) ? -1 : 0;
            const int64_t high = serves(action.kind) ? 0 : schedule.micro_batches;
            if (action.micro_batch < low || action.micro_batch >= high || action.chunk < 0 ||
                action.chunk >= schedule.chunks)
                return problem(schedule, "stage {} has {}, of {} micro batches and {} chunks", s, describe(action),
                               schedule.micro_batches, schedule.chunks);
            if (communicates(action.kind) && peer_of(schedule, s, action) < 0)
                return problem(schedule, "stage {} has nobody to {}", s, describe(action));
        }
    }
    return std::nullopt;
}

// What one stage does, in the order in which it does it.
class StageCheck {
  public:
    StageCheck(const Schedule& schedule, int stage)
        : schedule_(schedule),
          stage_(stage),
          done_(kKinds * static_cast<size_t>(schedule.chunks * schedule.micro_batches), false),
          next_backward_(static_cast<size_t>(schedule.chunks), 0),
          next_weight_(static_cast<size_t>(schedule.chunks), 0) {}

    std::optional<std::string> run() {
        for (const Action& action : schedule_.actions[static_cast<size_t>(stage_)]) {
            if (serves(action.kind)) continue;
            if (is_done(action.kind, action))
                return problem(schedule_, "stage {} has {} twice", stage_, describe(action));
            if (const auto missing = first_missing(action))
                return problem(schedule_, "stage {} has {} before its {}", stage_, describe(action), name_of(*missing));
            const auto chunk = static_cast<size_t>(action.chunk);
            if ((action.kind == ActionKind::kBackward && action.micro_batch != next_backward_[chunk]++) ||
                (action.kind == ActionKind::kWeight && action.micro_batch != next_weight_[chunk]++))
                return problem(schedule_, "stage {} has {} out of micro batch order", stage_, describe(action));
            done_[index(action.kind, action)] = true;
        }
        for (int64_t m = 0; m < schedule_.micro_batches; ++m)
            for (int chunk = 0; chunk < schedule_.chunks; ++chunk)
                for (size_t kind = 0; kind < kKinds; ++kind) {
                    const Action action{static_cast<ActionKind>(kind), m, chunk};
                    const bool wanted =
                        !serves(action.kind) && (!communicates(action.kind) || peer_of(schedule_, stage_, action) >= 0);
                    if (wanted && !is_done(action.kind, action))
                        return problem(schedule_, "stage {} has no {}", stage_, describe(action));
                }
        return std::nullopt;
    }

  private:
    size_t index(ActionKind kind, const Action& action) const {
        return (static_cast<size_t>(kind) * static_cast<size_t>(schedule_.chunks) + static_cast<size_t>(action.chunk)) *
                   static_cast<size_t>(schedule_.micro_batches) +
               static_cast<size_t>(action.micro_batch);
    }
    bool is_done(ActionKind kind, const Action& action) const { return done_[index(kind, action)]; }

    // What must stand before `action` on this stage but does not.
    std::optional<ActionKind> first_missing(const Action& action) const {
        const auto unless_done = [&](ActionKind kind, int chunk) -> std::optional<ActionKind> {
            if (is_done(kind, {kind, action.micro_batch, chunk})) return std::nullopt;
            return kind;
        };
        // From a neighbouring virtual stage: received, or computed here if this stage is alone.
        const auto input = [&](ActionKind receive, ActionKind compute, int step) -> std::optional<ActionKind> {
            const int from = virtual_stage_of(schedule_, stage_, action) + step;
            if (from < 0 || from >= schedule_.stages * schedule_.chunks) return std::nullopt;
            if (schedule_.stages == 1) return unless_done(compute, from);
            return unless_done(receive, action.chunk);
        };
        switch (action.kind) {
            case ActionKind::kForward:
                return input(ActionKind::kReceiveForward, ActionKind::kForward, -1);
            case ActionKind::kBackward:
                if (const auto missing = unless_done(ActionKind::kForward, action.chunk)) return missing;
                return input(ActionKind::kReceiveBackward, ActionKind::kBackward, 1);
            case ActionKind::kWeight:
            case ActionKind::kSendBackward:
                return unless_done(ActionKind::kBackward, action.chunk);
            case ActionKind::kSendForward:
                return unless_done(ActionKind::kForward, action.chunk);
            default:
                return std::nullopt;
        }
    }

    const Schedule& schedule_;
    int stage_;
    std::vector<bool> done_;                            // by kind, chunk, micro batch
    std::vector<int64_t> next_backward_, next_weight_;  // by chunk
};

// The phase of each tick of one stage: true in forward ticks. Nothing is added after the first problem.
std::optional<std::string> problem_with_ticks(const Schedule& schedule, int stage, std::vector<bool>& forward) {
    const Action* before = nullptr;
    for (const Action& action : schedule.actions[static_cast<size_t>(stage)]) {
        if (communicates(action.kind)) continue;
        const bool fused = action.kind == ActionKind::kWeight;
        const auto tick = static_cast<int64_t>(forward.size()) - (fused ? 1 : 0);
        if (action.tick != tick)
            return problem(schedule, "stage {} has {} in tick {}, not {}", stage, describe(action), action.tick, tick);
        if (fused && (before->kind != ActionKind::kBackward || before->micro_batch != action.micro_batch))
            return problem(schedule, "stage {} has {} after {}", stage, describe(action), describe(*before));
        if (!fused) forward.push_back(runs_forward(action.kind));
        before = &action;
    }
    return std::nullopt;
}

// Ticks are all or nothing.
std::optional<std::string> problem_with_ticks(const Schedule& schedule) {
    bool ticks = false;
    for (const std::vector<Action>& list : schedule.actions)
        for (const Action& action : list) {
            ticks = ticks || action.tick != -1 || serves(action.kind);
            if (communicates(action.kind) && action.tick != -1)
                return problem(schedule, "{} has tick {}", describe(action), action.tick);
        }
    if (!ticks) return std::nullopt;
    std::vector<bool> first;
    for (int s = 0; s < schedule.stages; ++s) {
        std::vector<bool> forward;
        if (auto found = problem_with_ticks(schedule, s, forward)) return found;
        if (s == 0) first = forward;
        if (forward != first)
            return problem(schedule, "the ticks of stage {} have other phases than those of stage 0", s);
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> problem_with(const Schedule& schedule, int64_t in_flight_cap) {
    if (auto found = problem_with_sizes(schedule)) return found;
    for (int s = 0; s < schedule.stages; ++s)
        if (auto found = StageCheck(schedule, s).run()) return found;
    if (auto found = problem_with_ticks(schedule)) return found;
    const Simulation simulation = simulate(schedule, unit_costs(schedule.stages * schedule.chunks));
    if (!simulation.stuck.empty()) return problem(schedule, "{}", simulation.stuck);
    for (int s = 0; s < schedule.stages; ++s)
        if (const int64_t held = simulation.peak_in_flight[static_cast<size_t>(s)]; held > in_flight_cap)
            return problem(schedule, "stage {} holds {} micro batches, at most {} may be held", s, held, in_flight_cap);
    return std::nullopt;
}

}  // namespace plimsoll
