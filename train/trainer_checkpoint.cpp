// What a run keeps on disk to go on from: saving it, and finding it again.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "kernels/gpu.h"
#include "train/trainer.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// Copies of device tensors in host memory, and the tensors there.
struct HostCopies {
    std::vector<HostCopy> copies;
    std::vector<Tensor> tensors;

    HostCopies(const std::vector<Tensor>& buffers, const Exec& exec) {
        for (const Tensor& buffer : buffers) {
            copies.emplace_back(buffer, exec);
            tensors.push_back(copies.back().tensor());
        }
    }
};

}  // namespace

std::vector<Tensor> Trainer::state_buffers() const {
    std::vector<Tensor> buffers{model_.parameters()};
    for (const auto& [name, buffer] : optimizer_.state()) buffers.push_back(buffer);
    return buffers;
}

// Parameters and optimizer state are whole on every rank: saving is shared out evenly, loading fills everything.
std::vector<CheckpointPart> Trainer::held_parts(const std::vector<Tensor>& buffers, Use use) const {
    std::vector<std::string> names{"parameters"};
    for (const auto& [name, buffer] : optimizer_.state()) names.push_back(name);
    ElementRange held{0, model_.table().buffer_elements()};
    if (use == Use::kSave)
        held = split_range(held, world_.size(), kParameterAlignment)[static_cast<size_t>(world_.rank())];
    std::vector<CheckpointPart> parts;
    for (size_t b = 0; b < buffers.size(); ++b)
        for (const Parameter& p : model_.table().entries()) {
            const int64_t begin = std::max(held.begin, p.offset),
                          end = std::min(held.end, p.offset + p.shape.elements());
            if (begin >= end) continue;
            parts.push_back({.name = names[b] + "/" + p.name,
                             .shape = p.shape,
                             .range = {begin - p.offset, end - p.offset},
                             .data = buffers[b].slice_rows(begin, end - begin)});
        }
    return parts;
}

void Trainer::resume_from_checkpoint() {
    const json info = directory_.read_json("run.json");
    checkpointer_.take_over();
    if (!directory_.existed()) return;
    const std::vector<Tensor> buffers = state_buffers();
    const HostCopies host(buffers, exec_);
    const std::optional<TrainingState> saved =
        checkpointer_.load_newest(held_parts(host.tensors, Use::kLoad),
                                  [&](const std::string& why) { log_.line("resume: passed over {}", why); });
    if (saved && saved->data_hash != state_.data_hash)
        fail_input(
            "step {} was trained on data with hash {}, the data here has {}; restore the data, or start again with "
            "--fresh",
            saved->step, saved->data_hash, state_.data_hash);
    if (saved) {
        if (device_.is_gpu())
            for (size_t b = 0; b < buffers.size(); ++b) copy_tensor(buffers[b], host.tensors[b], exec_);
        const std::string config = state_.config;
        state_ = *saved;
        state_.config = config;
        last_saved_ = state_.step;
        finished_ = info.is_object() && info.value("status", "") == "done" && state_.step >= max_steps_;
        if (finished_) return;
        log_.line("resume: step {} of {}", state_.step, max_steps_);
    }
    for (const char* name : {"metrics.jsonl", "evals.jsonl", "probes.jsonl"})
        directory_.truncate_after(name, saved ? state_.step : -1);
}

void Trainer::keep_if_best() {
    std::array<double, 2> best{state_.best_loss, static_cast<double>(state_.best_step)};
    if (world_.size() > 1) world_.broadcast(std::as_writable_bytes(std::span(best)), 0);
    state_.best_loss = best[0];
    state_.best_step = static_cast<int64_t>(best[1]);
    if (state_.best_step == state_.step) save();
}

void Trainer::report_save(const std::optional<SaveOutcome>& outcome) {
    if (!outcome) return;
    if (outcome->saved)
        log_.line("saved {} in {:.1f} s", outcome->text, outcome->seconds);
    else
        log_.line("warning: step {} was not saved, training goes on; {} saves failed so far: {}", outcome->step,
                  checkpointer_.failures(), outcome->text);
}

void Trainer::save_if_due() {
    report_save(checkpointer_.poll());
    if (state_.step > 0 && config_.train.save_every && state_.step % config_.train.save_every == 0) save();
}

void Trainer::save() {
    if (last_saved_ == state_.step) return;
    finish_save();
    last_saved_ = state_.step;
    TrainingState state = state_;
    state.seconds = elapsed();
    const HostCopies host(state_buffers(), exec_);
    checkpointer_.start(state, held_parts(host.tensors, Use::kSave));
    if (!config_.train.async_save) finish_save();
}

void Trainer::finish_save() {
    report_save(checkpointer_.finish());
}

void Trainer::save_last() {
    finish_save();
    if (checkpointer_.newest_step() == state_.step) return;
    last_saved_ = -1;  // once more, if it was tried
    save();
    finish_save();
    if (checkpointer_.newest_step() != state_.step)
        fail_io(
            "the last step, {}, could not be saved (why is in {}); the same command with --resume auto goes on from "
            "step {}",
            state_.step, directory_.file("log.txt"), checkpointer_.newest_step());
}

}  // namespace plimsoll
