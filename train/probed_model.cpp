#include "train/probed_model.h"

#include "train/device.h"

namespace plimsoll {

ProbedModel::ProbedModel(Transformer& trained, int64_t tokens, const Exec& exec)
    : trained_(trained), tokens_(tokens), exec_(exec) {}

void ProbedModel::refresh() {
    if (exec_.device == Device::kCpu) return;
    if (!mirror_) {
        const NetworkConfig& config = trained_.config();
        mirror_ = std::make_unique<Transformer>(config, StageRange::whole(config.model), tokens_, trained_.precision());
        mirror_->allocate();
    }
    copy_tensor(mirror_->parameters(), trained_.parameters(), exec_);
    if (mirror_->working()) copy_tensor(mirror_->working(), trained_.working(), exec_);
}

Transformer& ProbedModel::forward(CoreAttention& core, const ModelInput& input) {
    if (exec_.device == Device::kCpu) {
        trained_.evaluate(core, input, exec_);
        return trained_;
    }
    const DeviceIds tokens(input.tokens, exec_), targets(input.targets, exec_), positions(input.positions, exec_),
        documents(input.cu_seqlens, exec_);
    const ModelInput there{tokens, targets, positions, documents};
    trained_.evaluate(core, there, exec_);
    mirror_->copy_activations(trained_, core, there, exec_);
    return *mirror_;
}

}  // namespace plimsoll
