#include "train/head_analysis.h"

#include <set>

#include "support/attention_run.h"
#include "support/tiny_network.h"
#include "train/interventions.h"

namespace plimsoll {
namespace {

// One head of one document whose queries and keys are given, (n, HS), with scale 1.
struct OneHead {
    std::vector<double> q, k, v, out;
    AttentionSpec spec;
    int64_t n, HS;

    OneHead(int64_t n, int64_t HS) : q(size(n, HS)), k(size(n, HS)), v(size(n, HS)), out(size(n, HS)), n(n), HS(HS) {}
    AttentionTensors tensors() {
        const Shape shape{n, 1, HS};
        return {.out = view(out, shape),
                .lse = {},
                .q = view(q, shape),
                .k = view(k, shape),
                .v = view(v, shape),
                .sink_logit = {},
                .gate = {}};
    }
    HeadWeights weights() { return HeadWeights(tensors(), spec, 0, 0, n); }
    static size_t size(int64_t n, int64_t HS) { return static_cast<size_t>(n * HS); }
};

TEST(HeadAnalysis, SumsWeightsByKey) {
    OneHead uniform(4, 1);  // without queries A_ij = 1 / (i + 1)
    const ColumnMasses columns = column_masses(uniform.weights(), 4);
    const double received[] = {1 + 1.0 / 2 + 1.0 / 3 + 1.0 / 4, 1.0 / 2 + 1.0 / 3 + 1.0 / 4, 1.0 / 3 + 1.0 / 4,
                               1.0 / 4};
    for (size_t j = 0; j < 4; ++j) {
        EXPECT_NEAR(columns.received[j], received[j], 1e-12);
        EXPECT_NEAR(columns.share[j], received[j] / static_cast<double>(4 - j), 1e-7);  // 1e-8 in the divisor
    }
    // A window of two: key 0 is seen by queries 0 and 1, and the mean is over these.
    uniform.spec.window = 2;
    EXPECT_NEAR(column_masses(uniform.weights(), 4).share[0], (1 + 0.5) / 2, 1e-7);
    EXPECT_NEAR(column_masses(uniform.weights(), 4).received[0], 1.5, 1e-12);
    EXPECT_NEAR(column_masses(uniform.weights(), 4).share[3], 0.5, 1e-7);
}

TEST(HeadAnalysis, SharesAreOfTheRowWhereWeightsAreNot) {
    OneHead head(3, 1);
    head.spec.weighting = Weighting::kSigmoid, head.spec.score_bias = -3;
    const double weight = 1 / (1 + std::exp(3.0));
    const ColumnMasses columns = column_masses(head.weights(), 3);
    EXPECT_NEAR(columns.received[0], 3 * weight, 1e-12);
    EXPECT_NEAR(columns.share[0], (1 + 1.0 / 2 + 1.0 / 3) / 3, 1e-6);
}

TEST(HeadAnalysis, HalfOfTheWeightIsOnSoManyTokens) {
    EXPECT_DOUBLE_EQ(tokens_for_half({1, 4, 1, 2}), 0.25);
    EXPECT_DOUBLE_EQ(tokens_for_half({1, 1, 1, 1}), 0.5);
    EXPECT_DOUBLE_EQ(tokens_for_half({2, 3, 3}), 2.0 / 3);
    EXPECT_DOUBLE_EQ(tokens_for_half({0, 0, 0, 0, 7}), 0.2);
    EXPECT_TRUE(std::isnan(tokens_for_half({0, 0})));
    EXPECT_TRUE(std::isnan(tokens_for_half({})));
}

// --- repeated sequences ---

NetworkConfig with_placeholders(int64_t k) {
    NetworkConfig config = tiny_llama();  // context 11, 13 ids
    config.attention.placeholders = k;
    return config;
}

// Documents of `tokens` behind k placeholders.
ProbeBatch documents(const NetworkConfig& config, const std::vector<std::vector<int32_t>>& tokens) {
    ProbeBatch batch;
    batch.cu_seqlens = {0};
    for (const auto& document : tokens) {
        for (int64_t p = 0; p < config.attention.placeholders; ++p)
            batch.tokens.push_back(static_cast<int32_t>(config.vocab + p));
        batch.tokens.insert(batch.tokens.end(), document.begin(), document.end());
        batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
    }
    return batch;
}

TEST(HeadAnalysis, RepeatsRandomIdsBehindTheFirstToken) {
    for (const int64_t k : {0, 2}) {
        const NetworkConfig config = with_placeholders(k);
        const std::vector<ProbeBatch> groups{documents(config, {{9, 1, 2, 3, 4, 5}, {3, 6, 7}}),
                                             documents(config, {{9, 8}})};
        const RepeatedDocuments repeated = repeated_documents(groups, config, 1);
        const int64_t n = k ? 4 : 5, length = k + 1 + 2 * n;
        ASSERT_EQ(repeated.n, n);
        EXPECT_EQ(repeated.begin, k + 1);
        ASSERT_EQ(repeated.groups.size(), 2u);
        EXPECT_EQ(repeated.groups[0].documents(), 2);
        EXPECT_EQ(repeated.groups[1].documents(), 1);
        std::set<std::vector<int32_t>> different;
        const int32_t first[] = {9, 3, 9};
        int64_t which = 0;
        for (const ProbeBatch& group : repeated.groups)
            for (int64_t d = 0; d < group.documents(); ++d, ++which) {
                const int64_t begin = group.cu_seqlens[static_cast<size_t>(d)];
                ASSERT_EQ(group.cu_seqlens[static_cast<size_t>(d) + 1] - begin, length);
                const auto at = [&](const std::vector<int32_t>& values, int64_t t) {
                    return values[static_cast<size_t>(begin + t)];
                };
                for (int64_t p = 0; p < k; ++p) EXPECT_EQ(at(group.tokens, p), config.vocab + p);
                EXPECT_EQ(at(group.tokens, k), first[which]);
                std::set<int32_t> ids{first[which]};
                std::vector<int32_t> copy;
                for (int64_t t = 0; t < n; ++t) {
                    copy.push_back(at(group.tokens, k + 1 + t));
                    EXPECT_EQ(copy.back(), at(group.tokens, k + 1 + n + t));
                    EXPECT_TRUE(copy.back() >= 1 && copy.back() <= 8) << copy.back();  // 9 stands first only
                    ids.insert(copy.back());
                }
                EXPECT_EQ(static_cast<int64_t>(ids.size()), n + 1);  // each once, none the first token
                different.insert(copy);
                for (int64_t t = 0; t < length; ++t) {
                    EXPECT_EQ(at(group.positions, t), t);
                    EXPECT_EQ(at(group.targets, t), t < k || t + 1 == length ? -1 : at(group.tokens, t + 1));
                }
            }
        EXPECT_EQ(different.size(), 3u);
        EXPECT_EQ(repeated_documents(groups, config, 1).groups[0].tokens, repeated.groups[0].tokens);
        EXPECT_NE(repeated_documents(groups, config, 2).groups[0].tokens, repeated.groups[0].tokens);
    }
}

TEST(HeadAnalysis, RepeatsNoMoreIdsThanThereAre) {
    const NetworkConfig config = with_placeholders(0);
    EXPECT_EQ(repeated_documents({documents(config, {{0, 1, 2, 3, 1}})}, config, 1).n, 2);
    EXPECT_TRUE(repeated_documents({documents(config, {{0, 1, 2, 1}})}, config, 1).groups.empty());
    EXPECT_TRUE(repeated_documents({documents(config, {{0}})}, config, 1).groups.empty());
    NetworkConfig small = config;
    small.model.context = 4;
    EXPECT_TRUE(repeated_documents({documents(config, {{0, 1, 2, 3, 4, 5}})}, small, 1).groups.empty());
}

// A head that looks exactly `back` tokens back has one score, and the others not.
TEST(HeadAnalysis, ScoresHeadsByWhereTheyLook) {
    const int64_t n = 5, begin = 2, length = begin + 2 * n;
    const auto looking_back = [&](int64_t back) {
        OneHead head(length, length);
        for (int64_t i = 0; i < length; ++i) {
            head.k[static_cast<size_t>(i * length + i)] = 1;
            if (i >= back) head.q[static_cast<size_t>(i * length + i - back)] = 60;
        }
        return repeat_scores(head.weights(), begin, n);
    };
    const auto expect = [](const RepeatScores& scores, double induction, double echo, double previous) {
        EXPECT_NEAR(scores.induction, induction, 1e-7);
        EXPECT_NEAR(scores.echo, echo, 1e-7);
        EXPECT_NEAR(scores.previous, previous, 1e-7);
    };
    expect(looking_back(n - 1), 1, 0, 1 / 10.0 * (1.0 / 3 + 1.0 / 4));  // queries 2 and 3 see 3 and 4 keys alike
    expect(looking_back(n), 0, 1, 1 / 10.0 * (1.0 / 3 + 1.0 / 4 + 1.0 / 5));
    expect(looking_back(1), 0, 0, 1);
    expect(looking_back(2), 0, 0, 0);
    // Of a row that is nearly empty, the share.
    OneHead faint(length, length);
    faint.spec.weighting = Weighting::kSigmoid, faint.spec.score_bias = -10;
    for (int64_t i = n; i < length; ++i)
        faint.k[static_cast<size_t>(i * length + i)] = 0, faint.q[static_cast<size_t>(i * length + i - n)] = 6;
    for (int64_t i = 0; i < length; ++i) faint.k[static_cast<size_t>(i * length + i)] = 1;
    EXPECT_GT(repeat_scores(faint.weights(), begin, n).echo, 0.9);
}

// --- attributions ---

// Runs forward and backward of one call of core attention.
template <class Run>
HeadAttribution attributed(Run& run, int64_t head, int threads = 2) {
    LocalCoreAttention local;
    AttributedAttention core(local, 1, run.c.NH);
    AttentionCall call{.t = run.tensors(), .cu_seqlens = run.c.cu_seqlens, .spec = run.c.spec()};
    core.forward(call, {.threads = threads});
    call.d = run.gradients();
    core.compute_backward(call, {.threads = threads});
    return core.of(0, head);
}

TEST(HeadAnalysis, AttributesByHand) {
    AttentionRun<double> run(AttentionCase{.HS = 1, .cu_seqlens = {0, 2}});
    run.qkv = {0, 0, 2, 0, 0, -3};  // q, k, v of two tokens: A = 1; 1/2, 1/2
    run.dout = {1, 1};
    const HeadAttribution found = attributed(run, 0);
    EXPECT_DOUBLE_EQ(found.absolute, 2 + 1 + 1.5);
    EXPECT_DOUBLE_EQ(found.first, 2 + 1);
    EXPECT_DOUBLE_EQ(found.signed_sum, 2 + 1 - 1.5);
}

// L = sum out dout is linear in every A_ij: without signs all of it is attributed, and what the first token has is what
// goes when its weights are zero (sigmoid: the other weights stay).
TEST(HeadAnalysis, AttributesAllThatWeightsGive) {
    for (const bool gate : {false, true})
        for (const char* weighting : {"softmax", "sigmoid"}) {
            AttentionCase c{
                .weighting = weighting, .NH = 4, .NKV = 2, .HS = 5, .cu_seqlens = {0, 3, 14, 15}, .gate = gate};
            c.key_bias = gate;
            c.bias_value = weighting[1] == 'i' ? -1 : 0;
            AttentionRun<double> run(c), without(c);
            for (auto* one : {&run, &without}) {
                for (double& value : one->qkv) value = std::abs(value);
                for (double& value : one->dout) value = std::abs(value);
            }
            LocalCoreAttention local;
            IntervenedAttention no_first(local, {{.kind = InterventionKind::kFirst, .value = 0}});
            no_first.forward({.t = without.tensors(), .cu_seqlens = c.cu_seqlens, .spec = c.spec()}, {.threads = 1});
            for (int64_t head = 0; head < c.NH; ++head) {
                const HeadAttribution found = attributed(run, head), again = attributed(run, head, 1);
                double all = 0, rest = 0;
                for (int64_t i = 0; i < c.N(); ++i)
                    for (int64_t x = 0; x < c.HS; ++x) {
                        const auto at = static_cast<size_t>((i * c.NH + head) * c.HS + x);
                        all += run.out[at] * run.dout[at], rest += without.out[at] * run.dout[at];
                    }
                EXPECT_NEAR(found.signed_sum, all, 1e-10);
                EXPECT_NEAR(found.absolute, all, 1e-10);
                if (c.weighting == "sigmoid") EXPECT_NEAR(found.first, all - rest, 1e-10);
                EXPECT_EQ(found.absolute, again.absolute);
                EXPECT_EQ(found.first, again.first);
            }
        }
}

// In a network: the signed sum is the derivative of the loss by the size of the head's output, which W_O's columns set.
TEST(HeadAnalysis, AttributionIsADerivativeOfTheLoss) {
    for (const char* gate : {"none", "headwise", "elementwise"}) {
        NetworkConfig config = tiny_llama();
        config.attention.gate = {gate};
        TinyModel tiny(config, 33, DType::kF64);
        const TinyBatch batch(config, 3, true);
        AttributedAttention core(tiny.core, 2, 3);
        tiny.model.forward(core, batch.input(), Write::kOverwrite, tiny.exec);
        tiny.model.backward(
            core, batch.input(), Write::kOverwrite, [](int64_t) {}, tiny.exec);
        const std::vector<double> gradients(tiny.model.gradients().ptr<double>(),
                                            tiny.model.gradients().ptr<double>() + tiny.model.gradients().elements());
        tiny.run(batch);  // measuring changes nothing
        EXPECT_TRUE(std::equal(gradients.begin(), gradients.end(), tiny.model.gradients().ptr<double>()));
        for (int64_t layer = 0; layer < 2; ++layer)
            for (int64_t head = 0; head < 3; ++head) {
                const int index = tiny.model.table().find(fmt::format("blocks.{}.attn.out.weight", layer));
                double* weight = tiny.model.table().view(tiny.model.parameters(), index).ptr<double>();
                const std::vector<double> before(weight, weight + 18 * 18);
                const auto loss = [&](double factor) {
                    for (size_t row = 0; row < 18; ++row)
                        for (size_t x = 0; x < 6; ++x) {
                            const size_t at = row * 18 + static_cast<size_t>(head) * 6 + x;
                            weight[at] = factor * before[at];
                        }
                    return tiny.loss(batch);
                };
                constexpr double kStep = 1e-4;
                const double derivative = (loss(1 + kStep) - loss(1 - kStep)) / (2 * kStep);
                loss(1);
                EXPECT_NEAR(core.of(layer, head).signed_sum, derivative, 1e-6) << gate << layer << head;
                EXPECT_GE(core.of(layer, head).absolute, std::abs(derivative) - 1e-6);
                EXPECT_LT(core.of(layer, head).first, core.of(layer, head).absolute);
            }
    }
}

}  // namespace
}  // namespace plimsoll
