// A whole training step on the device against the CPU in fp32: the loss, and every parameter's gradient.
#include <gtest/gtest.h>

#include <cmath>

#include "support/cuda_test.h"
#include "support/tiny_network.h"

namespace plimsoll {
namespace {

NetworkConfig small_network(const std::string& variant) {
    NetworkConfig c;
    c.model.layers = 4, c.model.channels = 128, c.model.heads = 4, c.model.kv_heads = 2, c.model.ffn = 256;
    c.model.context = 64, c.model.tied = false;
    c.vocab = 67;
    if (variant == "sigmoid") c.attention.weighting = {"sigmoid"};
    if (variant == "gated") c.attention.gate = {"elementwise"};
    if (variant == "gated_headwise") c.attention.gate = {"headwise"};
    if (variant == "placeholder") c.attention.placeholders = 1;
    if (variant == "learned_sink") c.attention.extra_column = {"learned"}, c.model.qk_norm = false;
    if (variant == "kv_bias") {
        c.attention.extra_column = {"key", "key_value"}, c.attention.gate = {"headwise"}, c.attention.value_bias = true;
        c.attention.window = {0, 20};
    }
    if (variant == "value_key_bias") {
        c.attention.key_bias = "value", c.attention.value_temperature = {"token", "none"};
        c.attention.weighting = {"softmax", "sigmoid"}, c.attention.gate_value = {"none", "headwise"};
        c.attention.window = {0, 20}, c.attention.extra_column = {"key_value", "none"};
    }
    if (variant == "differential_v1" || variant == "differential_v2") c.attention.differential = variant.substr(13);
    if (variant == "map_elu1") c.attention.feature_map = "elu1";
    if (variant == "map_mlp") c.attention.feature_map = "mlp", c.attention.weighting = {"sigmoid", "softmax"};
    if (variant == "gates") {
        c.attention.gate = {"shared", "constant_headwise"}, c.attention.gate_value = {"elementwise", "headwise"};
        c.attention.gate_key = {"constant_elementwise", "none"}, c.attention.gate_query = {"none", "headwise"};
        c.attention.gate_projection = {"elementwise", "headwise"}, c.attention.gate_bias = true;
    }
    if (variant == "gates_of_values") {
        c.attention.gate = {"headwise", "elementwise"}, c.attention.gate_value = {"elementwise", "headwise"};
        c.attention.gate_input = "value";
    }
    if (variant == "bos_decorrelation") c.loss.bos_decorrelation = 2;
    if (variant == "head_mixture") c.attention.gate = {"headwise"}, c.attention.gate_function = "softmax";
    if (variant == "scales") {
        c.attention.query_temperature = {"both", "token"}, c.attention.value_temperature = {"position"};
        c.attention.post_norm = true, c.attention.layer_scale = 0.5;
    }
    if (variant == "qk_sources") c.attention.qk_source = {"embedding", "position"};
    if (variant == "merged_qk") {
        c.model.kv_heads = 4, c.attention.query_key = "merged", c.attention.qk_source = {"input", "embedding"};
    }
    if (variant == "symmetric_qk") {
        c.model.kv_heads = 4, c.attention.query_key = "symmetric", c.attention.qk_source = {"input", "position"};
    }
    if (variant == "gpt2") {
        c.model.kv_heads = 4, c.model.activation = "gelu", c.model.norm = "layer", c.model.position = "learned";
        c.model.bias = true, c.model.tied = true, c.model.qk_norm = false;
    }
    return c;
}

class CudaModel : public testing::TestWithParam<std::string> {};

// bf16 operands have 2^-9 relative error; through four blocks and back a gradient keeps 2 % in the L2 norm. Not where a
// unit of a ReLU on queries and keys flips, or outputs of maps are subtracted: the CPU in bf16 is off by up to 9 %
// there.
TEST_P(CudaModel, StepMatchesTheCpuInFp32) {
    const NetworkConfig config = small_network(GetParam());
    TinyBatch batch(config, 1);
    if (config.attention.placeholders) batch.tokens[0] = static_cast<int32_t>(config.vocab), batch.targets[0] = -1;
    TinyModel cpu(config, batch.n(), DType::kF32);
    const double wanted = cpu.run(batch);

    Transformer gpu(config, StageRange::whole(config.model), batch.n(), Precision{DType::kBF16});
    gpu.allocate(Device::kCuda);
    initialize(gpu.parameters(), gpu.table(), 3, on_gpu());
    gpu.refresh_working(on_gpu());
    const OnDevice<int32_t> tokens(batch.tokens), targets(batch.targets), positions(batch.positions),
        documents(batch.cu_seqlens);
    const ModelInput input{tokens.span(), targets.span(), positions.span(), documents.span()};
    LocalCoreAttention core;
    std::vector<float> gradients(static_cast<size_t>(gpu.gradients().elements())), first;
    for (int seed = 1; seed <= 2; ++seed) {
        set_schedule(seed);
        gpu.forward(core, input, Write::kOverwrite, on_gpu());
        const LossSums loss = gpu.loss(on_gpu());
        EXPECT_NEAR(loss.nll + loss.z, wanted, 1e-2 * wanted);
        gpu.backward(
            core, input, Write::kOverwrite, [](int64_t) {}, on_gpu());
        copy_tensor(view(gradients, gpu.gradients().shape), gpu.gradients(), on_gpu());
        for (const std::string& report : device_reports()) ADD_FAILURE() << report;
        if (seed == 1) first = gradients;
    }
    EXPECT_TRUE(same_bits(first, gradients)) << "another schedule gives other bits";

    const double tolerance = GetParam() == "map_mlp" || GetParam() == "differential_v1" ? 1e-1 : 2e-2;
    const std::span<const float> exact = cpu.model.gradients().span<float>();
    for (const Parameter& p : gpu.table().entries()) {
        double difference = 0, size = 0;
        for (int64_t i = p.offset; i < p.offset + p.shape.elements(); ++i) {
            const auto at = static_cast<size_t>(i);
            difference += std::pow(gradients[at] - exact[at], 2), size += std::pow(exact[at], 2);
        }
        // Temperatures and one bias for a whole row get sums over tokens, heads and channels that cancel: measured up
        // to 2.3 % of a weight's gradient and 2e-4 of a few numbers', where gradients are of order 0.1 to 10.
        const bool cancels = p.name.find("temperature") != std::string::npos || p.shape == Shape{1};
        EXPECT_LE(std::sqrt(difference),
                  (cancels ? std::max(4e-2, tolerance) : tolerance) * std::sqrt(size) + (cancels ? 4e-4 : 1e-7))
            << p.name;
    }
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaModel,
                         testing::Values("softmax", "sigmoid", "gated", "gated_headwise", "placeholder", "learned_sink",
                                         "kv_bias", "value_key_bias", "map_elu1", "map_mlp", "gates", "gates_of_values",
                                         "head_mixture", "bos_decorrelation", "scales", "differential_v1",
                                         "differential_v2", "qk_sources", "merged_qk", "symmetric_qk", "gpt2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace plimsoll
