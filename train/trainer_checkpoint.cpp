// What a run keeps on disk to go on from: saving it, and finding it again.
#include <nlohmann/json.hpp>

#include "kernels/gpu.h"
#include "train/timing.h"
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
    std::vector<Tensor> buffers{replica_.chunks().front()->model.parameters()};
    for (const auto& [name, buffer] : replica_.chunks().front()->optimizer.state()) buffers.push_back(buffer);
    return buffers;
}

std::vector<CheckpointTensor> Trainer::checkpoint_tensors(const std::vector<Tensor>& buffers) const {
    std::vector<std::string> names{"parameters"};
    for (const auto& [name, buffer] : replica_.chunks().front()->optimizer.state()) names.push_back(name);
    std::vector<CheckpointTensor> tensors;
    for (size_t b = 0; b < buffers.size(); ++b)
        for (size_t i = 0; i < replica_.chunks().front()->model.table().entries().size(); ++i)
            tensors.push_back({names[b] + "/" + replica_.chunks().front()->model.table().entries()[i].name,
                               replica_.chunks().front()->model.table().view(buffers[b], static_cast<int>(i))});
    return tensors;
}

void Trainer::resume_from_checkpoint() {
    const json info = directory_.read_json("run.json");
    const std::vector<int64_t> steps = checkpointer_.steps();
    for (size_t i = steps.size(); i-- > 0;) {
        try {
            const TrainingState saved = checkpointer_.read_state(steps[i]);
            const std::vector<Tensor> buffers = state_buffers();
            const HostCopies host(buffers, exec_);
            checkpointer_.load(steps[i], checkpoint_tensors(host.tensors));
            if (device_.is_gpu())
                for (size_t b = 0; b < buffers.size(); ++b) copy_tensor(buffers[b], host.tensors[b], exec_);
            if (saved.data_hash != state_.data_hash)
                throw Error(ExitCode::kBadInput,
                            fmt::format("step {} was trained on data with hash {}, the data here has {}; "
                                        "restore the data, or start again with --fresh",
                                        saved.step, saved.data_hash, state_.data_hash));
            const std::string config = state_.config;
            state_ = saved;
            state_.config = config;
            finished_ = info.is_object() && info.value("status", "") == "done" && state_.step >= max_steps_;
            if (!finished_) {
                log_.line("resume: step {} of {}", state_.step, max_steps_);
                for (const char* name : {"metrics.jsonl", "evals.jsonl", "probes.jsonl"})
                    directory_.truncate_after(name, state_.step);
            }
            return;
        } catch (const Error& error) {
            if (std::string_view(error.what()).find("was trained on data") != std::string_view::npos) throw;
            log_.line("resume: {}", error.what());
        }
    }
    if (!steps.empty())
        fail_input("'{}' holds {} checkpoints, none of them whole; --fresh starts again from nothing",
                   directory_.file("checkpoints"), steps.size());
    for (const char* name : {"metrics.jsonl", "evals.jsonl", "probes.jsonl"}) directory_.truncate_after(name, -1);
}

void Trainer::save() {
    if (last_saved_ == state_.step || !is_root()) return;
    last_saved_ = state_.step;
    TrainingState state = state_;
    state.seconds = elapsed();
    const double start = now_seconds();
    const HostCopies host(state_buffers(), exec_);
    const std::string folder = checkpointer_.save(state, checkpoint_tensors(host.tensors), config_.train.keep);
    log_.line("saved {} in {:.1f} s", folder, now_seconds() - start);
}

}  // namespace plimsoll
