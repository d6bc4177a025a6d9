#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "support/attention_run.h"

namespace plimsoll {
namespace {

// Every weighting of variants.def under every kind of mask, bias and extra column it allows.
std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const VariantInfo& variant : variants()) {
        AttentionCase c;
        c.weighting = variant.name;
        c.bias_value = -1.5;
        c.positive = variant.name == "kernel_normalized";
        const auto add = [&](AttentionCase with) { all.push_back(with); };
        add(c);
        for (const int32_t T : {1, 63, 64, 65, 130}) c.cu_seqlens = {0, T}, add(c);
        c.cu_seqlens = {0, 70};
        for (const int64_t HS : {1, 7, 32, 64, 96, 100, 128, 256}) c.HS = HS, add(c);
        for (const auto& [HS, VS] : {std::pair{6, 12}, {32, 64}, {64, 7}, {100, 200}, {33, 32}, {256, 512}})
            c.HS = HS, c.VS = VS, add(c);
        c.HS = 6, c.VS = 0, c.NH = 6, c.NKV = 2, add(c);
        c.window = 5, add(c);
        c.pinned = 3, add(c);
        c.window = 66, add(c);
        c.window = c.pinned = 0, c.alibi = true, add(c);
        c.cu_seqlens = {0, 1, 20, 90, 91, 155}, add(c);
        c.window = 64, c.pinned = 2, add(c);
        for (const PatternCase& pattern : kPatterns) {
            AttentionCase with = pattern.of({.weighting = std::string(variant.name), .bias_value = -1.5});
            with.positive = c.positive;
            with.cu_seqlens = {0, 1, 6, 136, 139}, with.NH = 4, with.NKV = 2, with.HS = 6;
            for (const bool alibi : {false, true}) {
                with.alibi = with.gate = alibi;
                with.bias = alibi && variant.bias != BiasRole::kNone ? ScoreBias::kPerRow : ScoreBias::kConstant;
                with.extra = alibi && variant.normalization == Normalization::kExp ? ExtraColumn::kLearnedLogit
                                                                                   : ExtraColumn::kNone;
                add(with);
            }
        }
        // Every extra column or bias under every window, with and without ALiBi.
        c.cu_seqlens = {0, 3, 73}, c.extra_logit = 0.7;
        for (AttentionCase with : columns_and_biases(c))
            for (const auto& [window, pinned] : {std::pair{0, 0}, {5, 0}, {5, 3}, {66, 2}})
                for (const bool alibi : {false, true})
                    with.window = window, with.pinned = pinned, with.alibi = alibi, add(with);
        // A gate per head: alone, with grouped heads and several documents, and with a learned column.
        AttentionCase gated{.weighting = std::string(variant.name), .HS = 12, .cu_seqlens = {0, 70}, .gate = true};
        gated.positive = c.positive;
        add(gated);
        gated.NH = 6, gated.NKV = 2, gated.cu_seqlens = {0, 1, 20, 90, 155};
        for (AttentionCase with : columns_and_biases(gated)) add(with), with.VS = 24, add(with);
        // A bias on every key: alone, over tiles, with grouped heads, ALiBi, gate, windows and patterns.
        AttentionCase biased{.weighting = std::string(variant.name), .HS = 7, .cu_seqlens = {0, 5}, .key_bias = true};
        biased.positive = c.positive, biased.bias_value = -1.5;
        add(biased);
        biased.NH = 6, biased.NKV = 2, biased.cu_seqlens = {0, 1, 20, 90, 91, 155};
        for (AttentionCase with : columns_and_biases(biased))
            add(with), with.window = 5, with.pinned = 3, with.alibi = with.gate = true, add(with);
        for (size_t i = 0; i < std::size(kPatterns); i += 3) add(kPatterns[i].of(biased));
        if (takes_extra_column(c.spec().weighting)) c.extra = ExtraColumn::kLearnedLogit, c.sink_shift = 100, add(c);
        c.positive = false, c.alibi = false;
        if (variant.name == "kernel_normalized") add(c);  // scores of either sign
    }
    return all;
}

class Attention : public testing::TestWithParam<AttentionCase> {};

template <class T>
void expect_oracle(const AttentionCase& c, double roundings) {
    AttentionRun<T> run(c);
    run.forward();
    std::vector<double> out, lse;
    run.oracle(out, lse);
    if (std::is_same_v<T, bf16> && cpu::avx512_bf16::available())
        expect_near(widened(run.out), out, 0x1p-8, "out");
    else
        expect_close(run.out, out, roundings, "out", c.magnitude());
    if (is_normalized(c.spec().weighting)) expect_close(run.lse, lse, roundings, "lse", 4);
}

// fp32 and fp64: a sum of at most 155 products of order one, and an exp of 2 ulp whose argument is of order 10.
TEST_P(Attention, ForwardMatchesTheOracleInFp64) {
    expect_oracle<double>(GetParam(), 200);
}
TEST_P(Attention, ForwardMatchesTheOracleInFp32) {
    expect_oracle<float>(GetParam(), 200);
}
// Blocks multiply weights rounded to bf16: each output has the errors of its terms, up to 2^-9 of each and of either
// sign, so they are measured against all outputs.
TEST_P(Attention, ForwardMatchesTheOracleInBf16) {
    expect_oracle<bf16>(GetParam(), 200);
}

TEST_P(Attention, BackwardMatchesCentralDifferences) {
    AttentionRun<double> run(GetParam());
    run.forward();
    run.backward();
    const auto loss = [&] {
        run.forward();
        return dot(run.out, run.dout);
    };
    const size_t stride = std::max<size_t>(1, run.qkv.size() / 150) | 1;
    expect_gradient(run.qkv, run.dqkv, loss, "qkv", stride);
    if (!run.gate.empty()) expect_gradient(run.gate, run.dgate, loss, "gate", run.gate.size() / 100 + 1);
    if (!run.key_bias.empty())
        expect_gradient(run.key_bias, run.dkey_bias, loss, "key_bias", (run.key_bias.size() / 100) | 1);
    for (const auto& [learned, gradient, name] :
         {std::tuple{&run.sink, &run.dsink, "sink_logit"}, {&run.bias, &run.dbias, "score_bias"}}) {
        if (learned->empty()) continue;
        expect_gradient(*learned, *gradient, loss, name);
        const std::vector<double> once = *gradient;
        run.forward();
        run.backward(Write::kAccumulate);
        for (size_t h = 0; h < once.size(); ++h) EXPECT_DOUBLE_EQ((*gradient)[h], 2 * once[h]) << name;
    }
}

// fp32 and bf16 backward against fp64 on the same rounded inputs.
template <class T>
void expect_backward(const AttentionCase& c, double tolerance) {
    AttentionRun<T> run(c);
    run.forward();
    run.backward();
    AttentionRun<double> exact = run.widened_run();
    exact.forward();
    exact.backward();
    std::vector<double> seen = widened(run.dqkv);
    for (const T dz : run.dgate) seen.push_back(static_cast<double>(static_cast<Accumulator<T>>(dz)));
    exact.dqkv.insert(exact.dqkv.end(), exact.dgate.begin(), exact.dgate.end());
    expect_near(seen, exact.dqkv, tolerance, "dqkv, dgate");
    expect_near(widened(run.dkey_bias), exact.dkey_bias, tolerance, "dkey_bias");
}
TEST_P(Attention, BackwardInFp32IsCloseToFp64) {
    expect_backward<float>(GetParam(), 1e-5);
}
// The saved output, which delta is made of, and the results are rounded to 8 bits. A kernel's scores of one channel can
// add up to little, and what they are divided by takes the rounding of delta along, and that of weights and dscores.
TEST_P(Attention, BackwardInBf16IsCloseToFp64) {
    const AttentionCase& c = GetParam();
    const double cancelled = cpu::avx512_bf16::available() ? 1e-1 : 5e-2;
    expect_backward<bf16>(c, c.weighting == "kernel_normalized" && c.HS == 1 ? cancelled : 1e-2);
}

template <class T>
void expect_same_bits(const AttentionCase& c) {
    AttentionRun<T> one(c, 1);
    one.forward();
    one.backward();
    for (const int threads : {1, 2, 3}) {
        AttentionRun<T> other(c, threads);
        other.forward();
        other.backward();
        EXPECT_TRUE(same_bits(one.out, other.out) && same_bits(one.lse, other.lse)) << threads;
        EXPECT_TRUE(same_bits(one.dqkv, other.dqkv) && same_bits(one.dsink, other.dsink)) << threads;
        EXPECT_TRUE(same_bits(one.dgate, other.dgate) && same_bits(one.dbias, other.dbias)) << threads;
        EXPECT_TRUE(same_bits(one.dkey_bias, other.dkey_bias)) << threads;
    }
}
TEST_P(Attention, BitsDoNotDependOnThreadsOrRepetition) {
    expect_same_bits<float>(GetParam());
    expect_same_bits<bf16>(GetParam());
}

// A token changes the outputs of those that see it, and no bit of any other's: under a causal mask of no earlier one's.
TEST_P(Attention, ATokenReachesThoseThatSeeItAndNobodyElse) {
    AttentionRun<float> run(GetParam());
    run.forward();
    const std::vector<float> before = run.out, inputs = run.qkv;
    const AttentionCase& c = run.c;
    const int64_t N = c.N(), row = c.out_columns(), token = c.columns(), first = c.cu_seqlens[c.cu_seqlens.size() - 2];
    // A key that repels, or is far, may have a weight of nothing: so only where few compete and none weighs exactly 0.
    double lse = 0;
    const bool all_weigh = !c.alibi && c.extra == ExtraColumn::kNone && oracle_row(c, {-1.0, 1.0}, 0, lse)[0] != 0;
    for (const int64_t changed : {N - 1, first, (first + N) / 2}) {
        run.qkv = inputs;
        for (int64_t x = changed * token; x < (changed + 1) * token; ++x) run.qkv[static_cast<size_t>(x)] += 3;
        run.forward();
        for (int64_t i = 0; i < N; ++i) {
            bool same = true;
            for (int64_t x = i * row; x < (i + 1) * row; ++x)
                same = same && before[static_cast<size_t>(x)] == run.out[static_cast<size_t>(x)];
            const bool sees = i >= first && oracle_visible(c, i - first, changed - first);
            if (!sees || all_weigh) ASSERT_EQ(same, !sees) << "query " << i << ", token " << changed;
        }
    }
}

TEST_P(Attention, ADocumentGivesTheSameBitsWhereverItLies) {
    AttentionCase c = GetParam();
    AttentionRun<float> packed(c);
    packed.forward();
    packed.backward();
    const int64_t begin = c.cu_seqlens[c.cu_seqlens.size() - 2], n = c.N() - begin;
    AttentionCase alone_case = c;
    alone_case.cu_seqlens = {0, static_cast<int32_t>(n)};
    AttentionRun<float> alone(alone_case);
    const auto tail = [&](const std::vector<float>& from) {
        return std::vector<float>(from.begin() + static_cast<std::ptrdiff_t>(from.size() / static_cast<size_t>(c.N()) *
                                                                             static_cast<size_t>(begin)),
                                  from.end());
    };
    alone.qkv = tail(packed.qkv), alone.dout = tail(packed.dout), alone.gate = tail(packed.gate);
    alone.key_bias = tail(packed.key_bias);
    alone.forward();
    alone.backward();
    EXPECT_TRUE(same_bits(alone.out, tail(packed.out)));
    EXPECT_TRUE(same_bits(alone.dqkv, tail(packed.dqkv)));
    EXPECT_TRUE(same_bits(alone.dkey_bias, tail(packed.dkey_bias)));
}

TEST_P(Attention, WeightsForProbesMatchTheOracle) {
    AttentionCase c = GetParam();
    c.gate = false;  // weights are before the gate
    AttentionRun<double> run(c);
    std::vector<double> out, lse;
    run.oracle(out, lse);
    const int64_t begin = c.cu_seqlens[c.cu_seqlens.size() - 2], n = c.N() - begin, h = c.NH - 1, g = c.NKV - 1;
    std::vector<double> weights(static_cast<size_t>(n * n));
    const auto head = [&](Tensor t, int64_t index) {
        Tensor rows(t.ptr<double>() + begin * t.row_stride + index * c.HS, DType::kF64, {n, c.HS});
        rows.row_stride = t.row_stride;
        return rows;
    };
    std::vector<double> key_bias;
    for (int64_t j = begin; c.key_bias && j < c.N(); ++j)
        key_bias.push_back(run.key_bias[static_cast<size_t>(j * c.NH + h)]);
    attention_weights(weights, {}, head(run.parts(run.qkv).q, h), head(run.parts(run.qkv).k, g),
                      run.learned().empty() ? 0 : run.learned()[static_cast<size_t>(h)], h, c.NH, c.spec(), key_bias);
    const std::vector<double> v = DenseQkv<double>(c, run.qkv).v;
    const int64_t VS = c.value_size();
    for (int64_t i = 0; i < n; ++i)
        for (int64_t x = 0; x < VS; ++x) {
            double sum = 0;
            for (int64_t j = 0; j < n; ++j)
                sum += weights[static_cast<size_t>(i * n + j)] *
                       v[static_cast<size_t>(((begin + j) * c.NKV + g) * VS + x)];
            ASSERT_NEAR(sum, out[static_cast<size_t>(((begin + i) * c.NH + h) * VS + x)], 1e-12);
        }
}

INSTANTIATE_TEST_SUITE_P(Cases, Attention, testing::ValuesIn(cases()));

// Scores of +-1e4 and a sink logit far above them: the online maximum must take part in both.
TEST(AttentionExtremes, StayFinite) {
    for (const VariantInfo& variant : variants())
        for (const double spread : {9.0, 100.0})
            for (const ExtraColumn extra : {ExtraColumn::kNone, ExtraColumn::kConstant}) {
                if (variant.normalization != Normalization::kExp && extra != ExtraColumn::kNone) continue;
                AttentionCase c{.weighting = std::string(variant.name),
                                .extra = extra,
                                .extra_logit = 100,
                                .NH = 2,
                                .cu_seqlens = {0, 90},
                                .spread = spread};
                AttentionRun<float> run(c);
                run.forward();
                run.backward();
                for (const float x : run.out) ASSERT_TRUE(std::isfinite(x));
                for (const float x : run.dqkv) ASSERT_TRUE(std::isfinite(x));
            }
}

// Scores that all weigh nothing: the sum is 0, and nothing is divided by it.
TEST(AttentionExtremes, RowsWithoutWeightHaveNoOutputAndNoGradient) {
    for (const char* weighting : {"relu", "kernel_normalized"}) {
        AttentionRun<float> run(
            {.weighting = weighting, .NH = 2, .cu_seqlens = {0, 70}, .gate = true, .positive = true});
        for (size_t i = 0; i < run.qkv.size(); ++i)
            if (static_cast<int64_t>(i) / run.c.HS % 4 == 2) run.qkv[i] = -run.qkv[i];  // keys, behind two query heads
        run.forward();
        run.backward();
        EXPECT_EQ(run.out, std::vector<float>(run.out.size())) << weighting;
        EXPECT_EQ(run.dqkv, std::vector<float>(run.dqkv.size())) << weighting;
        EXPECT_EQ(run.dgate, std::vector<float>(run.dgate.size())) << weighting;
    }
}

TEST(AttentionChecks, WrongShapesAreRefused) {
    const auto refused = [](const AttentionCase& c, auto&& change) {
        AttentionRun<float> run(c);
        change(run);
        EXPECT_THROW(run.forward(), Error);
    };
    refused({.NH = 3, .NKV = 2}, [](auto&) {});
    refused({.HS = 257}, [](auto&) {});
    refused({.VS = 513}, [](auto&) {});
    refused({}, [](auto& run) { run.c.cu_seqlens = {0, 3, 3, 5}; });
    refused({}, [](auto& run) { run.c.cu_seqlens = {1, 5}; });
    refused({}, [](auto& run) { run.c.extra = ExtraColumn::kLearnedLogit; });
    refused({.weighting = "sigmoid"}, [](auto& run) { run.c.extra = ExtraColumn::kConstant; });
    refused({.weighting = "sigmoid_normalized"}, [](auto& run) { run.c.extra = ExtraColumn::kConstant; });
    refused({.weighting = "sigmoid"}, [](auto& run) { run.c.bias = ScoreBias::kLearned; });
    refused({.weighting = "sigmoid"}, [](auto& run) { run.bias = {0}; });
    for (const VariantInfo& variant : variants())
        if (variant.bias == BiasRole::kNone)
            refused({.weighting = std::string(variant.name), .bias = ScoreBias::kLearned}, [](auto&) {});
    refused({}, [](auto& run) { run.c.window = -1; });
    AttentionRun<float> wide({.VS = 16});
    AttentionTensors t = wide.tensors();
    t.out.shape = {5, 2, 8};  // two heads for one twice as wide
    EXPECT_THROW(attention_forward(t, wide.c.cu_seqlens, wide.c.spec(), {}), Error);
}

}  // namespace
}  // namespace plimsoll
