#include "train/interventions.h"

#include <cstring>
#include <functional>

#include "data/data_test_support.h"
#include "support/attention_run.h"
#include "support/tiny_network.h"
#include "train/tensor_rows.h"

namespace plimsoll {
namespace {

using enum InterventionKind;

Tensor parameter(const TinyModel& tiny, const std::string& name) {
    return tiny.model.table().view(tiny.model.parameters(), tiny.model.table().find(name));
}

std::string bytes_of(Tensor t) {
    return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())};
}

// --- what they are called ---

TEST(Interventions, AreTextAndBack) {
    const ModelConfig model = tiny_llama().model;  // 2 layers of 3 heads
    for (const char* text : {"layer=1,head=2,kind=zero", "kind=zero", "head=0,kind=identity", "layer=0,kind=zero_mlp",
                             "kind=first,value=0.5", "layer=0,kind=zero_block+layer=1,head=0,kind=first,value=0"})
        EXPECT_EQ(to_string(parse_interventions(text, model)), text);
    EXPECT_EQ(parse_interventions("kind=first,value=2,head=1,layer=0", model),
              (Interventions{{.kind = kFirst, .layer = 0, .head = 1, .value = 2}}));
    for (const Interventions& one : intervention_battery(model))
        EXPECT_EQ(parse_interventions(to_string(one), model), one);
}

TEST(Interventions, RefuseWhatTheModelLacksAndWhatMeansNothing) {
    const ModelConfig model = tiny_llama().model;
    const auto refused = [&](const char* text, std::initializer_list<std::string_view> words) {
        expect_error(ExitCode::kBadInput, words, [&] { parse_interventions(text, model); });
    };
    refused("layer=2,kind=zero", {"layer is 2", "0 .. 1"});
    refused("layer=-1,kind=zero", {"layer is -1"});
    refused("head=3,kind=zero", {"head is 3", "0 .. 2"});
    refused("head=0x1,kind=zero", {"head is '0x1'", "number"});
    refused("head=,kind=zero", {"head is ''"});
    refused("head=0,kind=zeros", {"'zeros'", "zero_attention"});
    refused("head=0", {"names no kind"});
    refused("", {"key=value"});
    refused("kind=zero+", {"key=value"});
    refused("kind=zero,kind=zero", {"not one key=value"});
    refused("heads=0,kind=zero", {"'heads'", "layer, head, kind, value"});
    refused("head=0,kind=zero_mlp", {"whole layer"});
    refused("kind=zero,value=1", {"value"});
    refused("kind=first", {"value"});
    refused("kind=first,value=-1", {"finite number from 0"});
    refused("kind=first,value=nan", {"finite number from 0"});
    refused("kind=first,value=inf", {"finite number from 0"});
    ModelConfig no_mlp = model;
    no_mlp.activation = "none";
    expect_error(ExitCode::kBadInput, {"no feed-forward"}, [&] { parse_interventions("kind=zero_mlp", no_mlp); });
    for (const Interventions& one : intervention_battery(no_mlp)) EXPECT_NE(one[0].kind, kZeroMlp);
}

TEST(Interventions, OfTheBatteryAskEveryLayerAndHeadOnce) {
    // 2 x (attention, MLP, both, identity) + 6 heads + 3 gammas
    EXPECT_EQ(intervention_battery(tiny_llama().model).size(), 17u);
    ModelConfig one_head = tiny_llama().model;
    one_head.heads = 1;
    EXPECT_EQ(intervention_battery(one_head).size(), 11u);
}

// --- the first token's weight, against the definition ---

struct FirstCase {
    AttentionCase attention;
    double gamma;
};

// Softmax: the same as log gamma added to the score of key 0, an extra column included. Sigmoid: the weight itself.
std::vector<double> scaled_oracle(const AttentionRun<double>& run, double gamma) {
    const AttentionCase& c = run.c;
    const auto [q, k, v] = DenseQkv<double>(c, run.qkv);
    std::vector<double> out(static_cast<size_t>(c.N() * c.NH * c.HS));
    for (size_t d = 0; d + 1 < c.cu_seqlens.size(); ++d)
        for (int64_t h = 0; h < c.NH; ++h)
            for (int64_t i = c.cu_seqlens[d]; i < c.cu_seqlens[d + 1]; ++i) {
                const int64_t first = c.cu_seqlens[d], kv = h / (c.NH / c.NKV);
                std::vector<double> scores;
                std::vector<int64_t> keys;
                for (int64_t j = first; j <= i; ++j) {
                    if (c.window > 0 && i - j >= c.window && j - first >= c.pinned) continue;
                    if (j == first && gamma == 0 && c.weighting == "softmax") continue;
                    double s = 0;
                    for (int64_t x = 0; x < c.HS; ++x)
                        s += q[static_cast<size_t>((i * c.NH + h) * c.HS + x)] *
                             k[static_cast<size_t>((j * c.NKV + kv) * c.HS + x)] / std::sqrt(double(c.HS));
                    if (c.key_bias) s += run.key_bias[static_cast<size_t>(j * c.NH + h)];
                    if (j == first && c.weighting == "softmax") s += std::log(gamma);
                    scores.push_back(s), keys.push_back(j);
                }
                double lse = 0;
                std::vector<double> p =
                    oracle_row(c, scores, run.sink.empty() ? 0 : run.sink[static_cast<size_t>(h)], lse);
                for (size_t n = 0; n < p.size(); ++n) {
                    if (keys[n] == first && c.weighting == "sigmoid") p[n] *= gamma;
                    for (int64_t x = 0; x < c.HS; ++x)
                        out[static_cast<size_t>((i * c.NH + h) * c.HS + x)] +=
                            p[n] * v[static_cast<size_t>((keys[n] * c.NKV + kv) * c.HS + x)];
                }
                if (run.gate.empty()) continue;
                for (int64_t x = 0; x < c.HS; ++x)
                    out[static_cast<size_t>((i * c.NH + h) * c.HS + x)] /=
                        1 + std::exp(-run.gate[static_cast<size_t>(i * c.NH + h)]);
            }
    return out;
}

template <class T>
void intervene(AttentionRun<T>& run, const Interventions& interventions, int64_t layer = 0) {
    LocalCoreAttention local;
    IntervenedAttention core(local, interventions);
    core.forward({.t = run.tensors(), .cu_seqlens = run.c.cu_seqlens, .spec = run.c.spec(), .layer = layer},
                 {.threads = 2});
}

std::vector<AttentionCase> attention_cases() {
    AttentionCase softmax{.NH = 4, .NKV = 2, .HS = 7, .cu_seqlens = {0, 1, 12, 19}, .spread = 2, .gate = true};
    AttentionCase plain = softmax, one = softmax, learned = softmax, window = softmax, pinned = softmax,
                  sigmoid = softmax, sink = softmax, biased = softmax;
    plain.gate = false, one.extra = ExtraColumn::kConstant, learned.extra = ExtraColumn::kLearnedLogit;
    window.window = 4, pinned.window = 4, pinned.pinned = 1;
    sigmoid.weighting = "sigmoid", sigmoid.bias_value = -1;
    sink.spread = 6;  // weights near 1, where subtracting would lose them
    biased.key_bias = true;
    return {softmax, plain, one, learned, window, pinned, sigmoid, sink, biased};
}

TEST(Interventions, ScaleTheFirstTokenByTheDefinition) {
    for (const AttentionCase& c : attention_cases())
        for (const double gamma : {0.0, 0.25, 3.0}) {
            AttentionRun<double> run(c);
            intervene(run, {{.kind = kFirst, .value = gamma}});
            SCOPED_TRACE(testing::PrintToString(c) + fmt::format(" gamma={}", gamma));
            // Scores near 30 lose five bits; an extra column's weight beside one near 1 some more.
            expect_close(run.out, scaled_oracle(run, gamma), 20000, "out");
        }
}

// What is added is computed in double: fp32 and bf16 lose their own rounding and no more, however large the weight was.
TEST(Interventions, ScaleTheFirstTokenInNarrowTypes) {
    const auto check = []<class T>(T, double tolerance) {
        for (const AttentionCase& c : attention_cases()) {
            AttentionRun<T> run(c);
            AttentionRun<double> wide(c);
            for (size_t i = 0; i < run.qkv.size(); ++i) wide.qkv[i] = static_cast<float>(run.qkv[i]);
            for (size_t i = 0; i < run.gate.size(); ++i) wide.gate[i] = static_cast<float>(run.gate[i]);
            for (size_t i = 0; i < run.sink.size(); ++i) wide.sink[i] = static_cast<double>(run.sink[i]);
            for (size_t i = 0; i < run.key_bias.size(); ++i) wide.key_bias[i] = static_cast<double>(run.key_bias[i]);
            intervene(run, {{.kind = kFirst, .value = 0}});
            const std::vector<double> expected = scaled_oracle(wide, 0);
            double largest = 0;
            for (size_t i = 0; i < expected.size(); ++i)
                largest =
                    std::max(largest, std::abs(static_cast<double>(static_cast<float>(run.out[i])) - expected[i]));
            EXPECT_LT(largest, tolerance) << testing::PrintToString(c);
        }
    };
    check(0.0f, 1e-4);
    check(bf16(), 0.15);  // values of +-10 in 8 bits, rounded twice
}

TEST(Interventions, ScaledByOneChangeNoBit) {
    for (const AttentionCase& c : attention_cases()) {
        AttentionRun<bf16> plain(c), run(c);
        plain.forward();
        intervene(run, {{.kind = kFirst, .value = 1}});
        EXPECT_TRUE(same_bits(run.out, plain.out));
    }
}

TEST(Interventions, OfAHeadLeaveTheOthersAlone) {
    for (const AttentionCase& c : attention_cases()) {
        AttentionRun<float> plain(c), zero(c), identity(c), other(c);
        plain.forward();
        intervene(zero, {{.kind = kZero, .layer = 3, .head = 2}}, 3);
        intervene(identity, {{.kind = kIdentity, .head = 2}}, 3);
        intervene(other, {{.kind = kZero, .layer = 2}}, 3);
        EXPECT_TRUE(same_bits(other.out, plain.out));  // of another layer
        const std::vector<float> v = DenseQkv<float>(c, plain.qkv).v;
        for (int64_t n = 0; n < c.N(); ++n)
            for (int64_t h = 0; h < c.NH; ++h)
                for (int64_t x = 0; x < c.HS; ++x) {
                    const auto at = static_cast<size_t>((n * c.NH + h) * c.HS + x);
                    const float g = c.gate ? 1 / (1 + std::exp(-plain.gate[static_cast<size_t>(n * c.NH + h)])) : 1;
                    EXPECT_EQ(zero.out[at], h == 2 ? 0 : plain.out[at]);
                    if (h != 2)
                        EXPECT_EQ(identity.out[at], plain.out[at]);
                    else  // key head 1 of 2 belongs to query heads 2 and 3
                        EXPECT_NEAR(identity.out[at], g * v[static_cast<size_t>((n * c.NKV + 1) * c.HS + x)], 1e-5);
                }
    }
}

TEST(Interventions, OnOneHeadTheLastCounts) {
    const AttentionCase c = attention_cases()[0];
    AttentionRun<float> twice(c), once(c);
    intervene(twice, {{.kind = kZero}, {.kind = kIdentity, .head = 1}});
    intervene(once, {{.kind = kIdentity, .head = 1}});
    for (int64_t n = 0; n < c.N(); ++n)
        for (int64_t h = 0; h < c.NH; ++h)
            EXPECT_EQ(twice.out[static_cast<size_t>((n * c.NH + h) * c.HS)],
                      h == 1 ? once.out[static_cast<size_t>((n * c.NH + h) * c.HS)] : 0);
}

// --- in a network ---

class InterventionsOnNetworks : public testing::Test {
  protected:
    // Logits under interventions, in double.
    static std::vector<double> logits(TinyModel& tiny, const TinyBatch& batch, const Interventions& interventions) {
        const WithoutBranches without(tiny.model, interventions);
        IntervenedAttention core(tiny.core, interventions);
        tiny.model.evaluate(core, batch.input(), tiny.exec);
        const Tensor t = tiny.model.logits(batch.n(), tiny.exec);
        return {t.ptr<double>(), t.ptr<double>() + t.elements()};
    }
    static void expect_equal(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
        ASSERT_EQ(a.size(), b.size());
        for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
    }
    static double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
        double largest = 0;
        for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
        return largest;
    }
};

// One head away = its columns of W_O zero, for every kind of gate; all of them = the whole of W_O.
TEST_F(InterventionsOnNetworks, ZeroHeadsAreZeroColumnsOfTheOutputProjection) {
    for (const char* gate : {"none", "headwise", "elementwise"}) {
        NetworkConfig config = tiny_llama();
        config.attention.gate = {gate};
        TinyModel tiny(config, 33, DType::kF64), changed(config, 33, DType::kF64);
        const TinyBatch batch(config, 3, true);
        const std::vector<double> before = logits(tiny, batch, {});
        const Tensor out = changed.model.table().view(changed.model.parameters(),
                                                      changed.model.table().find("blocks.1.attn.out.weight"));
        for (int64_t row = 0; row < 18; ++row)
            for (int64_t c = 6; c < 12; ++c) out.ptr<double>()[row * 18 + c] = 0;
        const std::vector<double> without = logits(tiny, batch, {{.kind = kZero, .layer = 1, .head = 1}});
        expect_equal(without, logits(changed, batch, {}), 1e-12);
        EXPECT_GT(largest_difference(without, before), 1e-3);
        expect_equal(logits(tiny, batch, {{.kind = kZero, .layer = 0}}),
                     logits(tiny, batch, {{.kind = kZeroAttention, .layer = 0}}), 1e-12);
        expect_equal(logits(tiny, batch, {}), before, 0);  // the parameters are what they were
    }
}

// With biases: a branch that is away adds nothing at all, in any precision, and everything comes back.
TEST_F(InterventionsOnNetworks, WithoutABranchTheStreamPassesBy) {
    for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
        const NetworkConfig config = tiny_gpt2();
        TinyModel tiny(config, 22, dtype);
        for (const char* name : {"attn.out.bias", "mlp.down.bias"})  // they begin at zero
            for (int64_t layer : {0, 1}) {
                const Tensor bias = tiny.model.table().view(
                    tiny.model.parameters(), tiny.model.table().find(fmt::format("blocks.{}.{}", layer, name)));
                dispatch_float(bias.dtype, [&]<class T>() {
                    for (int64_t c = 0; c < bias.elements(); ++c) bias.ptr<T>()[c] = T(0.5f);
                });
            }
        tiny.model.refresh_working(tiny.exec);
        const TinyBatch batch(config, 2);
        const std::string parameters = bytes_of(tiny.model.parameters()),
                          working = tiny.model.working() ? bytes_of(tiny.model.working()) : "";
        const auto stream = [&](int64_t layer, const char* text) {
            const Interventions interventions = parse_interventions(text, config.model);
            const WithoutBranches without(tiny.model, interventions);
            tiny.model.evaluate(tiny.core, batch.input(), tiny.exec);
            return bytes_of(tiny.model.stream_after(layer, batch.n()));
        };
        const std::string embedded = stream(-1, "kind=zero_block");
        EXPECT_EQ(stream(1, "kind=zero_block"), embedded);
        EXPECT_EQ(stream(0, "layer=0,kind=zero_attention+layer=0,kind=zero_mlp"), embedded);
        EXPECT_EQ(stream(0, "layer=0,kind=zero_block"), embedded);
        EXPECT_NE(stream(1, "layer=0,kind=zero_block"), embedded);
        EXPECT_NE(stream(0, "layer=0,kind=zero_attention"), embedded);
        EXPECT_NE(stream(0, "layer=0,kind=zero_mlp"), embedded);
        EXPECT_NE(stream(0, "layer=0,kind=zero_mlp"), stream(0, "layer=0,kind=zero_attention"));
        EXPECT_NE(stream(0, "layer=1,kind=zero_block"), embedded);
        // Twice the same branch: what came first is what comes back.
        stream(0, "kind=zero_block+kind=zero_attention+layer=0,kind=zero_mlp");
        EXPECT_EQ(bytes_of(tiny.model.parameters()), parameters);
        if (tiny.model.working()) EXPECT_EQ(bytes_of(tiny.model.working()), working);
    }
}

// Whatever is behind core attention: a column's value, a V bias, a gate that is added.
TEST_F(InterventionsOnNetworks, ZeroHeadsLeaveNothingOfWhatIsBehindCoreAttention) {
    const std::vector<std::function<void(AttentionConfig&)>> behind{
        [](AttentionConfig& a) { a.extra_column = {"key"}; },
        [](AttentionConfig& a) { a.extra_column = {"key_value"}; },
        [](AttentionConfig& a) { a.extra_column = {"key_value"}, a.column_shared = true, a.gate = {"headwise"}; },
        [](AttentionConfig& a) { a.value_bias = true; },
        [](AttentionConfig& a) { a.gate = {"elementwise"}, a.gate_combination = "add"; }};
    for (const auto& change : behind) {
        NetworkConfig config = tiny_llama();
        change(config.attention);
        TinyModel tiny(config, 22, DType::kF64), changed(config, 22, DType::kF64);
        const TinyBatch batch(config, 2, true);
        const std::vector<double> before = logits(tiny, batch, {});
        const Tensor out = parameter(changed, "blocks.1.attn.out.weight");
        for (int64_t row = 0; row < 18; ++row)
            for (int64_t c = 12; c < 18; ++c) out.ptr<double>()[row * 18 + c] = 0;
        const std::vector<double> without = logits(tiny, batch, {{.kind = kZero, .layer = 1, .head = 2}});
        expect_equal(without, logits(changed, batch, {}), 0);
        EXPECT_GT(largest_difference(without, before), 1e-3);
        expect_equal(logits(tiny, batch, {{.kind = kZero, .layer = 0}}),
                     logits(tiny, batch, {{.kind = kZeroAttention, .layer = 0}}), 0);
        // What is made last on a head is made.
        expect_equal(
            logits(tiny, batch, {{.kind = kZero, .layer = 1}, {.kind = kFirst, .layer = 1, .head = 2, .value = 1}}),
            logits(tiny, batch, {{.kind = kZero, .layer = 1, .head = 0}, {.kind = kZero, .layer = 1, .head = 1}}), 0);
        expect_equal(logits(tiny, batch, {}), before, 0);
    }
}

// Scores of a layer's queries, keys and column by the definition, with gamma on the first key; output before W_O.
std::vector<double> output_with_column(const AttentionTensors& t, const TinyModel& tiny, int64_t layer,
                                       std::span<const int32_t> cu_seqlens, double gamma) {
    const int64_t NH = t.q.shape[1], HS = t.q.shape[2];
    const Tensor key = parameter(tiny, fmt::format("blocks.{}.attn.extra_key", layer)),
                 value = parameter(tiny, fmt::format("blocks.{}.attn.extra_value", layer));
    const auto dot = [&](const double* a, const double* b) {
        double sum = 0;
        for (int64_t c = 0; c < HS; ++c) sum += a[c] * b[c];
        return sum / std::sqrt(static_cast<double>(HS));
    };
    std::vector<double> out;
    for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d)
        for (int64_t i = cu_seqlens[d]; i < cu_seqlens[d + 1]; ++i)
            for (int64_t h = 0; h < NH; ++h) {
                const double* q = t.q.ptr<double>() + i * t.q.row_stride + h * HS;
                const double column = std::exp(dot(q, key.ptr<double>() + h * HS));
                std::vector<double> row(static_cast<size_t>(HS));
                double sum = column;
                for (int64_t c = 0; value && c < HS; ++c) row[size_t(c)] = column * value.ptr<double>()[h * HS + c];
                for (int64_t j = cu_seqlens[d]; j <= i; ++j) {
                    double f = std::exp(dot(q, t.k.ptr<double>() + j * t.k.row_stride));
                    if (j == cu_seqlens[d]) f *= gamma;
                    sum += f;
                    for (int64_t c = 0; c < HS; ++c) row[size_t(c)] += f * t.v.ptr<double>()[j * t.v.row_stride + c];
                }
                for (const double x : row) out.push_back(x / sum);
            }
    return out;
}

// A learned column is a key like the others: it gains what the first token loses. gamma = 0 leaves it to first queries.
TEST_F(InterventionsOnNetworks, ScaleTheFirstTokenBesideALearnedColumn) {
    for (const char* column : {"key", "key_value"})
        for (const double gamma : {0.0, 0.25, 1.0, 3.0}) {
            NetworkConfig config = tiny_llama();
            config.attention.extra_column = {column};
            TinyModel tiny(config, 22, DType::kF64);
            for (double& p : tiny.model.parameters().span<double>()) p *= 2;  // a column with a share
            const TinyBatch batch(config, 2, true);
            IntervenedAttention core(tiny.core, {{.kind = kFirst, .value = gamma}});
            tiny.model.evaluate(core, batch.input(), tiny.exec);
            const Block block = tiny.model.block(core, batch.input(), 1, tiny.exec);
            const AttentionTensors t = block.core_tensors();
            const std::vector<double> wanted = output_with_column(t, tiny, 1, batch.cu_seqlens, gamma);
            for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(t.out.ptr<double>()[i], wanted[i], 1e-12) << column;
        }
}

// ... and has no weight where a head attends to its own token alone.
TEST_F(InterventionsOnNetworks, IdentityLeavesALearnedColumnNoWeight) {
    NetworkConfig config = tiny_llama();
    config.attention.extra_column = {"key_value"};
    for (const DType dtype : {DType::kF64, DType::kF32}) {
        TinyModel tiny(config, 22, dtype);
        const TinyBatch batch(config, 2, true);
        IntervenedAttention core(tiny.core, {{.kind = kIdentity}});
        tiny.model.evaluate(core, batch.input(), tiny.exec);
        const Block block = tiny.model.block(core, batch.input(), 1, tiny.exec);
        const AttentionTensors t = block.core_tensors();
        for (int64_t n = 0; n < batch.n(); ++n)
            for (int64_t h = 0; h < config.model.heads; ++h)
                for (int64_t c = 0; c < 6; ++c)
                    ASSERT_EQ(element(t.out, (n * config.model.heads + h) * 6 + c),
                              element(t.v, n * t.v.row_stride + c));
    }
}

// Heads are score maps: one away is its y = 0, both are the pair away.
TEST_F(InterventionsOnNetworks, ZeroHeadsOfDifferentialAttentionAreScoreMaps) {
    for (const char* kind : {"v1", "v2"}) {
        NetworkConfig config = tiny_llama();
        config.model.heads = 8, config.model.kv_heads = 4, config.attention.differential = kind;
        TinyModel tiny(config, 22, DType::kF64), changed(config, 22, DType::kF64);
        const TinyBatch batch(config, 2, true);
        const std::vector<double> before = logits(tiny, batch, {});
        for (int64_t head = 0; head < 8; ++head) {
            const Interventions one{{.kind = kZero, .layer = 1, .head = head}};
            IntervenedAttention core(tiny.core, one);
            tiny.model.evaluate(core, batch.input(), tiny.exec);
            const Block block = tiny.model.block(core, batch.input(), 1, tiny.exec);
            const Tensor out = block.core_tensors().out;
            for (int64_t at = 0; at < 8; ++at) {
                double most = 0;
                for (int64_t n = 0; n < batch.n(); ++n) most = std::max(most, row_norm(head_rows(out, at, n, 1), 0));
                EXPECT_EQ(most == 0, at == head) << kind << head << at;
            }
        }
        // Channels of pair 1 that the projection reads: those of heads 2 and 3, or with V2 of one head's width.
        const Tensor out = parameter(changed, "blocks.1.attn.out.weight");
        const int64_t columns = out.shape[1], width = columns / 4;
        for (int64_t row = 0; row < out.shape[0]; ++row)
            for (int64_t c = width; c < 2 * width; ++c) out.ptr<double>()[row * columns + c] = 0;
        expect_equal(
            logits(tiny, batch, {{.kind = kZero, .layer = 1, .head = 2}, {.kind = kZero, .layer = 1, .head = 3}}),
            logits(changed, batch, {}), 1e-12);
        EXPECT_GT(largest_difference(logits(changed, batch, {}), before), 1e-3);
    }
}

TEST_F(InterventionsOnNetworks, HaveNoBackward) {
    const NetworkConfig config = tiny_llama();
    TinyModel tiny(config, 11, DType::kF64);
    const TinyBatch batch(config, 1);
    IntervenedAttention core(tiny.core, {{.kind = kZero}});
    tiny.model.forward(core, batch.input(), Write::kOverwrite, tiny.exec);
    expect_error(ExitCode::kInternal, {"no backward"}, [&] {
        tiny.model.backward(
            core, batch.input(), Write::kOverwrite, [](int64_t) {}, tiny.exec);
    });
}

}  // namespace
}  // namespace plimsoll
