#include "model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

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

TEST(Parameters, BothProjectionsIntoTheStreamShrinkWithDepth) {
    NetworkConfig c = bigram_backcopy(8);
    c.model.init = "normal", c.model.init_std = 0.02;
    c.attention.gate = {"elementwise"};
    const ParameterTable table(c, StageRange::whole(c.model));
    for (const Parameter& p : table.entries()) {
        const bool residual = p.name.ends_with("attn.out.weight") || p.name.ends_with("mlp.down.weight");
        if (p.matrix)
            EXPECT_NEAR(p.init.scale, residual ? 0.02 / 4 : 0.02, 1e-15) << p.name;  // sqrt(2 * 8) = 4
        else
            EXPECT_EQ(p.init.scale, 0) << p.name;
    }
}

// nn.Linear: weight and bias uniform in +-1 / sqrt(fan in), whatever the depth; nn.Embedding: N(0, 1).
TEST(Parameters, PyTorchsDefaultsFollowTheFanIn) {
    NetworkConfig c = bigram_backcopy(2);
    c.model.bias = true;
    const ParameterTable table(c, StageRange::whole(c.model));
    const auto expect = [&](const char* name, InitSpec::Kind kind, double scale) {
        const Parameter& p = table.entries().at(static_cast<size_t>(table.find(name)));
        EXPECT_EQ(p.init.kind, kind) << name;
        EXPECT_NEAR(p.init.scale, scale, 1e-15) << name;
    };
    for (const char* name : {"wte.weight", "wpe.weight"}) expect(name, InitSpec::Kind::kNormal, 1);
    for (const char* name : {"blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias", "blocks.1.attn.out.weight",
                             "blocks.1.attn.out.bias", "blocks.1.mlp.up.bias", "lm_head.weight"})
        expect(name, InitSpec::Kind::kUniform, 1 / 16.0);
    for (const char* name : {"blocks.1.mlp.down.weight", "blocks.1.mlp.down.bias"})
        expect(name, InitSpec::Kind::kUniform, 1 / 32.0);  // fan in 1024
    TinyModel run(c, 256, DType::kF32);
    for (size_t i = 0; i < table.entries().size(); ++i) {
        const Parameter& p = table.entries()[i];
        if (p.init.kind != InitSpec::Kind::kUniform) continue;
        double largest = 0, sum = 0;
        const Tensor t = run.model.table().view(run.model.parameters(), static_cast<int>(i));
        for (const float v : t.span<float>())
            largest = std::max(largest, std::abs(static_cast<double>(v))), sum += static_cast<double>(v);
        const auto count = static_cast<double>(t.elements());
        EXPECT_LE(largest, p.init.scale) << p.name;
        EXPECT_GT(largest, p.init.scale * 0.95) << p.name;  // of 256 values: one such set in 5e5 stays below
        // The mean's deviation is scale / sqrt(3 count); four of them.
        EXPECT_LT(std::abs(sum / count), 4 * p.init.scale / std::sqrt(3 * count)) << p.name;
    }
}

TEST(Parameters, InitialValuesDependOnTheSeedAndNotOnThreads) {
    const NetworkConfig c = bigram_backcopy(1);
    const auto start = [&](uint64_t seed, int threads) {
        TinyModel run(c, 256, DType::kF32, threads);
        initialize(run.model.parameters(), run.model.table(), seed, run.exec);
        const std::span<float> values = run.model.parameters().span<float>();
        return std::vector<float>(values.begin(), values.end());
    };
    EXPECT_EQ(start(7, 1), start(7, 3));
    EXPECT_NE(start(7, 1), start(8, 1));
}

TEST(Parameters, LieApartOnCacheLines) {
    NetworkConfig c = tiny_gpt2();
    c.attention.gate = {"headwise"}, c.attention.extra_column = {"learned", "none"};
    c.attention.weighting = {"softmax", "sigmoid"}, c.attention.score_bias = "learned";
    const ParameterTable table(c, StageRange::whole(c.model));
    int64_t end = 0;
    for (const Parameter& p : table.entries()) {
        EXPECT_EQ(p.offset % kParameterAlignment, 0) << p.name;
        EXPECT_GE(p.offset, end) << p.name;
        end = p.offset + p.shape.elements();
        EXPECT_EQ(p.sink, p.name.ends_with("sink_logit") || p.name.ends_with("score_bias")) << p.name;
        EXPECT_EQ(p.matrix, p.name.ends_with(".weight")) << p.name;
    }
    EXPECT_LE(end, table.buffer_elements());
    EXPECT_EQ(table.count_non_embedding(), table.count() - (13 + 11) * 18);
    EXPECT_EQ(table.find("blocks.2.norm1.gain"), -1);
}

// Only where the weighting takes one, and where training without it would start.
TEST(Parameters, ALearnedBiasStartsAtMinusLogN) {
    NetworkConfig c = tiny_llama();
    c.attention.weighting = {"elu1", "relu"}, c.attention.score_bias = "learned", c.model.context = 32;
    TinyModel run(c, 32, DType::kF64);
    EXPECT_EQ(run.model.table().find("blocks.0.attn.score_bias"), -1);
    const int index = run.model.table().find("blocks.1.attn.score_bias");
    ASSERT_GE(index, 0);
    const Tensor bias = run.model.table().view(run.model.parameters(), index);
    EXPECT_EQ(bias.shape, Shape{c.model.heads});
    for (const double b : bias.span<double>()) EXPECT_EQ(b, -std::log(32.0));
}

TEST(Parameters, StagesPartitionTheNetwork) {
    const NetworkConfig c = tiny_llama();
    const ParameterTable first(c, {0, 1, true, false}), last(c, {1, 2, false, true});
    EXPECT_EQ(first.count() + last.count(), parameters(c));
    EXPECT_EQ(first.find("lm_head.weight"), -1);
    EXPECT_EQ(last.find("wte.weight"), -1);
    EXPECT_GE(last.find("blocks.1.attn.qkv.weight"), 0);
}

}  // namespace
}  // namespace plimsoll
