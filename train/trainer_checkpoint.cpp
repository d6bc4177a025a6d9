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

constexpr double kSlowDisk = 100e6;  // bytes per second that a save is expected to write before one was measured

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

// The parameters' parts of a buffer that holds these ranges of the flat layout, one after the other: of what is wanted.
void add_parts(std::vector<CheckpointPart>& parts, const NetworkChunk& chunk, const std::string& name, Tensor buffer,
               const std::vector<ElementRange>& ranges, const std::vector<ElementRange>& wanted, bool with_copies) {
    int64_t before = 0;  // elements of the buffer
    for (const ElementRange& held : ranges) {
        for (const Parameter& p : chunk.model.table().entries()) {
            if (!with_copies && chunk.holds_copy() && p.offset == 0) continue;
            for (const ElementRange& want : wanted) {
                const int64_t begin = std::max({held.begin, want.begin, p.offset}),
                              end = std::min({held.end, want.end, p.offset + p.shape.elements()});
                if (begin >= end) continue;
                parts.push_back({.name = name + "/" + p.name,
                                 .shape = p.shape,
                                 .range = {begin - p.offset, end - p.offset},
                                 .data = buffer.slice_rows(before + begin - held.begin, end - begin)});
            }
        }
        before += held.size();
    }
}

}  // namespace

std::vector<Tensor> Trainer::state_buffers() const {
    std::vector<Tensor> buffers;
    for (const auto& chunk : replica_.chunks()) {
        buffers.push_back(chunk->model.parameters());
        for (const Optimizer::State& state : chunk->optimizer.state()) buffers.push_back(state.buffer);
    }
    return buffers;
}

std::vector<CheckpointPart> Trainer::held_parts(const std::vector<Tensor>& buffers, Use use) const {
    std::vector<CheckpointPart> parts;
    size_t next = 0;
    for (const auto& chunk : replica_.chunks()) {
        const ElementRange all{0, chunk->layout.elements()};
        // What every data rank has is saved by the one whose shard it is.
        const bool shared_out = use == Use::kSave && grid_.data_ranks > 1;
        const std::vector<ElementRange> wanted =
            shared_out ? chunk->layout.owned(grid_.data_rank) : std::vector<ElementRange>{all};
        const bool with_copies = use == Use::kLoad;
        add_parts(parts, *chunk, "parameters", buffers[next++], {all}, wanted, with_copies);
        for (const Optimizer::State& state : chunk->optimizer.state())
            add_parts(parts, *chunk, state.name, buffers[next++], state.ranges, wanted, with_copies);
    }
    return parts;
}

void Trainer::resume_from_checkpoint() {
    const json info = directory_.read_json("run.json");
    RunHistory& history = *options_.history;
    if (is_root()) {
        const std::vector<int64_t> steps = checkpointer_.store().steps();
        history.open({.directory = directory_.path(),
                      .parent = options_.parent,
                      .newest = steps.empty() ? 0 : steps.back(),
                      .max_restarts = config_.train.max_restarts,
                      .ranks = grid_.world.size()});
    }
    checkpointer_.take_over();
    if (is_root()) history.begin(checkpointer_.generation());
    double bytes = 0;
    for (const Tensor& buffer : state_buffers()) bytes += static_cast<double>(buffer.bytes());
    limit_.expect_save(bytes / kSlowDisk);
    if (!directory_.existed()) return;
    const bool found = load_newest();
    finished_ = found && info.is_object() && info.value("status", "") == "done" && state_.step >= max_steps_;
    if (is_root()) finished_ ? history.found_done() : history.resumed(state_.step);
    if (finished_) return;
    log_.line("resume: step {} of {}{}, {}", state_.step, max_steps_, found ? "" : " (no checkpoint)",
              history.describe());
    directory_.truncate_after(found ? state_.step : -1);
}

bool Trainer::load_newest() {
    replica_.await_parameters();
    const std::vector<Tensor> buffers = state_buffers();
    const HostCopies host(buffers, exec_);
    const std::optional<TrainingState> saved =
        checkpointer_.load_newest(held_parts(host.tensors, Use::kLoad),
                                  [&](const std::string& why) { log_.line("resume: passed over {}", why); });
    if (!saved) return false;
    // Where one is not known there is nothing to compare: ids in shards have their hash below.
    if (!saved->tokenizer_hash.empty() && !state_.tokenizer_hash.empty() &&
        saved->tokenizer_hash != state_.tokenizer_hash)
        fail_input(
            "step {} was trained with tokenizer {}, the data here has {}: ids would stand for other text; restore the "
            "tokenizer, or start again with --fresh",
            saved->step, saved->tokenizer_hash, state_.tokenizer_hash);
    if (saved->data_hash != state_.data_hash)
        fail_input(
            "step {} was trained on data with hash {}, the data here has {}; restore the data, or start again with "
            "--fresh",
            saved->step, saved->data_hash, state_.data_hash);
    if (device_.is_gpu())
        for (size_t b = 0; b < buffers.size(); ++b) copy_tensor(buffers[b], host.tensors[b], exec_);
    const std::string config = state_.config, tokenizer_hash = state_.tokenizer_hash;
    state_ = *saved;
    state_.config = config;
    if (!tokenizer_hash.empty()) state_.tokenizer_hash = tokenizer_hash;
    last_saved_ = state_.step;
    if (const json extra = json::parse(state_.extra, nullptr, false); extra.contains("health"))
        health_.restore(extra["health"]);
    return true;
}

void Trainer::keep_if_best() {
    std::array<double, 2> best{state_.best_loss, static_cast<double>(state_.best_step)};
    grid_.world.broadcast(std::as_writable_bytes(std::span(best)), 0);
    state_.best_loss = best[0];
    state_.best_step = static_cast<int64_t>(best[1]);
    if (state_.best_step == state_.step) save();
}

void Trainer::report_save(const std::optional<SaveOutcome>& outcome) {
    if (!outcome) return;
    limit_.took_save(outcome->seconds);
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
    directory_.flush_lines();  // a resume goes on behind them
    replica_.await_parameters();
    TrainingState state = state_;
    state.seconds = elapsed();
    state.extra = json{{"health", health_.state()}}.dump();
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
