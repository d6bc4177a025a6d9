#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention_tasks.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kNH = 3, kHS = 7;

template <class T>
struct GateRun {
    std::vector<T> y, dout, z, out, dy, dz;
    int64_t N;
    explicit GateRun(int64_t N = 5) : N(N) {
        y = normals<T>(N * kNH * kHS, "y"), dout = normals<T>(N * kNH * kHS, "dout");
        z = normals<T>(N * kNH * kHS, "z", 2);
        out.resize(y.size()), dy.resize(y.size()), dz.resize(z.size());
    }
    Tensor wide(std::vector<T>& t) { return view(t, {N, kNH, kHS}); }
    void forward(int threads = 1) { gate_forward(wide(out), wide(y), wide(z), {.threads = threads}); }
    void backward(int threads = 1) {
        gate_backward(wide(dy), wide(dz), wide(dout), wide(y), wide(z), {.threads = threads});
    }
};

template <class T>
class GateTest : public testing::Test {};
TYPED_TEST_SUITE(GateTest, AllFloats);

TYPED_TEST(GateTest, ForwardIsYTimesSigmoid) {
    GateRun<TypeParam> run;
    run.forward();
    std::vector<double> expected;
    const std::vector<double> y = widened(run.y), z = widened(run.z);
    for (size_t i = 0; i < y.size(); ++i) expected.push_back(y[i] / (1 + std::exp(-z[i])));
    expect_close(run.out, expected, 8, "out");  // one exp of 2 ulp, a quotient and a product
}

TEST(Gate, BackwardMatchesCentralDifferences) {
    GateRun<double> run;
    run.backward();
    const auto loss = [&] {
        run.forward();
        return dot(run.out, run.dout);
    };
    expect_gradient(run.y, run.dy, loss, "y");
    expect_gradient(run.z, run.dz, loss, "z");
}

TYPED_TEST(GateTest, BackwardInPlaceAndForAnyNumberOfThreadsGivesTheSameBits) {
    GateRun<TypeParam> run(3001), in_place(3001);  // enough rows to be worth several threads
    run.backward(1);
    gate_backward(in_place.wide(in_place.dout), in_place.wide(in_place.dz), in_place.wide(in_place.dout),
                  in_place.wide(in_place.y), in_place.wide(in_place.z), {.threads = 3});
    EXPECT_TRUE(same_bits(run.dy, in_place.dout));
    EXPECT_TRUE(same_bits(run.dz, in_place.dz));
}

TYPED_TEST(GateTest, OfAHeadMultipliesAllItsChannels) {
    for (const int64_t N : {5, 3001}) {
        GateRun<TypeParam> run(N);
        std::vector<TypeParam> gate = normals<TypeParam>(N * kNH, "gate", 2), again = run.y;
        std::vector<double> expected;
        const std::vector<double> y = widened(run.y), z = widened(gate);
        for (size_t i = 0; i < y.size(); ++i) expected.push_back(y[i] / (1 + std::exp(-z[i / kHS])));
        head_gate_forward(run.wide(run.y), view(gate, {N, kNH}), {.threads = 1});
        head_gate_forward(run.wide(again), view(gate, {N, kNH}), {.threads = 3});
        expect_close(run.y, expected, 8, "out");
        EXPECT_TRUE(same_bits(run.y, again));
    }
}

TEST(Gate, WrongShapesAreRefused) {
    GateRun<float> run;
    EXPECT_THROW(gate_forward(run.wide(run.out), run.wide(run.y), view(run.z, {kNH, 5}), {}), Error);
    EXPECT_THROW(gate_backward(run.wide(run.dy), run.wide(run.dy), run.wide(run.dout), run.wide(run.y),
                               view(run.z, {5, kNH}), {}),
                 Error);
    EXPECT_THROW(head_gate_forward(run.wide(run.y), view(run.z, {5, kNH}).slice_columns(0, 2), {}), Error);
    EXPECT_THROW(head_gate_forward(run.wide(run.y), {}, {}), Error);
}

}  // namespace
}  // namespace plimsoll
