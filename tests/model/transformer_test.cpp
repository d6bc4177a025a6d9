#include "model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "support/named_networks.h"
#include "support/network_checks.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

class TransformerTest : public testing::TestWithParam<Named> {};
class GradientTest : public testing::TestWithParam<Named> {};

TEST_P(GradientTest, GradientsMatchCentralDifferences) {
    expect_gradients_of_central_differences(GetParam());
}

TEST_P(TransformerTest, LaterTokensLeaveEarlierPositionsAlone) {
    expect_later_tokens_leave_earlier_alone(GetParam());
}

TEST_P(TransformerTest, BitsAreEqualOnRepeatAndForAnyNumberOfThreads) {
    expect_equal_bits_for_any_threads(GetParam(), DType::kF32);
}

TEST_P(TransformerTest, MicroBatchesAddUp) {
    const TinyBatch whole = batch_of(GetParam(), 2);
    TinyModel run(GetParam().config, whole.n(), DType::kF64);
    const double loss = run.run(whole);
    const std::vector<double> expected = copied<double>(run.model.gradients());
    double sum = 0;
    for (int half = 0; half < 2; ++half) {
        TinyBatch part = batch_of(GetParam(), 1);
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

// What products leave of the gradients they write adds up to what all elements do, once they are written and once they
// are added to: nothing comes to them later unseen. And nobody else notices.
void expect_sums_of_squares(const NetworkConfig& config, const TinyBatch& batch) {
    TinyModel run(config, batch.n(), DType::kBF16, 2, {.squares = true}), plain(config, batch.n(), DType::kBF16);
    ASSERT_TRUE(run.model.sums_squares() && !plain.model.sums_squares());
    for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
        run.run(batch, write), plain.run(batch, write);
        EXPECT_TRUE(same_bits(copied<float>(run.model.gradients()), copied<float>(plain.model.gradients())));
        const double sum = run.model.sum_of_gradient_squares(run.exec);
        EXPECT_NEAR(sum, plain.model.sum_of_gradient_squares(plain.exec), 1e-13 * sum);  // other orders of fp64
    }
}

TEST_P(TransformerTest, SumsOfSquaresOfGradientsAreComplete) {
    expect_sums_of_squares(GetParam().config, batch_of(GetParam(), 2));
}

TEST(Transformer, SumsOfSquaresOfGradientsAreCompleteInChunksOfTheVocabulary) {
    NetworkConfig config = tiny_llama();
    config.vocab = 300, config.model.context = 500, config.loss.logits_mib = 1;
    for (const bool tied : {false, true}) {
        config.model.tied = tied;
        expect_sums_of_squares(config, TinyBatch(config, 4));
    }
}

TEST_P(TransformerTest, DocumentsDoNotSeeEachOther) {
    TinyBatch batch = batch_of(GetParam().config, 1, true);
    TinyModel run(GetParam().config, batch.n(), DType::kF32);
    const auto nll = [&] { return run.loss(batch), copied<float>(run.model.nll(batch.n())); };
    const std::vector<float> before = nll();
    const auto second = static_cast<size_t>(batch.cu_seqlens[1]);
    const int32_t kept = batch.tokens[second - 1], other = kept ? 0 : 1;
    batch.tokens[second - 1] = other;
    const std::vector<float> first_changed = nll();
    for (size_t n = second; n < before.size(); ++n) EXPECT_EQ(before[n], first_changed[n]) << n;
    batch.tokens[second - 1] = kept, batch.targets[second - 1] = 1;
    const std::vector<float> restored = nll();
    batch.tokens[second - 1] = other;
    EXPECT_NE(restored[second - 1], nll()[second - 1]);  // its own position does see it
}

// What on_ready reports is final, and every block's parameters are reported once.
TEST_P(TransformerTest, GradientsStayAsTheyWereWhenReported) {
    const TinyBatch batch = batch_of(GetParam(), 1);
    TinyModel run(GetParam().config, batch.n(), DType::kF32);
    run.loss(batch);
    const Tensor gradients = run.model.gradients();
    std::fill(gradients.span<float>().begin(), gradients.span<float>().end(), -77.0f);  // nothing may be left over
    std::vector<int64_t> order;
    std::vector<std::vector<float>> seen(run.model.table().entries().size());
    const auto each_of = [&](int64_t layer, auto&& visit) {
        for (size_t i = 0; i < seen.size(); ++i)
            if (run.model.table().entries()[i].layer == layer)
                visit(seen[i], copied<float>(run.model.table().view(gradients, static_cast<int>(i))));
    };
    run.model.backward(
        run.core, batch.input(), Write::kOverwrite,
        [&](int64_t layer) {
            order.push_back(layer);
            each_of(layer, [](std::vector<float>& to, std::vector<float> now) { to = std::move(now); });
        },
        run.exec);
    EXPECT_EQ(order, (std::vector<int64_t>{2, 1, 0, -1}));
    for (int64_t layer = -1; layer <= 2; ++layer)
        each_of(layer, [&](const std::vector<float>& then, const std::vector<float>& now) {
            EXPECT_TRUE(same_bits(then, now)) << "layer " << layer;
            EXPECT_EQ(std::count(now.begin(), now.end(), -77.0f), 0) << "layer " << layer;
        });
}

INSTANTIATE_TEST_SUITE_P(Networks, GradientTest, testing::ValuesIn(networks()),
                         [](const auto& info) { return std::string(info.param.name); });
INSTANTIATE_TEST_SUITE_P(Networks, TransformerTest, testing::ValuesIn(trained_networks()),
                         [](const auto& info) { return std::string(info.param.name); });

// Embeddings of ids that begin no document do not reach first tokens, where the gradient stops: theirs is that of the
// loss and the weighed sum of squared cosines. (All gradients: the golden fixture.)
TEST(Transformer, DecorrelationsGradientMatchesCentralDifferences) {
    NetworkConfig config = tiny_llama();
    config.loss.bos_decorrelation = 3;
    const TinyBatch batch = batch_of(config, 3, true);
    TinyModel run(config, batch.n(), DType::kF64);
    const auto loss = [&] { return run.run(batch) + 3 * run.model.loss(run.exec).decorrelation; };
    loss();
    const int table = run.model.table().find("wte.weight");
    const std::vector<double> gradients = copied<double>(run.model.table().view(run.model.gradients(), table));
    const std::span<double> values = run.model.table().view(run.model.parameters(), table).span<double>();
    const auto C = static_cast<size_t>(config.model.channels);
    std::vector<bool> first(static_cast<size_t>(config.vocab));
    for (size_t n = 0; n < batch.tokens.size(); ++n)
        if (batch.positions[n] == 0) first[static_cast<size_t>(batch.tokens[n])] = true;
    EXPECT_LT(std::count(first.begin(), first.end(), true), config.vocab - 5);  // others are left
    constexpr double kStep = 1e-5;
    for (size_t i = 0; i < values.size(); i += 3) {
        if (first[i / C]) continue;
        const double kept = values[i];
        values[i] = kept + kStep;
        const double above = loss();
        values[i] = kept - kStep;
        const double below = loss();
        values[i] = kept;
        EXPECT_NEAR(gradients[i], (above - below) / (2 * kStep), 1e-6 * (1 + std::abs(gradients[i]))) << i;
    }
}

// The loss is that of the network without it, and so are the gradients where it weighs nothing.
TEST(Transformer, DecorrelationIsNoPartOfTheLoss) {
    NetworkConfig config = tiny_llama();
    const TinyBatch batch(config, 2, true);
    TinyModel plain(config, batch.n(), DType::kF32);
    const double loss = plain.run(batch);
    EXPECT_EQ(plain.model.loss(plain.exec).decorrelation, 0);
    config.loss.bos_decorrelation = 1e-30;
    TinyModel other(config, batch.n(), DType::kF32);
    EXPECT_EQ(other.run(batch), loss);
    EXPECT_GT(other.model.loss(other.exec).decorrelation, 0);
    EXPECT_LT(other.model.loss(other.exec).decorrelation, static_cast<double>(batch.n()));
    EXPECT_TRUE(same_bits(copied<float>(plain.model.gradients()), copied<float>(other.model.gradients())));
    EXPECT_EQ(other.model.evaluate(other.core, batch.input(), other.exec).decorrelation, 0);
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
    EXPECT_NO_THROW(whole.model.logits(batch.n(), whole.exec));
    EXPECT_THROW(chunked.model.logits(batch.n(), chunked.exec), Error);  // several chunks: never all at once
    const std::vector<double> a = copied<double>(whole.model.gradients()),
                              b = copied<double>(chunked.model.gradients());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-10 * (1 + std::abs(a[i]))) << i;
}

// The same logits, so the same loss but for fp32 sums in another order. The gradients of several chunks add up in fp32
// before they are rounded to bf16: some of those roundings, 2^-9 = 2e-3 at most, fall the other way.
TEST(Transformer, ChunksOfTheVocabularyAgreeInBf16) {
    NetworkConfig config = tiny_llama();
    config.vocab = 300, config.model.context = 500;
    const TinyBatch batch(config, 4);  // 2000 x 300 x 2 bytes: 1.1 MiB of logits
    TinyModel whole(config, batch.n(), DType::kBF16);
    config.loss.logits_mib = 1;
    TinyModel chunked(config, batch.n(), DType::kBF16);
    const double loss = whole.run(batch);
    EXPECT_NEAR(chunked.run(batch), loss, 1e-6 * loss);
    const std::vector<float> a = copied<float>(whole.model.gradients()), b = copied<float>(chunked.model.gradients());
    const double difference = relative_l2(b, a);
    EXPECT_GT(difference, 0);  // the chunks are really there
    EXPECT_LT(difference, 2e-3);
    EXPECT_THROW(chunked.model.logits(batch.n(), chunked.exec), Error);
}

// With fp32 operands evaluation rounds nothing less, so it is the training loss; with bf16 only logits differ.
TEST(Transformer, EvaluationIsTheTrainingLossWithoutRoundedLogits) {
    const TinyBatch batch(tiny_llama(), 2);
    for (const DType compute : {DType::kF32, DType::kBF16}) {
        TinyModel run(tiny_llama(), batch.n(), compute);
        const double training = run.loss(batch);
        const LossSums sums = run.model.evaluate(run.core, batch.input(), run.exec);
        EXPECT_EQ(sums.scored, batch.n() - std::count(batch.targets.begin(), batch.targets.end(), -1));
        if (compute == DType::kF32)
            EXPECT_EQ(sums.nll, training);
        else
            EXPECT_NEAR(sums.nll, training, 4e-3 * training);  // a logit's half unit in the last place
    }
}

TEST(Transformer, MemoryGrowsWithTokensAndParametersDoNot) {
    const auto plan = [](int64_t N, DType compute) {
        const NetworkConfig config = tiny_gpt2();
        return Transformer(config, StageRange::whole(config.model), N, Precision{compute}).plan();
    };
    for (const DType compute : {DType::kF64, DType::kF32, DType::kBF16}) {
        const ModelPlan one = plan(64, compute), three = plan(192, compute);  // multiples of a line: no padding
        EXPECT_EQ(three.activations.bytes(), 3 * one.activations.bytes());
        EXPECT_EQ(three.scratch.bytes(), 3 * one.scratch.bytes());
        EXPECT_EQ(three.parameters.bytes(), one.parameters.bytes());
        EXPECT_EQ(three.gradients.bytes(), one.gradients.bytes());
    }
    const ModelPlan wide = plan(64, DType::kF32), narrow = plan(64, DType::kBF16);
    EXPECT_EQ(2 * narrow.parameters.bytes(), 3 * wide.parameters.bytes());  // masters and a copy of half their size
    EXPECT_EQ(narrow.gradients.bytes(), wide.gradients.bytes());
    EXPECT_LT(narrow.activations.bytes(), wide.activations.bytes());
}

// What is computed again has the same bits, in backward and for the probes, and takes less memory the more it is.
TEST(Transformer, RecomputeChangesMemoryAndNoBit) {
    NetworkConfig gated = tiny_llama(), plain = tiny_llama(), sourced = tiny_llama(), relu = tiny_gpt2();
    relu.model.activation = "relu";
    sourced.attention.qk_source = {"position", "embedding"};
    plain.loss.bos_decorrelation = 2;
    gated.attention.gate = {"headwise", "elementwise"}, gated.attention.weighting = {"sigmoid", "softmax"};
    plain.model.activation = "none";
    for (const NetworkConfig& config : {tiny_llama(), tiny_gpt2(), gated, plain, sourced, relu})
        for (const DType compute : {DType::kF32, DType::kBF16}) {
            const TinyBatch batch(config, 2, true);
            TinyModel kept(config, batch.n(), compute);
            const double loss = kept.run(batch);
            int64_t bytes = kept.model.plan().activations.bytes() + 1;
            for (const Recompute level : {Recompute::kNone, Recompute::kLight, Recompute::kBlock}) {
                TinyModel again(config, batch.n(), compute, 2, {.recompute = level});
                EXPECT_EQ(again.run(batch), loss);
                EXPECT_TRUE(same_bits(copied<float>(kept.model.gradients()), copied<float>(again.model.gradients())));
                EXPECT_LT(again.model.plan().activations.bytes(), bytes);
                bytes = again.model.plan().activations.bytes();
                kept.loss(batch), again.loss(batch);
                for (int64_t layer = 0; layer < config.model.layers; ++layer) {
                    const Block a = kept.model.block(kept.core, batch.input(), layer, kept.exec),
                                b = again.model.block(again.core, batch.input(), layer, again.exec);
                    for (const auto tensor : {&BlockActivations::norm1, &BlockActivations::y, &BlockActivations::act})
                        if (const Tensor wanted = a.activations().*tensor)
                            EXPECT_EQ(0, std::memcmp(wanted.data, (b.activations().*tensor).data,
                                                     static_cast<size_t>(wanted.bytes())));
                }
            }
        }
}

// Nor without feed-forward layers, where the attention branch is computed again only for parts that keep it.
TEST(Transformer, RecomputeWithoutFeedForwardLayersChangesNoBit) {
    for (Named& network : networks()) {
        SCOPED_TRACE(network.name);
        network.config.model.activation = "none";
        const TinyBatch batch(network.config, 2, network.documents);
        TinyModel kept(network.config, batch.n(), DType::kBF16);
        TinyModel again(network.config, batch.n(), DType::kBF16, 2, {.recompute = Recompute::kBlock});
        EXPECT_EQ(again.run(batch), kept.run(batch));
        EXPECT_TRUE(same_bits(copied<float>(kept.model.gradients()), copied<float>(again.model.gradients())));
    }
}

// Scores of positions are those of every text; those of embeddings do not depend on the blocks below.
TEST(Transformer, ScoresDependOnTheirSourceAlone) {
    NetworkConfig c = tiny_llama();
    c.attention.qk_source = {"position", "embedding", "input"};
    c.model.layers = 3;
    const TinyBatch batch(c, 2), other(c, 2, false, 6);
    TinyModel run(c, batch.n(), DType::kF32);
    const auto lse = [&](const TinyBatch& of) {
        run.loss(of);
        std::vector<std::vector<float>> layers;
        for (int64_t layer = 0; layer < c.model.layers; ++layer)
            layers.push_back(copied<float>(run.model.block(run.core, of.input(), layer, run.exec).activations().lse));
        return layers;
    };
    const auto text = lse(batch), other_text = lse(other);
    EXPECT_TRUE(same_bits(text[0], other_text[0]));
    for (const size_t layer : {1u, 2u}) EXPECT_FALSE(same_bits(text[layer], other_text[layer])) << layer;
    const Tensor out =
        run.model.table().view(run.model.parameters(), run.model.table().find("blocks.0.attn.out.weight"));
    for (float& weight : out.span<float>()) weight += 0.1f;
    const auto changed = lse(batch);
    for (const size_t layer : {0u, 1u}) EXPECT_TRUE(same_bits(text[layer], changed[layer])) << layer;
    EXPECT_FALSE(same_bits(text[2], changed[2]));
}

// A smaller micro batch than planned uses the front of the same memory and computes the same.
TEST(Transformer, FewerTokensThanPlannedChangeNothing) {
    for (const NetworkConfig& config : {tiny_llama(), tiny_gpt2()}) {
        const TinyBatch batch(config, 2);
        TinyModel exact(config, batch.n(), DType::kF32), roomy(config, 5 * batch.n() + 3, DType::kF32);
        EXPECT_EQ(exact.run(batch), roomy.run(batch));
        EXPECT_TRUE(same_bits(copied<float>(exact.model.gradients()), copied<float>(roomy.model.gradients())));
    }
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
