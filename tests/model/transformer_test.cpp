#include "model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/matmul.h"
#include "support/tiny_network.h"

namespace plimsoll {
namespace {

struct Named {
    const char* name;
    NetworkConfig config;
    bool documents = false;
};
void PrintTo(const Named& n, std::ostream* out) {
    *out << n.name;
}

std::vector<Named> networks() {
    std::vector<Named> all{{"llama", tiny_llama()}, {"gpt2", tiny_gpt2()}, {"documents", tiny_llama(), true}};
    const auto add = [&](const char* name, NetworkConfig base, auto&& change) {
        change(base);
        all.push_back({name, base});
    };
    add("gate_elementwise", tiny_llama(), [](NetworkConfig& c) { c.attention.gate = {"elementwise"}; });
    add("gate_headwise", tiny_gpt2(), [](NetworkConfig& c) { c.attention.gate = {"headwise", "none"}; });
    add("sink_logit", tiny_llama(), [](NetworkConfig& c) { c.attention.extra_column = {"learned"}; });
    add("sigmoid_alibi", tiny_llama(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid"}, c.attention.score_bias = "per_row", c.model.position = "alibi";
    });
    add("hybrid_window", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid", "softmax"}, c.attention.window = {3, 0}, c.attention.pinned = 1;
    });
    add("placeholders", tiny_gpt2(), [](NetworkConfig& c) { c.attention.placeholders = 2; });
    add("no_mlp_z_loss", tiny_llama(), [](NetworkConfig& c) { c.model.activation = "none", c.loss.z_loss = 0.01; });
    return all;
}

template <class T>
std::vector<T> copied(Tensor t) {
    const std::span<T> values = t.span<T>();
    return {values.begin(), values.end()};
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

class TransformerTest : public testing::TestWithParam<Named> {};

TEST_P(TransformerTest, GradientsMatchCentralDifferences) {
    const TinyBatch batch(GetParam().config, 2, GetParam().documents);
    TinyModel run(GetParam().config, batch.n(), DType::kF64);
    // Away from zero, so that a sink logit's or a bias's gradient is not a special case.
    std::span<double> parameters = run.model.parameters().span<double>();
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i] += 0.05 * std::sin(static_cast<double>(i));
    run.run(batch);
    const std::vector<double> gradients = copied<double>(run.model.gradients());
    constexpr double kStep = 1e-5;
    for (const Parameter& p : run.model.table().entries()) {
        const int64_t stride = std::max<int64_t>(1, p.shape.elements() / 6);
        for (int64_t i = 0; i < p.shape.elements(); i += stride) {
            double& value = parameters[static_cast<size_t>(p.offset + i)];
            const double kept = value;
            value = kept + kStep;
            const double above = run.loss(batch);
            value = kept - kStep;
            const double below = run.loss(batch);
            value = kept;
            const double seen = gradients[static_cast<size_t>(p.offset + i)];
            // Losses are of order 50: 1e-16 * 50 / kStep = 5e-10 of rounding, kStep^2 times third derivatives besides.
            EXPECT_NEAR(seen, (above - below) / (2 * kStep), 1e-6 * (1 + std::abs(seen))) << p.name << "[" << i << "]";
        }
    }
}

TEST_P(TransformerTest, LaterTokensLeaveEarlierPositionsAlone) {
    TinyBatch batch(GetParam().config, 1, GetParam().documents);
    TinyModel run(GetParam().config, batch.n(), DType::kF32);
    run.loss(batch);
    const std::vector<float> before = copied<float>(run.model.nll(batch.n()));
    const size_t changed = batch.tokens.size() - 3;
    batch.tokens[changed] = (batch.tokens[changed] + 1) % static_cast<int32_t>(GetParam().config.vocab);
    run.loss(batch);
    const std::vector<float> after = copied<float>(run.model.nll(batch.n()));
    for (size_t n = 0; n < changed; ++n) EXPECT_EQ(before[n], after[n]) << n;
    EXPECT_NE(before[changed], after[changed]);
}

TEST_P(TransformerTest, BitsAreEqualOnRepeatAndForAnyNumberOfThreads) {
    const TinyBatch batch(GetParam().config, 3, GetParam().documents);
    std::vector<std::vector<float>> gradients;
    std::vector<double> losses;
    for (const int threads : {1, 1, 2, 3}) {
        if (threads > 1 && matmul_backend() == "OpenBLAS") continue;  // promises nothing across threads
        TinyModel run(GetParam().config, batch.n(), DType::kF32, threads);
        losses.push_back(run.run(batch));
        gradients.push_back(copied<float>(run.model.gradients()));
    }
    for (size_t i = 1; i < losses.size(); ++i) {
        EXPECT_EQ(losses[0], losses[i]);
        EXPECT_TRUE(same_bits(gradients[0], gradients[i])) << "run " << i;
    }
}

TEST_P(TransformerTest, MicroBatchesAddUp) {
    const TinyBatch whole(GetParam().config, 2, GetParam().documents);
    TinyModel run(GetParam().config, whole.n(), DType::kF64);
    const double loss = run.run(whole);
    const std::vector<double> expected = copied<double>(run.model.gradients());
    double sum = 0;
    for (int half = 0; half < 2; ++half) {
        TinyBatch part(GetParam().config, 1, GetParam().documents);
        const auto rows = [&](const std::vector<int32_t>& from) {
            const auto size = static_cast<std::ptrdiff_t>(from.size() / 2);
            return std::vector<int32_t>(from.begin() + half * size, from.begin() + (half + 1) * size);
        };
        part.tokens = rows(whole.tokens), part.targets = rows(whole.targets), part.positions = rows(whole.positions);
        sum += run.run(part, half ? Write::kAccumulate : Write::kOverwrite);
    }
    EXPECT_NEAR(sum, loss, 1e-11 * loss);
    const std::vector<double> seen = copied<double>(run.model.gradients());
    for (size_t i = 0; i < seen.size(); ++i)
        EXPECT_NEAR(seen[i], expected[i], 1e-11 * (1 + std::abs(expected[i]))) << i;
}

INSTANTIATE_TEST_SUITE_P(Networks, TransformerTest, testing::ValuesIn(networks()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Transformer, DocumentsDoNotSeeEachOther) {
    TinyBatch batch(tiny_llama(), 1, true);
    TinyModel run(tiny_llama(), batch.n(), DType::kF32);
    run.loss(batch);
    const std::vector<float> before = copied<float>(run.model.nll(batch.n()));
    batch.tokens[0] = (batch.tokens[0] + 1) % 13;
    run.loss(batch);
    const std::vector<float> after = copied<float>(run.model.nll(batch.n()));
    const auto second = static_cast<size_t>(batch.cu_seqlens[1]);
    EXPECT_NE(before[0], after[0]);
    for (size_t n = second; n < before.size(); ++n) EXPECT_EQ(before[n], after[n]) << n;
}

TEST(Transformer, ChunksOfTheVocabularyAgreeWithAllAtOnce) {
    NetworkConfig config = tiny_llama();
    config.vocab = 300, config.model.context = 600;  // 600 x 300 doubles: 1.4 MiB of logits
    config.loss.z_loss = 0.01;
    const TinyBatch batch(config, 1);
    TinyModel whole(config, batch.n(), DType::kF64);
    config.loss.logits_mib = 1;
    TinyModel chunked(config, batch.n(), DType::kF64);
    EXPECT_NEAR(whole.run(batch), chunked.run(batch), 1e-9);
    const std::vector<double> a = copied<double>(whole.model.gradients()),
                              b = copied<double>(chunked.model.gradients());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-10 * (1 + std::abs(a[i]))) << i;
}

TEST(Transformer, ReportsGradientsAsTheyBecomeComplete) {
    const TinyBatch batch(tiny_llama(), 1);
    TinyModel run(tiny_llama(), batch.n(), DType::kF32);
    std::vector<int64_t> order;
    run.loss(batch);
    run.model.backward(
        run.core, batch.input(), Write::kOverwrite, [&](int64_t layer) { order.push_back(layer); }, run.exec);
    EXPECT_EQ(order, (std::vector<int64_t>{2, 1, 0, -1}));
}

TEST(Transformer, WorkingCopyIsTheRoundedMasters) {
    TinyModel run(tiny_llama(), 11, DType::kBF16);
    const std::vector<float> masters = copied<float>(run.model.parameters());
    const std::vector<bf16> working = copied<bf16>(run.model.working());
    for (size_t i = 0; i < masters.size(); ++i) EXPECT_EQ(working[i].bits, bf16(masters[i]).bits) << i;
    EXPECT_FALSE(TinyModel(tiny_llama(), 11, DType::kF32).model.working());
}

TEST(Transformer, RefusesMoreTokensThanPlanned) {
    const TinyBatch batch(tiny_llama(), 2);
    TinyModel run(tiny_llama(), batch.n() - 1, DType::kF32);
    EXPECT_THROW(run.loss(batch), Error);
}

}  // namespace
}  // namespace plimsoll
