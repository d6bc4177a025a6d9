// The weights that probes measure are those by which attention weighed: with a virtual key too.
#include "train/head_probe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "support/named_networks.h"

namespace plimsoll {
namespace {

// out_i = g_i (sum_j p_ij v_j + (1 - sum_j p_ij) v*), whatever the window: what is left of a row is the virtual key's.
TEST(HeadWeights, LeaveTheVirtualKeyItsShare) {
    for (const auto& [column, key_bias] : {std::pair{"key", "none"}, {"key_value", "none"}, {"key_value", "value"}}) {
        NetworkConfig c = tiny_llama();
        c.attention.extra_column = {column}, c.attention.window = {3}, c.attention.gate = {"headwise"};
        c.attention.key_bias = key_bias;
        const TinyBatch batch(c, 1, true);
        TinyModel run(c, batch.n(), DType::kF64);
        for (double& p : run.model.parameters().span<double>()) p *= 1.5;
        run.loss(batch);
        for (int64_t layer = 0; layer < c.model.layers; ++layer) {
            const Block block = run.model.block(run.core, batch.input(), layer, run.exec);
            const AttentionTensors t = block.core_tensors();
            const Tensor value = run.model.table().view(
                run.model.parameters(), run.model.table().find(fmt::format("blocks.{}.attn.extra_value", layer)));
            const int64_t NH = c.model.heads, HS = c.model.head_channels(), begin = batch.cu_seqlens[1];
            const int64_t n = batch.cu_seqlens[2] - begin;
            double least = 1;
            for (int64_t h = 0; h < NH; ++h) {
                const HeadWeights weights(block, h, begin, n);
                for (int64_t i = 0; i < n; ++i) {
                    const int64_t row = begin + i;
                    const double g = 1 / (1 + std::exp(-t.gate.ptr<double>()[row * NH + h]));
                    double mass = 0;
                    for (int64_t j = 0; j <= i; ++j) mass += weights.weight(i, j);
                    least = std::min(least, mass);
                    for (int64_t x = 0; x < HS; ++x) {
                        double wanted = value ? (1 - mass) * value.ptr<double>()[h * HS + x] : 0;
                        for (int64_t j = 0; j <= i; ++j)
                            wanted += weights.weight(i, j) * t.v.ptr<double>()[(begin + j) * t.v.row_stride + x];
                        EXPECT_NEAR(t.out.ptr<double>()[(row * NH + h) * HS + x], g * wanted, 1e-13);
                    }
                }
            }
            EXPECT_LT(least, 0.9);  // the virtual key has a share worth testing
        }
    }
}

// A network whose scores are s_ij = -|i - j| / 2 in its first head: queries and keys are 0, ALiBi's first slope of 8 is
// 1/2. By the metrics of that head, in a document of n tokens.
std::map<std::string, double> measured_by_distance(NetworkConfig c, int64_t n) {
    c.model.heads = 8, c.model.kv_heads = 8, c.model.context = n;
    c.model.position = "alibi", c.model.qk_norm = false;
    const TinyBatch batch(c, 1);
    TinyModel run(c, n, DType::kF64);
    const Tensor qkv =
        run.model.table().view(run.model.parameters(), run.model.table().find("blocks.0.attn.qkv.weight"));
    std::fill_n(qkv.ptr<double>(), qkv.elements() * 2 / 3, 0.0);
    run.loss(batch);
    const Block block = run.model.block(run.core, batch.input(), 0, run.exec);
    const std::vector<HeadMeasurement> heads =
        LayerProbe(block, run.model, 0, {}, batch.input(), run.exec).measure(run.exec);
    return {heads[0].values.begin(), heads[0].values.end()};
}

// Five tokens, the first three of which see one another. w = exp(-1/2): rows of weights before their sums are divided
// out, by hand. (Under a causal mask the sink rate would be 100.)
TEST(HeadProbe, MeasuresWhatAPrefixSees) {
    const double w = std::exp(-0.5), w2 = w * w, w3 = w2 * w, w4 = w3 * w;
    const std::vector<std::vector<double>> rows{{1, w, w2}, {w, 1, w}, {w2, w, 1}, {w3, w2, w, 1}, {w4, w3, w2, w, 1}};
    double sink = 0, first = 0, entropy = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
        const double sum = std::accumulate(rows[i].begin(), rows[i].end(), 0.0);
        sink += rows[i][0] / sum / 5;
        if (i == 0) continue;  // it is the first token
        first += rows[i][0] / sum / 4;
        for (const double a : rows[i])
            entropy -= a / sum * std::log(a / sum) / std::log(static_cast<double>(rows[i].size())) / 4;
    }
    ASSERT_LT(sink, 0.3);
    NetworkConfig c = tiny_llama();
    c.attention.prefix = 3;
    std::map<std::string, double> seen = measured_by_distance(c, 5);
    EXPECT_EQ(seen["sink_rate"], 0);
    EXPECT_NEAR(seen["first_mass_raw"], first, 1e-7);  // 1e-8 is added to sums
    EXPECT_NEAR(seen["first_mass_normalized"], first, 1e-7);
    EXPECT_NEAR(seen["first_mass_effective"], first, 1e-7);
    EXPECT_NEAR(seen["row_mass"], 1, 1e-12);
    EXPECT_NEAR(seen["entropy"], entropy, 1e-6);
    EXPECT_EQ(seen["dead_rows"], 0);
    // The fifth query, the only one from min(8, n - 1) on: -2 - mean(-1.5, -1, -0.5).
    EXPECT_NEAR(seen["sink_logit_delta"], -1, 1e-12);
    EXPECT_EQ(seen["logit_max"], 0);
    c.attention.prefix = 0;
    seen = measured_by_distance(c, 5);
    EXPECT_EQ(seen["sink_rate"], 100);
    EXPECT_NEAR(seen["first_mass_raw"],
                (w / (1 + w) + w2 / (1 + w + w2) + w3 / (1 + w + w2 + w3) + w4 / (1 + w + w2 + w3 + w4)) / 4, 1e-12);
}

// Weights that are not normalised, behind a placeholder: its column and that of the first real token, seen by all.
TEST(HeadProbe, MeasuresSigmoidAndPlaceholdersUnderAPrefix) {
    const auto f = [](double distance) { return 1 / (1 + std::exp(distance / 2)); };
    NetworkConfig c = tiny_llama();
    c.attention.weighting = {"sigmoid"}, c.attention.score_bias = "none";
    c.attention.prefix = 3, c.attention.placeholders = 1;
    std::map<std::string, double> seen = measured_by_distance(c, 4);
    // Queries 2 and 3, behind the first real token: they see keys 0 .. 2 and 0 .. 3.
    EXPECT_NEAR(seen["placeholder_mass_raw"], (f(2) + f(3)) / 2, 1e-12);
    EXPECT_NEAR(seen["first_mass_raw"], (f(1) + f(2)) / 2, 1e-12);
    EXPECT_NEAR(seen["row_mass"], (f(2) + f(1) + f(0) + f(3) + f(2) + f(1) + f(0)) / 2, 1e-12);
}

// Keys ahead count among those that the first one's score is compared with.
TEST(HeadProbe, ComparesTheFirstScoreWithKeysAheadToo) {
    NetworkConfig c = tiny_llama();
    c.attention.prefix = 10;
    // Query 8: -4 - mean of -|8 - j| / 2 over 1 .. 7 and 9; query 9: -4.5 - mean over 1 .. 8; query 10 over 1 .. 9.
    const double eighth = -4 + (28.0 + 1) / 2 / 8, ninth = -4.5 + 36.0 / 2 / 8, tenth = -5 + 45.0 / 2 / 9;
    EXPECT_NEAR(measured_by_distance(c, 11)["sink_logit_delta"], (eighth + ninth + tenth) / 3, 1e-12);
}

// With differential attention heads are score maps, with values of one head's width or two.
TEST(HeadWeights, AreThoseOfScoreMaps) {
    for (const char* kind : {"v1", "v2"}) {
        NetworkConfig c = tiny_llama();
        c.model.heads = 8, c.model.kv_heads = 4, c.attention.differential = kind;
        const TinyBatch batch(c, 1);
        TinyModel run(c, batch.n(), DType::kF64);
        run.loss(batch);
        const Block block = run.model.block(run.core, batch.input(), 1, run.exec);
        const AttentionTensors t = block.core_tensors();
        const int64_t VS = c.model.head_channels() * (kind == std::string("v1") ? 2 : 1), group = 2;
        ASSERT_EQ(t.v.shape, (Shape{batch.n(), 4, VS}));
        for (int64_t h = 0; h < c.model.heads; ++h) {
            const HeadWeights weights(block, h, 0, batch.n());
            for (int64_t i = 0; i < batch.n(); ++i)
                for (int64_t x = 0; x < VS; ++x) {
                    double wanted = 0;
                    for (int64_t j = 0; j <= i; ++j)
                        wanted += weights.weight(i, j) * t.v.ptr<double>()[j * t.v.row_stride + h / group * VS + x];
                    EXPECT_NEAR(t.out.ptr<double>()[i * t.out.row_stride + h * VS + x], wanted, 1e-13);
                }
        }
        const std::vector<HeadMeasurement> measured =
            LayerProbe(block, run.model, 1, {}, batch.input(), run.exec).measure(run.exec);
        ASSERT_EQ(measured.size(), 8u);
        const Tensor out =
            run.model.table().view(run.model.parameters(), run.model.table().find("blocks.1.attn.out.weight"));
        for (const HeadMeasurement& m : measured)
            for (const auto& [name, value] : m.values) {
                EXPECT_TRUE(std::isfinite(value)) << kind << " " << name;
                if (name != "wo_value_norm") continue;
                double square = 0;  // the first token's value through the columns of the map's pair
                for (int64_t o = 0; o < c.model.channels; ++o) {
                    double sum = 0;
                    for (int64_t x = 0; x < VS; ++x)
                        sum += out.ptr<double>()[o * out.row_stride + m.head / 2 * VS + x] *
                               t.v.ptr<double>()[m.head / group * VS + x];
                    square += sum * sum;
                }
                EXPECT_NEAR(value, std::sqrt(square), 1e-5 * value) << kind << " map " << m.head;  // in fp32
            }
    }
}

}  // namespace
}  // namespace plimsoll
