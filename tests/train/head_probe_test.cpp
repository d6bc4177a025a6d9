// The weights that probes measure are those by which attention weighed: with a virtual key too.
#include "train/head_probe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/named_networks.h"

namespace plimsoll {
namespace {

// out_i = g_i (sum_j p_ij v_j + (1 - sum_j p_ij) v*), whatever the window: what is left of a row is the virtual key's.
TEST(HeadWeights, LeaveTheVirtualKeyItsShare) {
    for (const char* column : {"key", "key_value"}) {
        NetworkConfig c = tiny_llama();
        c.attention.extra_column = {column}, c.attention.window = {3}, c.attention.gate = {"headwise"};
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
                const HeadWeights weights(block, c, h, begin, n);
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

// With differential attention heads are score maps: both halves of a map's values are weighed by its weights.
TEST(HeadWeights, AreThoseOfScoreMaps) {
    for (const char* kind : {"v1", "v2"}) {
        NetworkConfig c = tiny_llama();
        c.model.heads = 8, c.model.kv_heads = 4, c.attention.differential = kind;
        const TinyBatch batch(c, 1);
        TinyModel run(c, batch.n(), DType::kF64);
        run.loss(batch);
        const Block block = run.model.block(run.core, batch.input(), 1, run.exec);
        const AttentionTensors t = block.core_tensors();
        const int64_t HS = c.model.head_channels(), group = 2, halves = kind == std::string("v1") ? 2 : 1;
        for (int64_t h = 0; h < c.model.heads; ++h) {
            const HeadWeights weights(block, c, h, 0, batch.n());
            for (int64_t half = 0; half < halves; ++half) {
                const int64_t key = h / group * halves + half, query = key * group + h % group;
                for (int64_t i = 0; i < batch.n(); ++i)
                    for (int64_t x = 0; x < HS; ++x) {
                        double wanted = 0;
                        for (int64_t j = 0; j <= i; ++j)
                            wanted += weights.weight(i, j) * t.v.ptr<double>()[j * t.v.row_stride + key * HS + x];
                        EXPECT_NEAR(t.out.ptr<double>()[i * t.out.row_stride + query * HS + x], wanted, 1e-13);
                    }
            }
        }
        const std::vector<HeadMeasurement> measured =
            LayerProbe(block, run.model, 1, {}, batch.input(), run.exec).measure(run.exec);
        ASSERT_EQ(measured.size(), 8u);
        for (const HeadMeasurement& m : measured)
            for (const auto& [name, value] : m.values) EXPECT_TRUE(std::isfinite(value)) << kind << " " << name;
    }
}

}  // namespace
}  // namespace plimsoll
