// A virtual key after attention without it, against attention that has it among its keys.
#include "kernels/extra_key.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kNH = 4, kNKV = 2, kHS = 6;
constexpr double kScale = 0.41;

struct Kind {
    bool shared, value, gate;
};
constexpr Kind kKinds[] = {{false, true, false}, {false, false, true}, {true, true, true}, {true, false, false}};

template <class T>
struct ExtraKeyRun {
    using R = Accumulator<T>;
    Kind kind;
    int64_t N;
    std::vector<T> q, k, v, gate, dout, out, dq, dk, dv, dgate;
    std::vector<R> key, value, dkey, dvalue, score, dscore, lse;
    std::vector<int32_t> documents;
    AttentionSpec spec{.scale = kScale, .window = 3};

    explicit ExtraKeyRun(Kind kind, int64_t N = 9) : kind(kind), N(N) {
        q = normals<T>(N * kNH * kHS, "q"), dout = normals<T>(N * kNH * kHS, "dout");
        k = normals<T>(N * kNKV * kHS, "k"), v = normals<T>(N * kNKV * kHS, "v");
        if (kind.gate) gate = normals<T>(N * kNH, "gate", 2);
        key = normals<R>((kind.shared ? 1 : kNH) * kHS, "key");
        if (kind.value) value = normals<R>(static_cast<int64_t>(key.size()), "value");
        out.resize(q.size()), dq.resize(q.size()), dk.resize(k.size()), dv.resize(v.size()), dgate.resize(gate.size());
        dkey.resize(key.size()), dvalue.resize(value.size());
        const auto heads = static_cast<size_t>(N * kNH);
        score.resize(heads), dscore.resize(heads), lse.resize(heads);
        documents = {0, static_cast<int32_t>(N / 3), static_cast<int32_t>(N)};
    }
    Shape wide() const { return {N, kNH, kHS}; }
    Shape per_head() const { return {kind.shared ? 1 : kNH, kHS}; }
    AttentionTensors t() {
        return {.out = view(out, wide()),
                .lse = view(lse, {kNH, N}),
                .q = view(q, wide()),
                .k = view(k, {N, kNKV, kHS}),
                .v = view(v, {N, kNKV, kHS}),
                .sink_logit = {},
                .gate = view(gate, {N, kNH})};
    }
    AttentionTensors d() {
        return {.out = view(dout, wide()),
                .lse = {},
                .q = view(dq, wide()),
                .k = view(dk, {N, kNKV, kHS}),
                .v = view(dv, {N, kNKV, kHS}),
                .sink_logit = {},
                .gate = view(dgate, {N, kNH})};
    }
    ExtraKey extra() {
        return {.k = view(key, per_head()), .v = view(value, per_head()), .score = view(score, {N, kNH})};
    }
    ExtraKey dextra() {
        return {.k = view(dkey, per_head()), .v = view(dvalue, per_head()), .score = view(dscore, {N, kNH})};
    }
    void forward(int threads = 1) {
        attention_forward(t(), documents, spec, {.threads = threads});
        extra_key_forward(t(), extra(), kScale, {.threads = threads});
    }
    void backward(int threads = 1, Write write = Write::kOverwrite) {
        extra_key_backward(dextra(), d().out, t(), extra(), kScale, write, {.threads = threads});
        attention_backward(d(), t(), documents, spec, write, {.threads = threads});
        extra_key_backward_query(d().q, view(dscore, {N, kNH}), extra().k, kScale, {.threads = threads});
    }
};

// Attention with the virtual key as one more column of every row, dense, in double.
template <class T>
std::vector<double> dense(ExtraKeyRun<T>& run) {
    const std::vector<double> q = widened(run.q), k = widened(run.k), v = widened(run.v), gate = widened(run.gate);
    std::vector<double> out(q.size());
    for (int64_t n = 0; n < run.N; ++n)
        for (int64_t h = 0; h < kNH; ++h) {
            const double* query = q.data() + (n * kNH + h) * kHS;
            double sum = 0;
            std::vector<double> y(kHS);
            const auto add = [&](auto&& key, auto&& value) {
                double s = 0;
                for (int64_t c = 0; c < kHS; ++c) s += query[c] * key(c);
                const double e = std::exp(kScale * s);
                sum += e;
                for (int64_t c = 0; c < kHS; ++c) y[static_cast<size_t>(c)] += e * value(c);
            };
            const int64_t own = run.kind.shared ? 0 : h * kHS, first = n < run.documents[1] ? 0 : run.documents[1];
            add([&](int64_t c) { return run.key[static_cast<size_t>(own + c)]; },
                [&](int64_t c) { return run.kind.value ? run.value[static_cast<size_t>(own + c)] : 0; });
            for (int64_t j = std::max(first, n - run.spec.window + 1); j <= n; ++j) {
                const auto at = [&](int64_t c) { return static_cast<size_t>((j * kNKV + h / (kNH / kNKV)) * kHS + c); };
                add([&](int64_t c) { return k[at(c)]; }, [&](int64_t c) { return v[at(c)]; });
            }
            const double g = run.kind.gate ? 1 / (1 + std::exp(-gate[static_cast<size_t>(n * kNH + h)])) : 1;
            for (int64_t c = 0; c < kHS; ++c)
                out[static_cast<size_t>((n * kNH + h) * kHS + c)] = g * y[static_cast<size_t>(c)] / sum;
        }
    return out;
}

template <class T>
class ExtraKeyTest : public testing::Test {};
TYPED_TEST_SUITE(ExtraKeyTest, AllFloats);

// Attention's own roundings, and for bf16 a second one of out, 2^-8 of what may cancel.
TYPED_TEST(ExtraKeyTest, IsOneMoreKeyOfEveryRow) {
    for (const Kind& kind : kKinds) {
        ExtraKeyRun<TypeParam> run(kind);
        run.forward();
        expect_close(run.out, dense(run), std::is_same_v<TypeParam, bf16> ? 0x1p16 : 100, "out");
    }
}

TEST(ExtraKey, GradientsMatchCentralDifferences) {
    for (const Kind& kind : kKinds) {
        ExtraKeyRun<double> run(kind);
        run.forward();
        run.backward();
        const auto loss = [&] {
            ExtraKeyRun<double> again = run;
            again.forward();
            return dot(again.out, again.dout);
        };
        expect_gradient(run.q, run.dq, loss, "q");
        expect_gradient(run.k, run.dk, loss, "k");
        expect_gradient(run.v, run.dv, loss, "v");
        expect_gradient(run.gate, run.dgate, loss, "gate");
        expect_gradient(run.key, run.dkey, loss, "key");
        expect_gradient(run.value, run.dvalue, loss, "value");
        const std::vector<double> once = run.dkey;
        run.backward(1, Write::kAccumulate);
        for (size_t i = 0; i < once.size(); ++i) EXPECT_DOUBLE_EQ(run.dkey[i], 2 * once[i]);
    }
}

TYPED_TEST(ExtraKeyTest, BitsDoNotDependOnThreads) {
    ExtraKeyRun<TypeParam> one(Kind{false, true, true}, 1203), three(Kind{false, true, true}, 1203);
    one.forward(1), three.forward(3);
    one.backward(1), three.backward(3);
    EXPECT_TRUE(same_bits(one.out, three.out) && same_bits(one.lse, three.lse));
    EXPECT_TRUE(same_bits(one.dq, three.dq) && same_bits(one.dkey, three.dkey) && same_bits(one.dvalue, three.dvalue));
}

// A row that saw nothing attends to the virtual key alone; logits far apart neither overflow nor give NaN.
TYPED_TEST(ExtraKeyTest, EmptyRowsAndFarLogits) {
    using R = Accumulator<TypeParam>;
    ExtraKeyRun<TypeParam> run(Kind{false, true, false}, 3);
    run.forward();
    const R e0 = run.score[0];
    constexpr R kInfinity = std::numeric_limits<R>::infinity();
    for (int64_t h = 0; h < kNH; ++h) run.lse[static_cast<size_t>(h * run.N)] = -kInfinity;  // row 0
    for (int64_t i = 0; i < kNH * kHS; ++i) run.out[static_cast<size_t>(i)] = TypeParam(0.0f);
    for (int64_t h = 0; h < kNH; ++h) run.lse[static_cast<size_t>(h * run.N + 1)] = R(1e4);
    for (int64_t h = 0; h < kNH; ++h) run.lse[static_cast<size_t>(h * run.N + 2)] = R(-1e4);
    const std::vector<double> before = widened(run.out);
    extra_key_forward(run.t(), run.extra(), kScale, {});
    EXPECT_EQ(run.lse[0], e0);
    const std::vector<double> out = widened(run.out);
    for (int64_t i = 0; i < kNH * kHS; ++i) {
        const auto at = [&](int64_t n) { return out[static_cast<size_t>(n * kNH * kHS + i)]; };
        const double value = static_cast<double>(run.value[static_cast<size_t>(i)]);
        EXPECT_NEAR(at(0), value, 0.004 * std::abs(value));  // bf16 rounds by 2^-9
        EXPECT_EQ(at(1), before[static_cast<size_t>(kNH * kHS + i)]);
        EXPECT_NEAR(at(2), value, 0.004 * std::abs(value));
    }
    run.backward();
    for (const auto* values : {&run.dkey, &run.dvalue})
        for (const R value : *values) EXPECT_TRUE(std::isfinite(value));
    for (const double value : widened(run.dq)) EXPECT_TRUE(std::isfinite(value));
}

TYPED_TEST(ExtraKeyTest, BiasesOfHeadsAddAndSum) {
    using R = Accumulator<TypeParam>;
    for (const int64_t rows : {1, 4})
        for (const int64_t N : {3, 1203}) {
            std::vector<TypeParam> x = normals<TypeParam>(N * kNH * kHS, "x"), out(x.size()), other(x.size());
            std::vector<R> bias = normals<R>(rows * kHS, "bias"), dbias(bias.size(), R(1)), again = dbias;
            const auto wide = [&](std::vector<TypeParam>& values) { return view(values, {N, kNH, kHS}); };
            head_bias_forward(wide(out), wide(x), view(bias, {rows, kHS}), {.threads = 1});
            head_bias_forward(wide(other), wide(x), view(bias, {rows, kHS}), {.threads = 3});
            EXPECT_TRUE(same_bits(out, other));
            std::vector<double> wanted = widened(x), sums(bias.size(), 1);
            for (size_t i = 0; i < wanted.size(); ++i) {
                const size_t at = i % (static_cast<size_t>(rows) * kHS);
                sums[at] += wanted[i];
                wanted[i] += static_cast<double>(bias[at]);
            }
            expect_close(out, wanted, 2, "out");
            head_bias_backward(view(dbias, {rows, kHS}), wide(x), Write::kAccumulate, {.threads = 1});
            head_bias_backward(view(again, {rows, kHS}), wide(x), Write::kAccumulate, {.threads = 3});
            EXPECT_TRUE(same_bits(dbias, again));
            expect_close(dbias, sums, 300, "dbias", 60);  // sums of 1203 x 4 values of order one
        }
}

TEST(ExtraKey, WrongShapesAreRefused) {
    ExtraKeyRun<float> run(Kind{false, true, true});
    const auto refused = [&](auto&& change) {
        AttentionTensors t = run.t();
        ExtraKey key = run.extra();
        change(t, key);
        EXPECT_THROW(extra_key_forward(t, key, kScale, {}), Error);
    };
    refused([&](AttentionTensors&, ExtraKey& key) { key.k = key.k.slice_rows(0, 2); });
    refused([&](AttentionTensors&, ExtraKey& key) { key.v = key.v.slice_rows(0, 1); });
    refused([&](AttentionTensors&, ExtraKey& key) { key.score = key.score.slice_rows(0, 2); });
    refused([&](AttentionTensors& t, ExtraKey&) { t.lse = {}; });
    refused([&](AttentionTensors& t, ExtraKey&) { t.gate = t.gate.slice_rows(0, 2); });
    ExtraKey d = run.dextra();
    d.v = {};
    EXPECT_THROW(extra_key_backward(d, run.d().out, run.t(), run.extra(), kScale, Write::kOverwrite, {}), Error);
    EXPECT_THROW(extra_key_backward_query(run.d().q, run.extra().score.slice_rows(0, 1), run.extra().k, kScale, {}),
                 Error);
    EXPECT_THROW(head_bias_forward(run.t().out, run.t().q, run.extra().k.slice_rows(0, 3), {}), Error);
}

}  // namespace
}  // namespace plimsoll
