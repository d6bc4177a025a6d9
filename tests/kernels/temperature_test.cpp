// Temperatures against their formula in double, with each of their terms alone and both.
#include "kernels/temperature.h"

#include "support/kernel_test.h"
#include "support/temperature_oracle.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

// One call of both ways, with x in the middle of wider rows.
template <class T>
struct Pass {
    using R = Accumulator<T>;
    bool token, position;
    int64_t N, H, HS;
    std::vector<T> x = normals<T>(N * (H + 2) * HS, "x"), out = x, dout = normals<T>(N * H * HS, "dout"), dx = dout;
    std::vector<T> z = normals<T>(token ? N * H : 0, "z"), dz = z;
    std::vector<R> alpha = normals<R>(position ? H : 0, "alpha"), dalpha = alpha, dtau;
    std::vector<int32_t> positions;

    Pass(bool token, bool position, int64_t N, int64_t H, int64_t HS)
        : token(token), position(position), N(N), H(H), HS(HS), dtau(static_cast<size_t>(position ? N * H : 0)) {
        for (int32_t n = 0; n < N; ++n) positions.push_back(n % 7 == 6 ? 100'000 + n : n % 11);
    }
    Tensor wide(std::vector<T>& t) { return view(t, {N, H + 2, HS}).slice_columns(1, H); }
    Tensor narrow(std::vector<T>& t) { return view(t, {N, H, HS}); }
    void forward(int threads = 1) {
        temperature_forward(wide(out), wide(x), view(z, {N, H}), view(alpha, {H}), positions, {.threads = threads});
    }
    void backward(Write write = Write::kOverwrite, int threads = 1) { backward_into(dx, write, threads); }
    void backward_into(std::vector<T>& to, Write write, int threads) {
        temperature_backward(narrow(to), view(dz, {N, H}), view(dalpha, {H}), view(dtau, {N, H}), narrow(dout), wide(x),
                             view(z, {N, H}), view(alpha, {H}), positions, write, {.threads = threads});
    }
    std::vector<T> inner(const std::vector<T>& t) const {
        std::vector<T> heads;
        for (int64_t n = 0; n < N; ++n)
            for (int64_t i = 0; i < H * HS; ++i) heads.push_back(t[static_cast<size_t>((n * (H + 2) + 1) * HS + i)]);
        return heads;
    }
};

constexpr std::pair<bool, bool> kTerms[] = {{true, false}, {false, true}, {true, true}};

template <class T>
class TemperatureTest : public testing::Test {};
TYPED_TEST_SUITE(TemperatureTest, AllFloats);

TYPED_TEST(TemperatureTest, ForwardFollowsTheFormulaAndLeavesTheRestAlone) {
    for (const auto& [token, position] : kTerms)
        for (const auto& [N, H, HS] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {23, 3, 6}, {5, 2, 64}}) {
            Pass<TypeParam> run(token, position, N, H, HS);
            const std::vector<TypeParam> before = run.out;
            run.forward();
            const std::vector<double> tau = temperature_oracle(widened(run.z), widened(run.alpha), run.positions, H),
                                      x = widened(run.inner(run.x));
            std::vector<double> wanted;
            for (size_t i = 0; i < x.size(); ++i) wanted.push_back(tau[i / static_cast<size_t>(HS)] * x[i]);
            expect_close(run.inner(run.out), wanted, 20, "out", 4);  // tau is up to 13: a tanh, an exp and a log
            for (int64_t n = 0; n < N; ++n)
                for (const int64_t h : {int64_t{0}, H + 1})
                    for (int64_t c = 0; c < HS; ++c) {
                        const auto at = static_cast<size_t>((n * (H + 2) + h) * HS + c);
                        EXPECT_EQ(static_cast<Accumulator<TypeParam>>(run.out[at]),
                                  static_cast<Accumulator<TypeParam>>(before[at]));
                    }
        }
}

TEST(Temperature, BackwardMatchesCentralDifferences) {
    for (const auto& [token, position] : kTerms) {
        SCOPED_TRACE(fmt::format("token {} position {}", token, position));
        Pass<double> run(token, position, 13, 2, 5);
        run.backward();
        const auto loss = [&] {
            run.forward();
            return dot(run.inner(run.out), run.dout);
        };
        std::vector<double> dx(run.x.size());
        for (int64_t n = 0; n < run.N; ++n)
            for (int64_t i = 0; i < run.H * run.HS; ++i)
                dx[static_cast<size_t>((n * (run.H + 2) + 1) * run.HS + i)] =
                    run.dx[static_cast<size_t>(n * run.H * run.HS + i)];
        expect_gradient(run.x, dx, loss, "x");
        expect_gradient(run.z, run.dz, loss, "z");
        expect_gradient(run.alpha, run.dalpha, loss, "alpha");
    }
}

TYPED_TEST(TemperatureTest, BackwardInPlaceAndForAnyNumberOfThreadsGivesTheSameBits) {
    for (const auto& [token, position] : kTerms) {
        Pass<TypeParam> run(token, position, 801, 3, 8), in_place(token, position, 801, 3, 8);
        run.forward(1), in_place.forward(3);
        run.backward(Write::kOverwrite, 1);
        in_place.backward_into(in_place.dout, Write::kOverwrite, 3);
        EXPECT_TRUE(same_bits(run.out, in_place.out));
        EXPECT_TRUE(same_bits(run.dx, in_place.dout));
        EXPECT_TRUE(same_bits(run.dz, in_place.dz));
        EXPECT_TRUE(same_bits(run.dalpha, in_place.dalpha));
    }
}

TEST(Temperature, AccumulatesTheParametersGradientOnly) {
    Pass<double> once(true, true, 9, 2, 4), again(true, true, 9, 2, 4);
    once.backward();
    again.backward();
    again.backward(Write::kAccumulate);
    EXPECT_EQ(once.dx, again.dx);
    EXPECT_EQ(once.dz, again.dz);
    for (size_t i = 0; i < once.dalpha.size(); ++i) EXPECT_EQ(2 * once.dalpha[i], again.dalpha[i]);
}

// What parameters start at: alpha = -6 and z = 0 leave vectors almost as they are.
TEST(Temperature, StartsNearOne) {
    std::vector<double> x{3}, out(1), z{0}, alpha{-6};
    const std::vector<int32_t> positions{2000};
    temperature_forward(view(out, {1, 1, 1}), view(x, {1, 1, 1}), view(z, {1, 1}), view(alpha, {1}), positions, {});
    EXPECT_NEAR(out[0], 3 * (1 + 0.0188), 3e-4);
}

TEST(Temperature, WrongShapesAreRefused) {
    Pass<float> run(true, true, 4, 2, 6);
    const auto refused = [&](Tensor out, Tensor z, Tensor alpha, std::span<const int32_t> positions) {
        EXPECT_THROW(temperature_forward(out, run.wide(run.x), z, alpha, positions, {}), Error);
    };
    const Tensor out = run.wide(run.out), z = view(run.z, {4, 2}), alpha = view(run.alpha, {2});
    refused(out, {}, {}, run.positions);
    refused(view(run.out, {4, 4, 6}), z, alpha, run.positions);
    refused(out, view(run.z, {2, 4}), alpha, run.positions);
    refused(out, z, view(run.alpha, {2, 1}), run.positions);
    refused(out, z, alpha, std::span(run.positions).first(3));
    run.positions[1] = -1;
    refused(out, z, alpha, run.positions);
    run.positions[1] = 1;
    EXPECT_THROW(
        temperature_backward(run.narrow(run.dx), {}, view(run.dalpha, {2}), view(run.dtau, {4, 2}),
                             run.narrow(run.dout), run.wide(run.x), z, alpha, run.positions, Write::kOverwrite, {}),
        Error);
    EXPECT_THROW(
        temperature_backward(run.narrow(run.dx), view(run.dz, {4, 2}), view(run.dalpha, {2}), {}, run.narrow(run.dout),
                             run.wide(run.x), z, alpha, run.positions, Write::kOverwrite, {}),
        Error);
}

}  // namespace
}  // namespace plimsoll
