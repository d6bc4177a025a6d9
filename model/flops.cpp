#include "model/flops.h"

#include <algorithm>

namespace plimsoll {

double block_flops_per_token(const NetworkConfig& config, int64_t layer) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden(), T = model.context;
    int64_t weights = (NH + 2 * NKV) * HS * C + C * NH * HS;
    if (F) weights += (inputs_per_output(model.activation_kind()) + 1) * F * C;
    const std::string& gate = config.attention.gate_at(layer);
    if (gate != "none") weights += (gate == "headwise" ? NH : NH * HS) * C;
    const AttentionSpec spec = config.attention.spec(layer, model);
    double visible = 0;
    for (int64_t i = 0; i < T; ++i) {
        const int64_t outside = spec.window ? std::max<int64_t>(0, i + 1 - spec.window) : 0;
        visible += static_cast<double>(i + 1 - outside + std::min(spec.pinned, outside));
    }
    const double attention = 4.0 * static_cast<double>(NH * HS) * visible / static_cast<double>(T);
    return 3 * (2 * static_cast<double>(weights) + attention);
}

double head_flops_per_token(const NetworkConfig& config) {
    return 3 * 2 * static_cast<double>(config.total_vocab() * config.model.channels);
}

double flops_per_token(const NetworkConfig& config) {
    double flops = head_flops_per_token(config);
    for (int64_t layer = 0; layer < config.model.layers; ++layer) flops += block_flops_per_token(config, layer);
    return flops;
}

}  // namespace plimsoll
