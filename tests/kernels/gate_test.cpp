// Gates of every function, combination and shape of z against their definition; the softmax over heads.
#include "kernels/gate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention_tasks.h"
#include "support/gate_oracle.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kNH = 3, kHS = 7;

// One call of both ways, with y and out in the middle of wider rows.
template <class T>
struct GateRun {
    GateCase c;
    int64_t N;
    std::vector<T> y, dout, out, dy;
    std::vector<T> z, dz;                             // per token
    std::vector<Accumulator<T>> constant, dconstant;  // the same for all tokens

    explicit GateRun(const GateCase& c, int64_t N = 5) : c(c), N(N) {
        y = normals<T>(N * (kNH + 2) * kHS, "y"), dout = normals<T>(N * kNH * kHS, "dout");
        out.resize(y.size()), dy.resize(dout.size());
        const int64_t size = c.z_shape(N, kNH, kHS).elements();
        if (c.constant)
            constant = normals<Accumulator<T>>(size, "z", 2), dconstant.resize(constant.size());
        else
            z = normals<T>(size, "z", 2), dz.resize(z.size());
    }
    Tensor wide(std::vector<T>& t) { return view(t, {N, kNH + 2, kHS}).slice_columns(1, kNH); }
    Tensor narrow(std::vector<T>& t) { return view(t, {N, kNH, kHS}); }
    Tensor gate() { return c.constant ? view(constant, shape()) : view(z, shape()); }
    Tensor dgate() { return c.constant ? view(dconstant, shape()) : view(dz, shape()); }
    Shape shape() const { return c.z_shape(N, kNH, kHS); }
    void forward(int threads = 1) { gate_forward(wide(out), wide(y), gate(), c.spec, {.threads = threads}); }
    void backward(int threads = 1, Write write = Write::kOverwrite) {
        gate_backward(narrow(dy), dgate(), narrow(dout), wide(y), gate(), c.spec, write, {.threads = threads});
    }
    std::vector<double> values_of_z() const { return c.constant ? widened(constant) : widened(z); }
    // Row by row, without what lies beside it.
    std::vector<T> inner(const std::vector<T>& t) const {
        std::vector<T> of_heads;
        for (int64_t n = 0; n < N; ++n)
            for (int64_t i = 0; i < kNH * kHS; ++i)
                of_heads.push_back(t[static_cast<size_t>((n * (kNH + 2) + 1) * kHS + i)]);
        return of_heads;
    }
};

template <class T>
class GateTest : public testing::Test {};
TYPED_TEST_SUITE(GateTest, AllFloats);

TYPED_TEST(GateTest, ForwardIsItsDefinitionAndLeavesTheRestAlone) {
    for (const GateCase& c : gate_cases()) {
        SCOPED_TRACE(c.name());
        GateRun<TypeParam> run(c);
        run.forward();
        // One exp of 2 ulp, a quotient and a product, all of order one.
        expect_close(run.inner(run.out), gate_oracle(c, widened(run.inner(run.y)), run.values_of_z(), run.N, kNH, kHS),
                     8, "out", 4);
        for (int64_t n = 0; n < run.N; ++n)
            for (int64_t i = 0; i < kHS; ++i)
                for (const int64_t h : {int64_t{0}, kNH + 1})
                    EXPECT_EQ(static_cast<Accumulator<TypeParam>>(
                                  run.out[static_cast<size_t>((n * (kNH + 2) + h) * kHS + i)]),
                              0);
    }
}

TEST(Gate, BackwardMatchesCentralDifferences) {
    for (const GateCase& c : gate_cases()) {
        SCOPED_TRACE(c.name());
        GateRun<double> run(c);
        run.backward();
        const auto loss = [&] {
            run.forward();
            return dot(run.inner(run.out), run.dout);
        };
        std::vector<double> dy(run.y.size());  // of what lies beside: nothing
        for (int64_t n = 0; n < run.N; ++n)
            for (int64_t i = 0; i < kNH * kHS; ++i)
                dy[static_cast<size_t>((n * (kNH + 2) + 1) * kHS + i)] = run.dy[static_cast<size_t>(n * kNH * kHS + i)];
        expect_gradient(run.y, dy, loss, "y");
        expect_gradient(c.constant ? run.constant : run.z, c.constant ? run.dconstant : run.dz, loss, "z");
    }
}

// In double it is what central differences say, see above.
TYPED_TEST(GateTest, BackwardIsThatOfDoubles) {
    for (const GateCase& c : gate_cases()) {
        SCOPED_TRACE(c.name());
        GateRun<TypeParam> run(c);
        GateRun<double> exact(c);
        exact.y = widened(run.y), exact.dout = widened(run.dout);
        (c.constant ? exact.constant : exact.z) = run.values_of_z();
        run.backward(), exact.backward();
        // Sums of up to 105 products of order 16, and a sigmoid of a few roundings.
        expect_close(run.dy, exact.dy, 8, "dy", 16);
        if (c.constant)
            expect_close(run.dconstant, exact.dconstant, 120, "dz", 16);
        else
            expect_close(run.dz, exact.dz, 120, "dz", 16);
    }
}

TYPED_TEST(GateTest, BackwardInPlaceAndForAnyNumberOfThreadsGivesTheSameBits) {
    for (const GateCase& c : gate_cases()) {
        SCOPED_TRACE(c.name());
        GateRun<TypeParam> run(c, 801), in_place(c, 801);  // enough rows to be worth several threads
        run.backward(1), run.forward(1);
        in_place.forward(3);
        gate_backward(in_place.narrow(in_place.dout), in_place.dgate(), in_place.narrow(in_place.dout),
                      in_place.wide(in_place.y), in_place.gate(), c.spec, Write::kOverwrite, {.threads = 3});
        EXPECT_TRUE(same_bits(run.out, in_place.out));
        EXPECT_TRUE(same_bits(run.dy, in_place.dout));
        EXPECT_TRUE(same_bits(run.dz, in_place.dz));
        EXPECT_TRUE(same_bits(run.dconstant, in_place.dconstant));
        gate_forward(in_place.wide(in_place.y), in_place.wide(in_place.y), in_place.gate(), c.spec, {.threads = 2});
        EXPECT_TRUE(same_bits(in_place.inner(in_place.y), run.inner(run.out)));
    }
}

// Micro batches add up what all tokens share; what a token has its own of is written anew.
TEST(Gate, AccumulatesOnlyWhatTokensShare) {
    for (const GateCase& c : gate_cases()) {
        SCOPED_TRACE(c.name());
        GateRun<double> once(c), again(c);
        once.backward();
        again.backward();
        again.backward(1, Write::kAccumulate);
        EXPECT_EQ(once.dz, again.dz);
        for (size_t i = 0; i < once.dconstant.size(); ++i) EXPECT_EQ(2 * once.dconstant[i], again.dconstant[i]);
    }
}

// Ends of the functions' ranges: nothing overflows, and a closed gate is closed.
TEST(Gate, SaturatesWithoutOverflow) {
    std::vector<float> y{2, 2, 2, 2}, z{-200, 200, -88, 0}, out(4), dz(4), dy(4), dout{1, 1, 1, 1};
    const auto run = [&](GateFunction f) {
        gate_forward(view(out, {4, 1, 1}), view(y, {4, 1, 1}), view(z, {4, 1, 1}), {.function = f}, {});
        gate_backward(view(dy, {4, 1, 1}), view(dz, {4, 1, 1}), view(dout, {4, 1, 1}), view(y, {4, 1, 1}),
                      view(z, {4, 1, 1}), {.function = f}, Write::kOverwrite, {});
        for (const float v : {out[0], out[1], out[2], dz[0], dz[1], dz[2], dy[0]}) EXPECT_TRUE(std::isfinite(v));
    };
    run(GateFunction::kSigmoid);
    EXPECT_EQ(out[0], 0);
    EXPECT_EQ(out[1], 2);
    EXPECT_EQ(out[3], 1);
    EXPECT_EQ(dz[3], 0.5f);
    run(GateFunction::kHalfSigmoid);
    EXPECT_EQ(out[0], 1);
    EXPECT_EQ(out[1], 2);
    EXPECT_EQ(out[3], 1.5f);
    EXPECT_EQ(dz[3], 0.25f);
    run(GateFunction::kSilu);
    EXPECT_EQ(out[0], 0);
    EXPECT_EQ(out[1], 400);
    EXPECT_EQ(out[3], 0);
    EXPECT_EQ(dz[3], 1);
    EXPECT_DOUBLE_EQ(gate_value(GateFunction::kHalfSigmoid, 1.0), 0.5 + 0.5 / (1 + std::exp(-1.0)));
    EXPECT_DOUBLE_EQ(gate_value(GateFunction::kIdentity, -3.0), -3.0);
}

TYPED_TEST(GateTest, OfAHeadInsideCoreAttentionIsTheSameGate) {
    for (const int64_t N : {5, 3001}) {
        std::vector<TypeParam> y = normals<TypeParam>(N * kNH * kHS, "y"),
                               gate = normals<TypeParam>(N * kNH, "gate", 2), again = y;
        std::vector<double> expected;
        const std::vector<double> from = widened(y), z = widened(gate);
        for (size_t i = 0; i < from.size(); ++i) expected.push_back(from[i] / (1 + std::exp(-z[i / kHS])));
        head_gate_forward(view(y, {N, kNH, kHS}), view(gate, {N, kNH}), {.threads = 1});
        head_gate_forward(view(again, {N, kNH, kHS}), view(gate, {N, kNH}), {.threads = 3});
        expect_close(y, expected, 8, "out");
        EXPECT_TRUE(same_bits(y, again));
    }
}

TYPED_TEST(GateTest, SoftmaxOverHeadsHasMeanOne) {
    using T = TypeParam;
    for (const auto& [N, NH] : {std::pair<int64_t, int64_t>{4, 1}, {5, 3}, {900, 37}}) {
        std::vector<T> z = normals<T>(N * NH, "z", 3), out(z.size()), again = z;
        head_softmax_forward(view(out, {N, NH}), view(z, {N, NH}), {.threads = 1});
        head_softmax_forward(view(again, {N, NH}), view(again, {N, NH}), {.threads = 3});
        EXPECT_TRUE(same_bits(out, again));
        const std::vector<double> from = widened(z);
        std::vector<double> expected;
        for (int64_t n = 0; n < N; ++n) {
            double sum = 0;
            for (int64_t h = 0; h < NH; ++h) sum += std::exp(from[static_cast<size_t>(n * NH + h)]);
            for (int64_t h = 0; h < NH; ++h)
                expected.push_back(static_cast<double>(NH) * std::exp(from[static_cast<size_t>(n * NH + h)]) / sum);
        }
        expect_close(out, expected, 60, "out");  // an exp of a difference of order 10, of 2 ulp, and a sum of NH
    }
}

TEST(HeadSoftmax, BackwardMatchesCentralDifferences) {
    constexpr int64_t N = 3, NH = 4;
    std::vector<double> z = normals<double>(N * NH, "z"), dout = normals<double>(N * NH, "dout"), out(z.size()),
                        dz(z.size());
    const auto loss = [&] {
        head_softmax_forward(view(out, {N, NH}), view(z, {N, NH}), {});
        return dot(out, dout);
    };
    loss();
    head_softmax_backward(view(dz, {N, NH}), view(dout, {N, NH}), view(out, {N, NH}), {});
    const std::vector<double> gradient = dz;
    expect_gradient(z, gradient, loss, "z");
    loss();
    head_softmax_backward(view(dout, {N, NH}), view(dout, {N, NH}), view(out, {N, NH}), {.threads = 2});
    EXPECT_EQ(dout, gradient);  // in place
}

// Scores that differ by more than the range of exp: the largest takes all.
TEST(HeadSoftmax, DoesNotOverflow) {
    std::vector<float> z{1000, -1000, 0}, out(3);
    head_softmax_forward(view(out, {1, 3}), view(z, {1, 3}), {});
    EXPECT_EQ(out, (std::vector<float>{3, 0, 0}));
}

TEST(Gate, WrongShapesAreRefused) {
    GateRun<float> run({});
    std::vector<float> z(100);
    std::vector<double> wide(100);
    const auto refused = [&](Tensor gate) {
        EXPECT_THROW(gate_forward(run.wide(run.out), run.wide(run.y), gate, {}, {}), Error) << gate.shape.to_string();
    };
    refused(view(z, {5, kNH + 1, kHS})), refused(view(z, {1, kNH, kHS})), refused(view(z, {5, kNH, 2}));
    refused(view(z, {kNH, 2})), refused(view(z, {5})), refused(view(wide, {kNH, 1}));
    refused(view(z, {5, kNH + 1, 1}).slice_columns(0, kNH));
    EXPECT_THROW(gate_forward(run.narrow(run.dout), view(run.y, {5, kNH + 2, kHS}), run.gate(), {}, {}), Error);
    EXPECT_THROW(gate_backward(run.narrow(run.dy), view(z, {5, kNH, 1}), run.narrow(run.dout), run.wide(run.y),
                               run.gate(), {}, Write::kOverwrite, {}),
                 Error);
    EXPECT_THROW(gate_forward(run.wide(run.out), run.wide(run.y), run.gate(), {}, {.threads = 0}), Error);
    EXPECT_THROW(head_gate_forward(run.narrow(run.dout), view(z, {5, kNH + 1}).slice_columns(0, kNH), {}), Error);
    EXPECT_THROW(head_gate_forward(run.narrow(run.dout), {}, {}), Error);
    EXPECT_THROW(head_softmax_forward(view(z, {5, 2}), view(z, {2, 5}), {}), Error);
    EXPECT_THROW(head_softmax_backward(view(z, {5, 2}), view(z, {2, 5}), view(z, {5, 2}), {}), Error);
}

}  // namespace
}  // namespace plimsoll
