#include "model/flops.h"

#include <numeric>

#include "kernels/attention/mask.h"
#include "model/layer_parts.h"
#include "model/qkv_map.h"

namespace plimsoll {

double block_flops_per_token(const NetworkConfig& config, int64_t layer) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, HS = model.head_channels(), F = model.hidden(),
                  T = model.context;
    const LayerParts parts(config, layer);
    const std::vector<int64_t> maps = QkvMap(config).rows();
    int64_t weights = std::accumulate(maps.begin(), maps.end(), int64_t{0}) * C + C * parts.output_heads(NH) * HS;
    if (F) weights += (inputs_per_output(model.activation_kind()) + 1) * F * C;
    for (const ParameterSpec& p : parts.parameters())
        if (p.matrix) weights += p.uses * p.shape.elements();
    double visible = 0;
    const Mask mask(config.attention.spec(layer, model));
    for (int64_t i = 0; i < T; ++i) visible += static_cast<double>(mask.visible_keys(i, T));
    const auto core = config.attention.core_sizes(model);
    const double attention =
        2.0 * static_cast<double>(core.NH * (core.HS + core.VS)) * visible / static_cast<double>(T);
    // Vectors of positions have no gradient.
    const bool fixed = config.attention.qk_source_at(layer) == QkSource::kPosition;
    const double unneeded = fixed ? 2 * static_cast<double>((maps[0] + (maps.size() > 2 ? maps[1] : 0)) * C) : 0;
    return 3 * (2 * static_cast<double>(weights) + attention) - unneeded;
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
