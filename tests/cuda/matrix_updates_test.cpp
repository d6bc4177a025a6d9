#include <gtest/gtest.h>

#include "support/cuda_test.h"
#include "support/updates.h"

namespace plimsoll {
namespace {

// What a step of either optimizer reads and writes, at the start of step `step`.
struct Inputs {
    int64_t R, C;
    int64_t count = R * C;
    Input<float> param{count, "param"}, grad{count, "grad"}, m{count, "m", 0.1}, v{count, "m", 0.1};

    Inputs(int64_t rows, int64_t columns) : R(rows), C(columns) {
        for (size_t i = 0; i < v.rounded.size(); ++i) {
            v.rounded[i] *= v.rounded[i];
            v.exact[i] = v.rounded[i];
        }
    }
};

// Runs step(param, m, v, grad, working, exec) in fp64 on the CPU and in fp32 here.
template <class Step>
void compare(Inputs& in, Step&& step, double roundings, double magnitude) {
    const Shape shape{in.R, in.C};
    std::vector<double> p = in.param.exact, m = in.m.exact, v = in.v.exact, g = in.grad.exact;
    step(view(p, shape), view(m, shape), view(v, shape), view(g, shape), Tensor{}, Exec{});
    const OnDevice<float> on_grad(in.grad.rounded);
    const auto count = static_cast<size_t>(in.count);
    const auto seen = under_every_schedule<float>([&] {
        const OnDevice<float> on_param(in.param.rounded), on_m(in.m.rounded), on_v(in.v.rounded);
        const OnDevice<bf16> working(filled<bf16>(count));
        step(on_param.tensor(shape), on_m.tensor(shape), on_v.tensor(shape), on_grad.tensor(shape),
             working.tensor(shape), on_gpu());
        std::vector<float> results = on_param.values();
        const std::vector<bf16> rounded = working.values();
        for (size_t i = 0; i < count; ++i) EXPECT_EQ(rounded[i].bits, bf16(results[i]).bits);
        append(results, on_m.values());
        append(results, on_v.values());
        return results;
    });
    expect_close(slice(seen, 0, count), p, roundings, "param", magnitude);
    expect_close(slice(seen, count, count), m, 60, "m");
    expect_close(slice(seen, 2 * count, count), v, 60, "v");
}

// Five iterations multiply what is small by up to 3.4^5 = 485, roundings included.
TEST(CudaMatrixUpdates, MuonMatchesTheCpuInFp64) {
    for (const auto& [R, C] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {3, 5}, {16, 24}, {33, 17}}) {
        Inputs in(R, C);
        const int64_t side = std::min(R, C);
        const auto step = [&](Tensor p, Tensor m, Tensor, Tensor g, Tensor working, const Exec& exec) {
            const auto run = [&](auto&& make) {
                const auto direction = make(R * C), next = make(R * C), gram = make(side * side),
                           square = make(side * side);
                muon_step(p, m, g, working,
                          {direction.tensor({R * C}), next.tensor({R * C}), gram.tensor({side * side}),
                           square.tensor({side * side})},
                          {.lr = 0.02, .weight_decay = 0.1, .gradient_scale = 0.5}, exec);
            };
            if (exec.device == Device::kCuda)
                return run([](int64_t n) { return OnDevice<float>(filled<float>(static_cast<size_t>(n))); });
            struct Host {
                mutable std::vector<double> values;
                Tensor tensor(Shape shape) const { return view(values, shape); }
            };
            run([](int64_t n) { return Host{std::vector<double>(static_cast<size_t>(n))}; });
        };
        compare(in, step, 485, 0.02);
    }
}

// Sizes with every number of levels in the last pass over memory, and with windows that overlap.
TEST(CudaMatrixUpdates, OrthoAdamMatchesTheCpuInFp64) {
    const MatrixBasis both{Rotation{RandomStream(5, "test", "rows")}, Rotation{RandomStream(5, "test", "columns")}};
    for (const auto& [R, C] : {std::pair<int64_t, int64_t>{1, 2}, {7, 4}, {8, 24}, {64, 3}, {5, 100}})
        for (const MatrixBasis& basis : {both, MatrixBasis{{}, both.columns}}) {
            Inputs in(R, C);
            const auto step = [&](Tensor p, Tensor m, Tensor v, Tensor g, Tensor working, const Exec& exec) {
                const AdamWSpec spec{.lr = 0.02, .weight_decay = 0.1, .gradient_scale = 0.5, .step = 7};
                std::vector<double> host(static_cast<size_t>(R * C));
                const OnDevice<float> device(filled<float>(static_cast<size_t>(R * C)));
                const Shape flat{R * C};
                orthoadam_step(p, m, v, g, working,
                               exec.device == Device::kCuda ? device.tensor(flat) : view(host, flat), basis, spec,
                               exec);
            };
            compare(in, step, 400, 1);
        }
}

// A rotation is additions in one order, and one product: the same bits on both devices.
TEST(CudaMatrixUpdates, RotationsHaveTheBitsOfTheCpu) {
    const Rotation rotation{RandomStream(5, "test", "rows")};
    for (const auto& [R, C] : {std::pair<int64_t, int64_t>{1, 1}, {16, 5}, {96, 3}, {2, 64}, {3, 33}})
        for (const Axis axis : {Axis::kRows, Axis::kColumns})
            for (const Turn turn : {Turn::kInto, Turn::kBack}) {
                std::vector<float> here = normals<float>(R * C, "x");
                const std::vector<float> start = here;
                rotate(view(here, {R, C}), axis, turn, rotation, {});
                const auto there = under_every_schedule<float>([&] {
                    const OnDevice<float> x(start);
                    rotate(x.tensor({R, C}), axis, turn, rotation, on_gpu());
                    return x.values();
                });
                EXPECT_TRUE(same_bits(here, there)) << R << " x " << C;
            }
}

TEST(CudaMatrixUpdates, WorkingCopiesAreRoundedStochasticallyLikeOnTheCpu) {
    constexpr int64_t R = 9, C = 37;
    std::vector<float> param = normals<float>(R * C, "param"), zeros(static_cast<size_t>(R * C));
    const std::vector<float> start = param;
    std::vector<bf16> working(param.size());
    const UpdateFactors factors{.rounding = {.stochastic = RandomStream(3, "rounding"), .first = 50}};
    const auto apply = [&](Tensor p, Tensor direction, Tensor w, const Exec& exec) {
        update_once(R * C, factors, exec, [&](const UpdateTable& table) {
            apply_direction(p, direction, w, table.factors_on_device(0), exec);
        });
    };
    apply(view(param, {R, C}), view(zeros, {R, C}), view(working, {R, C}), {});
    const auto seen = under_every_schedule<bf16>([&] {
        const OnDevice<float> on_param(start), on_zeros(zeros);
        const OnDevice<bf16> to(filled<bf16>(start.size()));
        apply(on_param.tensor({R, C}), on_zeros.tensor({R, C}), to.tensor({R, C}), on_gpu());
        return to.values();
    });
    EXPECT_TRUE(same_bits(seen, working));
}

}  // namespace
}  // namespace plimsoll
