// Updates of a small network's parameters, each with a rate and a scale of its own, as a run submits them.
#pragma once

#include "kernels/replay.h"
#include "support/kernel_test.h"
#include "support/tiny_network.h"
#include "train/optimizer.h"

namespace plimsoll {

inline OptimizerSection optimizer_of_kind(const std::string& kind) {
    OptimizerSection section;
    section.kind = kind, section.rounding = "stochastic", section.weight_decay = 0.1;
    return section;
}

class NetworkUpdates {
  public:
    NetworkUpdates(const OptimizerSection& section, const Exec& exec)
        : exec_(exec),
          model_(tiny_llama(), StageRange::whole(tiny_llama().model), tiny_llama().model.context, {DType::kBF16}),
          optimizer_(section, model_.table(), model_.precision(), {{0, model_.table().buffer_elements()}}, 5) {
        model_.allocate(exec.device), optimizer_.allocate(exec.device);
        initialize(model_.parameters(), model_.table(), 3, exec);
        start_ = parameters();
    }

    // One update by gradients that are the same on every device. Recorded, from the second one on, where exec records.
    void step(int64_t step, double lr, double gradient_scale, bool recorded) {
        std::vector<float> gradients = normals<float>(model_.gradients().elements(), "gradient" + std::to_string(step));
        copy_tensor(model_.gradients(), view(gradients, model_.gradients().shape), exec_);
        optimizer_.begin_step(lr, gradient_scale, step, exec_);
        const auto update = [this] { optimizer_.update(model_, exec_); };
        recorded ? replay_.run(exec_, update) : update();
    }

    const std::vector<float>& start() const { return start_; }
    std::vector<float> parameters() const { return copy<float>(model_.parameters()); }
    std::vector<bf16> working() const { return copy<bf16>(model_.working()); }
    const Replay& replay() const { return replay_; }

  private:
    template <class T>
    std::vector<T> copy(Tensor from) const {
        std::vector<T> values(static_cast<size_t>(from.elements()));
        copy_tensor(view(values, from.shape), from, exec_);
        return values;
    }

    Exec exec_;
    Transformer model_;
    Optimizer optimizer_;
    Replay replay_;
    std::vector<float> start_;
};

}  // namespace plimsoll
