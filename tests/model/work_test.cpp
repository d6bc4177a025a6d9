// What the ops of a step work together, beside what the model's formula says.
#include <gtest/gtest.h>

#include "kernels/op_work.h"
#include "kernels/trace.h"
#include "model/flops.h"
#include "model/qkv_map.h"
#include "support/named_networks.h"

namespace plimsoll {
namespace {

class WorkSum final : public Tracer {
  public:
    OpWork all;
    void begin(const char*, int64_t) override {}
    void end() override {}
    bool counts_work() const override { return true; }
    void work(const OpWork& work) override { all += work; }
};

OpWork work_of_a_step(const NetworkConfig& config, DType compute) {
    const TinyBatch batch = batch_of(config, 2, false);
    TinyModel run(config, batch.n(), compute);
    WorkSum sum;
    run.exec.tracer = &sum;
    run.run(batch);
    return sum.all;
}

class WorkTest : public testing::TestWithParam<Named> {};

// Products of W_Q that symmetric queries and keys have in backward and not in the formula: the gradients of both pass
// it one after the other. Vectors of positions have none.
double of_symmetric_keys(const NetworkConfig& config) {
    if (config.attention.query_key != "symmetric") return 0;
    double products = 0;
    for (int64_t layer = 0; layer < config.model.layers; ++layer)
        products += config.attention.qk_source_at(layer) == QkSource::kPosition ? 1 : 2;
    return products * 2 * static_cast<double>(QkvMap(config).rows()[0] * config.model.channels);
}

// 6 per weight and token and 12 HS per pair, and 2 HS more for the scores that backward makes again.
TEST_P(WorkTest, ProductsOfAStepAreTheModelsFormula) {
    const NetworkConfig& config = GetParam().config;
    const ModelConfig& model = config.model;
    double again = 0;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const Mask mask(config.attention.spec(layer, model));
        again += 2 * static_cast<double>(model.heads * model.head_channels()) *
                 op_work::visible_pairs(mask, 0, model.context, model.context);
    }
    const double rows = 2, tokens = rows * static_cast<double>(model.context);
    EXPECT_DOUBLE_EQ(work_of_a_step(config, DType::kF32).products,
                     (flops_per_token(config) + of_symmetric_keys(config)) * tokens + rows * again);
}

INSTANTIATE_TEST_SUITE_P(Networks, WorkTest, testing::ValuesIn(networks()),
                         [](const auto& info) { return info.param.name; });

// By hand: 1 layer, C = 4, 2 heads of 2, F = 8, V = 5, T = 3, tied, 2 rows; no biases.
TEST(Work, OfASmallModelByHand) {
    NetworkConfig config = tiny_gpt2();
    config.model.layers = 1, config.model.channels = 4, config.model.heads = config.model.kv_heads = 2;
    config.model.head_size = 2, config.model.ffn = 8, config.model.context = 3, config.model.bias = false;
    config.vocab = 5;
    const double weights = 3 * 16 + 16 + 2 * 4 * 8 + 5 * 4, tokens = 6, pairs = 2 * 6, channels = 4;
    const OpWork work = work_of_a_step(config, DType::kBF16);
    EXPECT_EQ(work.products, 6 * weights * tokens + (4 + 10) * channels * pairs);
    EXPECT_TRUE(work.bf16);
}

}  // namespace
}  // namespace plimsoll
