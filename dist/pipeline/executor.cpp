#include "dist/pipeline/executor.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "kernels/error.h"
#include "kernels/memory.h"

namespace plimsoll {
namespace {

// Whether actions[i] is a backward whose gradients of weights follow before anything else is computed, and before its
// own message leaves: messages of other micro batches may lie between.
bool is_fused(const std::vector<Action>& actions, size_t i) {
    const auto same = [&](const Action& a) {
        return a.micro_batch == actions[i].micro_batch && a.chunk == actions[i].chunk;
    };
    if (actions[i].kind != ActionKind::kBackward) return false;
    for (size_t next = i + 1; next < actions.size(); ++next) {
        const Action& a = actions[next];
        if (!communicates(a.kind)) return a.kind == ActionKind::kWeight && same(a);
        if (a.kind == ActionKind::kSendBackward && same(a)) return false;
    }
    return false;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

// A micro batch takes the lowest free set when it enters the chunk and leaves it with its weights' gradients.
StagePlan::StagePlan(const Schedule& schedule, int stage)
    : sets(static_cast<size_t>(schedule.chunks)),
      set_of(sets.size(), std::vector<int>(static_cast<size_t>(schedule.micro_batches), -1)) {
    std::vector<std::vector<bool>> taken(sets.size());
    const std::vector<Action>& actions = schedule.actions[static_cast<size_t>(stage)];
    // A fused backward takes the place of its weights: messages between the two parts need not wait for both.
    std::optional<Step> fused;
    for (size_t i = 0; i < actions.size(); ++i) {
        const Action& action = actions[i];
        if (action.micro_batch < 0) {
            steps.push_back({action, -1, false});
            continue;
        }
        const auto chunk = static_cast<size_t>(action.chunk);
        int& set = set_of[chunk][static_cast<size_t>(action.micro_batch)];
        if (set < 0) {
            set = static_cast<int>(std::ranges::find(taken[chunk], false) - taken[chunk].begin());
            taken[chunk].resize(std::max(taken[chunk].size(), static_cast<size_t>(set) + 1));
            taken[chunk][static_cast<size_t>(set)] = true;
        }
        const bool weight = action.kind == ActionKind::kWeight;
        if (weight) taken[chunk][static_cast<size_t>(set)] = false;
        if (is_fused(actions, i))
            fused = Step{action, set, true};
        else if (weight && fused)
            steps.push_back(*std::exchange(fused, std::nullopt));
        else
            steps.push_back({action, set, false});
    }
    for (size_t c = 0; c < sets.size(); ++c) sets[c] = static_cast<int>(taken[c].size());
}

bool StagePlan::splits_backward() const {
    return std::ranges::any_of(steps, [](const Step& s) { return s.action.kind == ActionKind::kWeight; });
}

PipelineExecutor::PipelineExecutor(Communicator& forward, Communicator& backward, Schedule schedule)
    : forward_(forward), backward_(backward), schedule_(std::move(schedule)), plan_(schedule_, forward.rank()) {
    check(forward.size() == schedule_.stages && backward.size() == schedule_.stages,
          "a schedule of {} stages on {} ranks", schedule_.stages, forward.size());
}

void PipelineExecutor::settle(std::vector<Pending>& pending, int chunk, int set) {
    std::erase_if(pending, [&](Pending& p) {
        if (p.chunk != chunk || p.set != set) return false;
        p.work.wait();
        return true;
    });
}

void PipelineExecutor::communicate(const StagePlan::Step& step, StageWork& work) {
    const auto [kind, micro_batch, chunk, tick] = step.action;
    const int peer = peer_of(schedule_, forward_.rank(), step.action), set = step.set;
    if (kind == ActionKind::kReceiveBackward) settle(sends_backward_, chunk, set);  // of the one that lived here before
    for (int part = 0; part < work.parts(); ++part) {
        if (kind == ActionKind::kSendForward)
            sends_forward_.push_back({chunk, set, forward_.send(work.stream_out(chunk, set, part), peer)});
        else if (kind == ActionKind::kReceiveForward)
            receives_forward_.push_back({chunk, set, forward_.receive(work.stream_in(chunk, set, part), peer)});
        else if (kind == ActionKind::kSendBackward)
            sends_backward_.push_back({chunk, set, backward_.send(work.stream_gradient(chunk, set, part), peer)});
        else
            receives_backward_.push_back({chunk, set, backward_.receive(work.stream_gradient(chunk, set, part), peer)});
    }
}

void PipelineExecutor::compute(const StagePlan::Step& step, StageWork& work, StageTimes& times, const Exec& exec) {
    const auto [kind, micro_batch, chunk, tick] = step.action;
    const int set = step.set;
    const bool alone = schedule_.stages == 1;  // neighbouring chunks are here
    const auto timed = [&](double& seconds, auto&& call) {
        const auto start = std::chrono::steady_clock::now();
        call();
        seconds += seconds_since(start);
    };
    if (kind == ActionKind::kForward) {
        settle(receives_forward_, chunk, set);
        settle(sends_forward_, chunk, set);  // of the micro batch that lived here before
        if (alone && chunk > 0) {
            const int before = plan_.set_of[static_cast<size_t>(chunk - 1)][static_cast<size_t>(micro_batch)];
            for (int part = 0; part < work.parts(); ++part)
                copy_tensor(work.stream_in(chunk, set, part), work.stream_out(chunk - 1, before, part), exec);
        }
        timed(times.forward, [&] { work.forward(chunk, micro_batch, set); });
    } else if (kind == ActionKind::kBackward) {
        settle(receives_backward_, chunk, set);
        settle(sends_backward_, chunk, set);
        timed(times.backward, [&] {
            step.fused ? work.backward(chunk, micro_batch, set) : work.backward_inputs(chunk, micro_batch, set);
        });
        if (alone && chunk > 0) {
            const int before = plan_.set_of[static_cast<size_t>(chunk - 1)][static_cast<size_t>(micro_batch)];
            for (int part = 0; part < work.parts(); ++part)
                copy_tensor(work.stream_gradient(chunk - 1, before, part), work.stream_gradient(chunk, set, part),
                            exec);
        }
    } else if (kind == ActionKind::kWeight) {
        timed(times.weight, [&] { work.backward_weights(chunk, micro_batch, set); });
    } else if (kind == ActionKind::kServeForward) {
        timed(times.forward, [&] { work.serve_forward(tick); });
    } else {
        timed(times.backward, [&] { work.serve_backward(tick); });
    }
}

StageTimes PipelineExecutor::run(StageWork& work, const Exec& exec) {
    StageTimes times;
    const auto start = std::chrono::steady_clock::now();
    for (const StagePlan::Step& step : plan_.steps) {
        if (communicates(step.action.kind))
            communicate(step, work);
        else
            compute(step, work, times, exec);
    }
    for (auto* pending : {&sends_forward_, &sends_backward_}) {
        for (Pending& p : *pending) p.work.wait();
        pending->clear();
    }
    times.total = seconds_since(start);
    return times;
}

}  // namespace plimsoll
