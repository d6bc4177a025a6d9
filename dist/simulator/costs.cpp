#include "dist/simulator/costs.h"

namespace plimsoll {
namespace {

constexpr int64_t kBf16 = 2, kFp32 = 4;

DirectionCosts forward_costs(const ModelShape& model, const ClusterModel& cluster, int64_t tensor) {
    const double gemm = cluster.flops * cluster.gemm_efficiency * static_cast<double>(tensor);
    const double attention = cluster.flops * cluster.attention_efficiency * static_cast<double>(tensor);
    const double others = static_cast<double>(tensor - 1) / static_cast<double>(tensor);
    const double collectives =
        4 * static_cast<double>(model.channels * kBf16) * others / cluster.intra_bandwidth;  // per GPU and token
    return {.token = model.linear_flops() / gemm + collectives,
            .head_token = model.head_flops() / gemm,
            .pair = model.pair_flops() / attention,
            .attention_floor = cluster.attention_floor,
            .copied_byte = 1 / (cluster.copy_bandwidth * static_cast<double>(tensor)),
            // Out: Q, K, V. Back: O and the rows' logarithms of sums.
            .bytes = {.query_out = model.query_channels() * kBf16,
                      .query_back = model.query_channels() * kBf16 + model.heads * kFp32,
                      .key_out = 2 * model.key_channels() * kBf16}};
}

// Backward of what `forward` is the forward of.
DirectionCosts backward_costs(const DirectionCosts& forward, const ModelShape& model, const ClusterModel& cluster,
                              const CostOptions& options) {
    DirectionCosts costs = forward;
    costs.token *= cluster.backward_linear;
    costs.head_token *= cluster.backward_linear;
    costs.pair *= cluster.backward_attention;
    const int64_t query = model.query_channels() * kBf16, keys = 2 * model.key_channels() * kBf16;
    // Out: dO and rowsum(dO O); Q, logarithms of sums, K and V once more. Back: dQ, dK, dV.
    costs.bytes = {.query_out = query + model.heads * kFp32 + (options.resend ? query + model.heads * kFp32 : 0),
                   .query_back = query,
                   .key_out = options.resend ? keys : 0,
                   .key_back = keys / kBf16 * options.gradient_bytes};
    return costs;
}

// Bytes that one token's forward leaves for its backward in one block, without tensor parallelism, everything in bf16:
// the inputs of norms and products. `light` keeps neither the norms' results nor the activation function's.
double activation_bytes(const ModelShape& m, bool light) {
    const int64_t stream = light ? 2 : 4;  // what each half of the block reads, and what its norm makes of it
    const int64_t mlp = light ? 2 : 3;     // gate, up, and their product
    return static_cast<double>(
        kBf16 * (stream * m.channels + 2 * m.query_channels() + 2 * m.key_channels() + mlp * m.ffn) + kFp32 * m.heads);
}

}  // namespace

int64_t ModelShape::block_parameters() const {
    return channels * (2 * query_channels() + 2 * key_channels() + 3 * ffn);
}

int64_t ModelShape::parameters() const {
    return layers * block_parameters() + 2 * channels * vocab;
}

StepCosts step_costs(const ModelShape& model, const ClusterModel& cluster, const ParallelShape& shape,
                     const CostOptions& options) {
    StepCosts costs;
    costs.blocks = model.layers / shape.stages;
    const auto tensor = static_cast<double>(shape.tensor), columns = static_cast<double>(shape.columns);
    costs.forward = forward_costs(model, cluster, shape.tensor);
    costs.backward = backward_costs(costs.forward, model, cluster, options);
    costs.network = {.intra_byte = 1 / (cluster.intra_bandwidth * tensor),
                     .inter_byte = 1 / (cluster.inter_bandwidth * tensor),
                     .latency = cluster.latency,
                     .ranks_per_node = std::max<int64_t>(1, cluster.gpus_per_node / shape.tensor)};
    const bool one_node = cluster.nodes == 1;
    const double bandwidth = one_node ? cluster.intra_bandwidth : cluster.inter_bandwidth;
    costs.message_token = static_cast<double>(model.channels * kBf16) / tensor / bandwidth;

    // The largest share of a stage: the embedding or the head on top of its blocks.
    const double ends = static_cast<double>(model.channels * model.vocab) * (shape.stages == 1 ? 2 : 1);
    const double parameters =
        (static_cast<double>(costs.blocks * model.block_parameters()) + ends) / tensor;  // of one GPU
    // bf16 parameters and fp32 gradients; master copy and two moments are shared out (ZeRO-1).
    costs.memory = {.fixed = parameters * (kBf16 + kFp32 + 3.0 * kFp32 / columns),
                    .token_block = activation_bytes(model, options.light_recompute) / tensor,
                    .key_block = static_cast<double>(2 * model.key_channels() * kBf16) / tensor,
                    .buffer_byte = 1 / tensor};
    const double others = (columns - 1) / columns;
    costs.gradient_reduction = parameters * kFp32 * others / bandwidth;
    costs.parameter_gathering = parameters * kBf16 * others / bandwidth;
    // Gradient, master copy and moments read, the last three and the bf16 parameters written.
    costs.optimizer = parameters / columns * (7.0 * kFp32 + kBf16) / cluster.copy_bandwidth;
    return costs;
}

}  // namespace plimsoll
