#include "model/flops.h"

#include <algorithm>

namespace plimsoll {

double flops_per_token(const NetworkConfig& config) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden();
    const int64_t T = model.context;
    double weights = static_cast<double>(config.total_vocab() * C);
    double attention = 0;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        weights += static_cast<double>((NH + 2 * NKV) * HS * C + C * NH * HS);
        if (F) weights += static_cast<double>((inputs_per_output(model.activation_kind()) + 1) * F * C);
        const std::string& gate = config.attention.gate_at(layer);
        if (gate != "none") weights += static_cast<double>((gate == "headwise" ? NH : NH * HS) * C);
        const AttentionSpec spec = config.attention.spec(layer, model);
        double visible = 0;
        for (int64_t i = 0; i < T; ++i) {
            const int64_t outside = spec.window ? std::max<int64_t>(0, i + 1 - spec.window) : 0;
            visible += static_cast<double>(i + 1 - outside + std::min(spec.pinned, outside));
        }
        attention += 4.0 * static_cast<double>(NH * HS) * visible / static_cast<double>(T);
    }
    return 3 * (2 * weights + attention);
}

}  // namespace plimsoll
