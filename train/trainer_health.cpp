// What a run does about bad steps, and about ranks that differ.
#include <fmt/ranges.h>

#include "train/trainer.h"

namespace plimsoll {

void Trainer::stop_training(const StepResult& result) {
    finish_save();
    throw Error(ExitCode::kInternal,
                fmt::format("step {}: {}; loss {}, gradient norm {}; not updated, after {} bad steps in a row "
                            "(health.max_skips) and {} rollbacks. Lower optimizer.lr, or look at the last lines of {}",
                            state_.step + 1, health_.reason(), result.loss, result.norm, config_.health.max_skips,
                            health_.rollbacks(), directory_.file("metrics.jsonl")));
}

void Trainer::check_replicas() {
    const int64_t every = config_.health.hash_every;
    if (every == 0 || state_.step % every || grid_.data_ranks == 1) return;
    const std::vector<int> others = replica_.ranks_that_differ(exec_);
    if (others.empty()) return;
    throw Error(ExitCode::kInternal,
                fmt::format("before step {}: the parameters of rank {} are not those of the other ranks; memory or a "
                            "link may be faulty. The checkpoints are older: --resume auto goes on from the newest",
                            state_.step + 1, fmt::join(others, ", ")));
}

void Trainer::roll_back() {
    const int64_t samples = state_.samples, step = state_.step;
    const std::string reason = health_.reason();
    finish_save();
    if (!load_newest())
        throw Error(
            ExitCode::kInternal,
            fmt::format("step {}: {}, and there is no checkpoint to go back to (train.save_every)", step, reason));
    state_.samples = samples;
    for (const auto& chunk : replica_.chunks()) chunk->model.refresh_working(exec_);
    log_.line("step {}: {}; back to step {}, on with the data after the bad steps", step, reason, state_.step);
    directory_.truncate_after(state_.step);
}

}  // namespace plimsoll
