#include "model/parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/flops.h"
#include "support/tiny_network.h"

namespace plimsoll {
namespace {

int64_t parameters(const NetworkConfig& config) {
    return ParameterTable(config, StageRange::whole(config.model)).count();
}

NetworkConfig bigram_backcopy(int64_t layers) {
    NetworkConfig c;
    c.model.layers = layers, c.model.channels = 256, c.model.heads = 1, c.model.ffn = 1024, c.model.context = 256;
    c.model.activation = "relu", c.model.norm = "layer", c.model.position = "learned", c.model.tied = false;
    c.model.qk_norm = false, c.model.init = "pytorch";
    c.vocab = 67;
    return c;
}

TEST(Parameters, CountsArePublishedOnes) {
    NetworkConfig gpt2;
    gpt2.model.layers = 12, gpt2.model.channels = 768, gpt2.model.heads = 12, gpt2.model.context = 1024;
    gpt2.model.activation = "gelu", gpt2.model.norm = "layer", gpt2.model.position = "learned", gpt2.model.bias = true;
    gpt2.model.qk_norm = false;
    gpt2.vocab = 50257;
    EXPECT_EQ(parameters(gpt2), 124'439'808);              // GPT-2 small, as released
    EXPECT_EQ(parameters(bigram_backcopy(1)), 887'808);    // arXiv:2410.13835, one layer
    EXPECT_EQ(parameters(bigram_backcopy(3)), 2'462'720);  // three
}

TEST(Parameters, VariantsShareTheirInitialWeightsBitForBit) {
    const NetworkConfig base = tiny_gpt2();
    TinyModel control(base, 11, DType::kF32);
    const std::vector<std::pair<const char*, std::function<void(NetworkConfig&)>>> variants{
        {"sigmoid", [](NetworkConfig& c) { c.attention.weighting = {"sigmoid"}; }},
        {"gated", [](NetworkConfig& c) { c.attention.gate = {"elementwise"}; }},
        {"sink logit", [](NetworkConfig& c) { c.attention.extra_column = {"learned"}; }},
        {"placeholders", [](NetworkConfig& c) { c.attention.placeholders = 3; }}};
    for (const auto& [name, change] : variants) {
        NetworkConfig config = base;
        change(config);
        TinyModel variant(config, 11, DType::kF32);
        for (size_t i = 0; i < control.model.table().entries().size(); ++i) {
            const std::string& parameter = control.model.table().entries()[i].name;
            const int other = variant.model.table().find(parameter);
            ASSERT_GE(other, 0) << name << " lacks " << parameter;
            const Tensor a = control.model.table().view(control.model.parameters(), static_cast<int>(i));
            const Tensor b = variant.model.table().view(variant.model.parameters(), other);
            ASSERT_LE(a.elements(), b.elements());  // placeholders add rows at the end
            for (int64_t n = 0; n < a.elements(); ++n)
                ASSERT_EQ(a.ptr<float>()[n], b.ptr<float>()[n]) << name << " " << parameter << "[" << n << "]";
        }
    }
}

// Standard deviation of a parameter; 3 % of it is 4 standard errors at 10,000 elements.
double deviation(const TinyModel& run, const char* name) {
    const Tensor t = run.model.table().view(run.model.parameters(), run.model.table().find(name));
    double squares = 0;
    for (const float v : t.span<float>()) squares += static_cast<double>(v) * static_cast<double>(v);
    return std::sqrt(squares / static_cast<double>(t.elements()));
}

TEST(Parameters, StartWithTheConfiguredSpread) {
    NetworkConfig c = bigram_backcopy(2);
    c.model.init = "normal", c.model.init_std = 0.02;
    TinyModel normal(c, 256, DType::kF32);
    EXPECT_NEAR(deviation(normal, "blocks.0.attn.qkv.weight"), 0.02, 0.0006);
    EXPECT_NEAR(deviation(normal, "blocks.1.mlp.down.weight"), 0.02 / std::sqrt(4.0), 0.0003);
    EXPECT_EQ(deviation(normal, "blocks.0.norm1.gain"), 1.0);
    EXPECT_EQ(deviation(normal, "blocks.0.norm1.bias"), 0.0);
    TinyModel pytorch(bigram_backcopy(1), 256, DType::kF32);
    EXPECT_NEAR(deviation(pytorch, "wte.weight"), 1.0, 0.03);
    EXPECT_NEAR(deviation(pytorch, "blocks.0.mlp.up.weight"), 1 / 16.0 / std::sqrt(3.0), 0.001);  // U(+-1/sqrt(256))
    const Tensor up =
        pytorch.model.table().view(pytorch.model.parameters(), pytorch.model.table().find("blocks.0.mlp.up.weight"));
    for (const float v : up.span<float>()) ASSERT_LE(std::abs(v), 1 / 16.0f);
}

TEST(Parameters, StagesPartitionTheNetwork) {
    const NetworkConfig c = tiny_llama();
    const ParameterTable first(c, {0, 1, true, false}), last(c, {1, 2, false, true});
    EXPECT_EQ(first.count() + last.count(), parameters(c));
    EXPECT_EQ(first.find("lm_head.weight"), -1);
    EXPECT_EQ(last.find("wte.weight"), -1);
    EXPECT_GE(last.find("blocks.1.attn.qkv.weight"), 0);
}

TEST(Config, ImpossibleSizesAreRefusedByName) {
    const auto message = [](auto&& change) -> std::string {
        NetworkConfig c = tiny_llama();
        change(c);
        try {
            c.validate();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kBadInput);
            return error.what();
        }
        return "accepted";
    };
    using C = NetworkConfig;
    EXPECT_NE(message([](C& c) { c.model.head_size = 0, c.model.heads = 4; }).find("model.channels is 18"),
              std::string::npos);
    EXPECT_NE(message([](C& c) { c.model.kv_heads = 2; }).find("model.kv_heads"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.model.head_size = 5; }).find("even head size"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.model.head_size = 300; }).find("model.head_size"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.model.context = 1; }).find("model.context"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.attention.placeholders = 10; }).find("attention.placeholders"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.attention.weighting = {"softmix"}; }).find("softmax"), std::string::npos);
    EXPECT_NE(message([](C& c) { c.attention.gate = {"g9"}; }).find("attention.gate"), std::string::npos);
    EXPECT_NE(message([](C& c) {
                  c.attention.weighting = {"sigmoid"}, c.attention.extra_column = {"learned"};
              }).find("extra_column"),
              std::string::npos);
    EXPECT_NE(message([](C& c) { c.model.layers = -1; }).find("model.layers"), std::string::npos);
    EXPECT_EQ(message([](C&) {}), "accepted");
}

TEST(Config, ListsRepeatOverLayers) {
    NetworkConfig c = tiny_llama();
    c.attention.weighting = {"sigmoid", "softmax"}, c.attention.window = {0, 3};
    EXPECT_EQ(c.attention.spec(2, c.model).weighting, Weighting::kSigmoid);
    EXPECT_EQ(c.attention.spec(3, c.model).weighting, Weighting::kSoftmax);
    EXPECT_EQ(c.attention.spec(3, c.model).window, 3);
    EXPECT_NEAR(c.attention.spec(0, c.model).score_bias, -std::log(11.0), 1e-15);
    EXPECT_NEAR(c.attention.spec(0, c.model).scale, 1 / std::sqrt(6.0), 1e-15);
}

TEST(Flops, CountProductsAndVisibleKeys) {
    NetworkConfig c = tiny_llama();
    // Per layer: qkv (3 + 2) * 6 * 18, out 18 * 18, up 2 * 14 * 18, down 14 * 18; head 13 * 18; keys seen: (11 + 1)
    // / 2.
    const double weights = 2.0 * (30 * 18 + 18 * 18 + 28 * 18 + 14 * 18) + 13 * 18, attention = 2.0 * 4 * 18 * 6;
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + attention), 1e-6);
    c.attention.window = {1};
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + 2.0 * 4 * 18), 1e-6);
}

}  // namespace
}  // namespace plimsoll
