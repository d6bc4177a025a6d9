// What is refused and how it is said, what kernels get from the lists, and the arithmetic a token costs.
#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/flops.h"
#include "support/tiny_network.h"

namespace plimsoll {
namespace {

// What validate() says about tiny_llama after a change; empty if it is accepted.
template <class Change>
std::string refusal(Change&& change) {
    NetworkConfig config = tiny_llama();
    change(config);
    try {
        config.validate();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBadInput);
        return error.what();
    }
    return "";
}

TEST(Config, ImpossibleSizesAreRefusedByName) {
    using C = NetworkConfig;
    const auto expect = [](const char* part, void (*change)(C&)) {
        EXPECT_NE(refusal(change).find(part), std::string::npos) << part << " is not in: " << refusal(change);
    };
    expect("model.layers is -1", [](C& c) { c.model.layers = -1; });
    expect("model.layers is 1001", [](C& c) { c.model.layers = 1001; });
    expect("model.channels is 0", [](C& c) { c.model.channels = 0; });
    expect("model.channels is 18", [](C& c) { c.model.head_size = 0, c.model.heads = 4; });
    expect("model.heads is 0", [](C& c) { c.model.heads = 0; });
    expect("model.kv_heads is 4", [](C& c) { c.model.kv_heads = 4; });
    expect("model.kv_heads is -1", [](C& c) { c.model.kv_heads = -1; });
    expect("not a multiple of model.kv_heads = 2", [](C& c) { c.model.kv_heads = 2; });
    expect("model.head_size is 300", [](C& c) { c.model.head_size = 300; });
    expect("model.head_size is -2", [](C& c) { c.model.head_size = -2; });
    expect("even head size, got 5", [](C& c) { c.model.head_size = 5; });
    expect("model.ffn is -1", [](C& c) { c.model.ffn = -1; });
    expect("model.context is 1", [](C& c) { c.model.context = 1; });
    expect("model.norm_eps", [](C& c) { c.model.norm_eps = 0; });
    expect("model.rope_theta", [](C& c) { c.model.rope_theta = 0; });
    expect("model.init_std", [](C& c) { c.model.init_std = -1; });
    expect("vocabulary size is 1", [](C& c) { c.vocab = 1; });
    // The list of legal names is part of the message.
    expect("attention.weighting: 'softmix' is no weighting; wanted one of softmax",
           [](C& c) { c.attention.weighting = {"softmix"}; });
    expect("attention.extra_column: 'some'", [](C& c) { c.attention.extra_column = {"some"}; });
    expect("attention.gate: 'g9'", [](C& c) { c.attention.gate = {"none", "g9"}; });
    expect("attention.weighting", [](C& c) { c.attention.weighting.clear(); });
    expect("attention.gate wants at least one", [](C& c) { c.attention.gate.clear(); });
    expect("attention.gate_key wants at least one", [](C& c) { c.attention.gate_key.clear(); });
    expect("attention.gate_value: 'g2'", [](C& c) { c.attention.gate_value = {"g2"}; });
    expect("attention.gate_projection: 'shared'", [](C& c) { c.attention.gate_projection = {"shared"}; });
    expect("attention.gate_key = \"elementwise\" with attention.gate_function = \"softmax\"",
           [](C& c) { c.attention.gate_key = {"elementwise"}, c.attention.gate_function = "softmax"; });
    expect("attention.gate_projection = \"headwise\" with",
           [](C& c) { c.attention.gate_projection = {"headwise"}, c.attention.gate_function = "softmax"; });
    expect("attention.qk_source wants", [](C& c) { c.attention.qk_source.clear(); });
    expect("attention.qk_source: 'tokens' is not legal; wanted one of input, embedding, position", [](C& c) {
        c.attention.qk_source = {"input", "tokens"};
    });
    expect("source's 18 channels (model.channels), but 1 key heads of 6 have 6",
           [](C& c) { c.attention.query_key = "merged"; });
    expect("got model.kv_heads = 1 for model.heads = 3", [](C& c) { c.attention.query_key = "symmetric"; });
    expect("attention.gate_input is \"value\", but no gate is a map of its input",
           [](C& c) { c.attention.gate = {"constant_headwise"}, c.attention.gate_input = "value"; });
    expect("attention.gate_start is 4, but no gate has a bias",
           [](C& c) { c.attention.gate = {"headwise"}, c.attention.gate_start = 4; });
    expect("and extra_column want", [](C& c) { c.attention.extra_column.clear(); });
    expect("attention.window wants", [](C& c) { c.attention.window.clear(); });
    expect("attention.window is -1", [](C& c) { c.attention.window = {4, -1}; });
    expect("attention.pinned is -1", [](C& c) { c.attention.pinned = -1; });
    expect("attention.pattern: 'holes' is not legal; wanted one of causal, dilated, strided, blocked", [](C& c) {
        c.attention.pattern = {"causal", "holes"};
    });
    expect("attention.pattern wants", [](C& c) { c.attention.pattern.clear(); });
    expect("attention.dilation is 0", [](C& c) { c.attention.dilation = 0; });
    expect("attention.prefix is 11, must lie in 0 .. 10", [](C& c) { c.attention.prefix = c.model.context; });
    expect("layer 1 has none, but attention.pattern \"strided\"", [](C& c) {
        c.attention.pattern = {"causal", "strided"}, c.attention.window = {4, 0};
    });
    expect("layer 0 has none, but attention.pattern \"blocked\"", [](C& c) { c.attention.pattern = {"blocked"}; });
    expect("attention.placeholders is 10", [](C& c) { c.attention.placeholders = 10; });  // two positions remain
    expect("loss.z_loss is -1", [](C& c) { c.loss.z_loss = -1; });
    expect("loss.bos_decorrelation is -0.1", [](C& c) { c.loss.bos_decorrelation = -0.1; });
    expect("loss.logits_mib is -1", [](C& c) { c.loss.logits_mib = -1; });
}

TEST(Config, ExtraColumnsWantAWeightingThatNormalises) {
    using C = NetworkConfig;
    EXPECT_NE(refusal([](C& c) {
                  c.attention.weighting = {"softmax", "sigmoid"}, c.attention.extra_column = {"learned"};
              }).find("attention.extra_column: layer 1 has weighting 'sigmoid'"),
              std::string::npos);
    EXPECT_EQ(refusal([](C& c) {
                  c.attention.weighting = {"softmax", "sigmoid"}, c.attention.extra_column = {"learned", "none"};
              }),
              "");
}

TEST(Config, VirtualKeysWantSoftmax) {
    using C = NetworkConfig;
    for (const char* column : {"key", "key_value"}) {
        NetworkConfig c = tiny_llama();
        c.attention.extra_column = {"none", column};
        EXPECT_NO_THROW(c.validate());
        EXPECT_EQ(c.attention.extra_column_at(1), column);
        EXPECT_EQ(c.attention.spec(1, c.model).extra_column, ExtraColumn::kNone);  // core attention has no part in it
        c.attention.weighting = {"softmax", "sigmoid"};
        EXPECT_THROW(c.validate(), Error);
    }
}

TEST(Config, DifferentialAttentionWantsPairsAndStandsAlone) {
    using C = NetworkConfig;
    const auto with = [](int64_t heads, int64_t kv_heads, const char* kind, void (*change)(C&)) {
        C c = tiny_llama();
        c.model.heads = heads, c.model.kv_heads = kv_heads, c.attention.differential = kind;
        change(c);
        try {
            c.validate();
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    const auto nothing = [](C&) {};
    EXPECT_EQ(with(4, 2, "v1", nothing), "");
    EXPECT_EQ(with(4, 2, "v2", nothing), "");
    EXPECT_NE(with(3, 1, "v2", nothing).find("even model.heads"), std::string::npos);
    EXPECT_NE(with(4, 1, "v1", nothing).find("even number of key heads"), std::string::npos);
    const auto alibi = [](C& c) { c.model.position = "alibi"; };
    EXPECT_NE(with(4, 2, "v1", alibi).find("two slopes"), std::string::npos);
    EXPECT_EQ(with(4, 2, "v2", alibi), "");
    EXPECT_NE(with(4, 4, "v2", nothing).find("heads per key head"), std::string::npos);
    for (void (*change)(C&) :
         {+[](C& c) {
              c.attention.gate = {"none", "headwise"};
          },
          +[](C& c) { c.attention.extra_column = {"learned"}; }, +[](C& c) { c.attention.value_bias = true; },
          +[](C& c) { c.attention.feature_map = "elu1"; }, +[](C& c) { c.attention.key_bias = "value"; },
          +[](C& c) { c.attention.gate_projection = {"headwise"}, c.attention.gate_input = "value"; }})
        EXPECT_NE(with(4, 2, "v1", change).find("goes without"), std::string::npos);
}

TEST(Config, WhatCanBeBuiltIsAccepted) {
    using C = NetworkConfig;
    EXPECT_EQ(refusal([](C&) {}), "");
    EXPECT_EQ(refusal([](C& c) { c.model.head_size = 5, c.model.position = "alibi"; }), "");  // odd, not rotated
    EXPECT_EQ(refusal([](C& c) { c.attention.placeholders = 9; }), "");
    EXPECT_EQ(refusal([](C& c) { c.vocab = 0; }), "");  // not known before the data is
    EXPECT_EQ(refusal([](C& c) { c.attention.gate = {"constant_headwise"}, c.attention.gate_start = 4; }), "");
    EXPECT_EQ(
        refusal([](C& c) {
            c.attention.gate_query = {"headwise", "none"}, c.attention.gate_bias = true, c.attention.gate_start = 4;
        }),
        "");
    EXPECT_EQ(refusal([](C& c) { c.model.kv_heads = 3, c.attention.query_key = "merged"; }), "");
    EXPECT_EQ(refusal([](C& c) { c.model.head_size = 18, c.attention.query_key = "merged"; }), "");  // one of all
    EXPECT_NO_THROW(tiny_gpt2().validate());
    EXPECT_NO_THROW(NetworkConfig{}.validate());
}

TEST(Config, SizesLeftAtZeroFollowFromOthers) {
    ModelConfig m = tiny_llama().model;
    EXPECT_EQ(m.key_heads(), 1);
    EXPECT_EQ(m.head_channels(), 6);
    EXPECT_EQ(m.hidden(), 14);
    m.kv_heads = m.head_size = m.ffn = 0;
    EXPECT_EQ(m.key_heads(), 3);
    EXPECT_EQ(m.head_channels(), 6);
    EXPECT_EQ(m.hidden(), 72);
    m.activation = "none";
    EXPECT_EQ(m.hidden(), 0);
    m.ffn = 14;
    EXPECT_EQ(m.hidden(), 0);
}

TEST(Config, ListsRepeatOverLayers) {
    NetworkConfig c = tiny_llama();
    c.attention.weighting = {"sigmoid", "softmax"}, c.attention.window = {0, 3, 5};
    c.attention.extra_column = {"none", "learned", "none", "constant"}, c.attention.gate = {"none", "headwise"};
    const Weighting weightings[] = {Weighting::kSigmoid, Weighting::kSoftmax};
    const ExtraColumn columns[] = {ExtraColumn::kNone, ExtraColumn::kLearnedLogit, ExtraColumn::kNone,
                                   ExtraColumn::kConstant};
    const int64_t windows[] = {0, 3, 5};
    for (int64_t layer = 0; layer < 12; ++layer) {
        const AttentionSpec spec = c.attention.spec(layer, c.model);
        EXPECT_EQ(spec.weighting, weightings[layer % 2]) << layer;
        EXPECT_EQ(spec.extra_column, columns[layer % 4]) << layer;
        EXPECT_EQ(spec.window, windows[layer % 3]) << layer;
        EXPECT_EQ(c.attention.gate_at(layer), layer % 2 ? "headwise" : "none") << layer;
        EXPECT_EQ(c.attention.learned_extra_column(layer), layer % 4 == 1) << layer;
    }
}

TEST(Config, ScoreBiasConcernsWeightingsThatDoNotNormalise) {
    NetworkConfig c = tiny_llama();
    c.attention.score_bias_value = -1.5;
    const auto spec = [&](const char* weighting, const char* bias) {
        c.attention.weighting = {weighting}, c.attention.score_bias = bias;
        return c.attention.spec(0, c.model);
    };
    EXPECT_EQ(spec("sigmoid", "none").score_bias, 0);
    EXPECT_EQ(spec("sigmoid", "constant").score_bias, -1.5);
    EXPECT_NEAR(spec("sigmoid", "log_n").score_bias, -std::log(11.0), 1e-15);
    EXPECT_EQ(spec("sigmoid", "per_row").score_bias, 0);
    EXPECT_EQ(spec("sigmoid", "per_row").bias_kind, ScoreBias::kPerRow);
    EXPECT_EQ(spec("sigmoid", "log_n").bias_kind, ScoreBias::kConstant);
    for (const char* bias : {"none", "constant", "log_n", "per_row"}) {
        EXPECT_EQ(spec("softmax", bias).score_bias, 0) << bias;
        EXPECT_EQ(spec("softmax", bias).bias_kind, ScoreBias::kConstant) << bias;
    }
}

TEST(Config, SpecHasTheScaleTheMaskAndTheColumn) {
    NetworkConfig c = tiny_llama();
    c.attention.extra_column = {"constant"}, c.attention.extra_logit = 0.75, c.attention.pinned = 2;
    const AttentionSpec spec = c.attention.spec(0, c.model);
    EXPECT_NEAR(spec.scale, 1 / std::sqrt(6.0), 1e-15);
    EXPECT_EQ(spec.extra_logit, 0.75);
    EXPECT_EQ(spec.pinned, 2);
    EXPECT_FALSE(spec.alibi);
    c.model.position = "alibi", c.model.head_size = 25;
    EXPECT_TRUE(c.attention.spec(0, c.model).alibi);
    EXPECT_NEAR(c.attention.spec(0, c.model).scale, 0.2, 1e-15);
}

TEST(Config, PatternsRepeatOverLayersAndAPrefixOfOneIsNone) {
    NetworkConfig c = tiny_llama();
    c.attention.pattern = {"blocked", "dilated", "strided", "causal"}, c.attention.window = {4};
    c.attention.dilation = 3, c.attention.prefix = 1;
    c.model.layers = 5;
    c.validate();
    const MaskPattern patterns[] = {MaskPattern::kBlocked, MaskPattern::kDilated, MaskPattern::kStrided,
                                    MaskPattern::kCausal};
    for (int64_t layer = 0; layer < 5; ++layer) {
        const AttentionSpec spec = c.attention.spec(layer, c.model);
        EXPECT_EQ(spec.pattern, patterns[layer % 4]) << layer;
        EXPECT_EQ(spec.dilation, layer == 1 ? 3 : 1) << layer;
        EXPECT_EQ(spec.prefix, 0);
    }
    c.attention.prefix = 2;
    EXPECT_EQ(c.attention.spec(0, c.model).prefix, 2);
}

TEST(Flops, CountProductsAndVisibleKeys) {
    NetworkConfig c = tiny_llama();
    // Per layer: qkv (3 + 2) * 6 * 18, out 18 * 18, up 2 * 14 * 18, down 14 * 18; head 13 * 18; keys seen on average:
    // (11 + 1) / 2.
    const double weights = 2.0 * (30 * 18 + 18 * 18 + 28 * 18 + 14 * 18) + 13 * 18, attention = 2.0 * 4 * 18 * 6;
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + attention), 1e-6);
    c.attention.window = {1};
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + 2.0 * 4 * 18), 1e-6);
    // A window of 4 and one pinned token: 1, 2, 3, 4, then seven rows of 5, are 45 keys in 11 rows.
    c.attention.window = {4}, c.attention.pinned = 1;
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + 2.0 * 4 * 18 * 45 / 11), 1e-6);
    // One layer without, one with: 45 keys and 66.
    c.attention.window = {4, 0};
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + 4.0 * 18 * (45 + 66) / 11), 1e-6);
    // Blocks of 4: 10 + 10 + 6 keys; a prefix of 3 adds those ahead of its tokens, 3.
    c.attention.window = {4, 0}, c.attention.pinned = 0, c.attention.pattern = {"blocked", "causal"};
    c.attention.prefix = 3;
    EXPECT_NEAR(flops_per_token(c), 3 * (2 * weights + 4.0 * 18 * (26 + 3 + 66 + 3) / 11), 1e-6);
}

TEST(Flops, CountTheMapsOfQueriesAndKeys) {
    NetworkConfig c = tiny_llama();
    c.model.kv_heads = 3;
    const double base = flops_per_token(c), keys = 18 * 18;
    c.attention.qk_source = {"embedding"};
    EXPECT_NEAR(flops_per_token(c), base, 1e-6);
    c.attention.qk_source = {"position", "input"};  // no gradient of what 18 + 18 rows of one layer read
    EXPECT_NEAR(base - flops_per_token(c), 2 * 2 * keys, 1e-6);
    c.attention.query_key = "merged";  // nor keys' rows, in both layers
    EXPECT_NEAR(base - flops_per_token(c), 2 * keys + 6 * 2 * keys, 1e-6);
    c.attention.qk_source = {"input"}, c.attention.query_key = "symmetric";
    EXPECT_NEAR(base - flops_per_token(c), 6 * 2 * keys, 1e-6);
}

TEST(Flops, CountGatesPlaceholdersAndNoFeedForward) {
    NetworkConfig c = tiny_llama();
    const double base = flops_per_token(c);
    c.attention.gate = {"elementwise", "headwise"};  // 18 and 3 rows of 18
    EXPECT_NEAR(flops_per_token(c) - base, 6.0 * (18 + 3) * 18, 1e-6);
    c.attention.placeholders = 2;  // two more rows of the head; they lie inside the context
    EXPECT_NEAR(flops_per_token(c) - base, 6.0 * ((18 + 3) + 2) * 18, 1e-6);
    c = tiny_llama();
    c.model.activation = "relu";  // one matrix up instead of two, in two layers
    EXPECT_NEAR(base - flops_per_token(c), 6.0 * 2 * 14 * 18, 1e-6);
    c.model.activation = "none";
    EXPECT_NEAR(base - flops_per_token(c), 6.0 * 2 * 3 * 14 * 18, 1e-6);
    c = tiny_llama();
    c.attention.feature_map = "mlp";  // two matrices of 6 x 6, for 3 query heads and 1 key head, in two layers
    EXPECT_NEAR(flops_per_token(c) - base, 6.0 * 2 * 2 * 4 * 36, 1e-6);
    c = tiny_llama();
    c.model.tied = true;  // the head's product is the same, whoever holds its weight
    EXPECT_NEAR(flops_per_token(c), base, 1e-6);
}

}  // namespace
}  // namespace plimsoll
