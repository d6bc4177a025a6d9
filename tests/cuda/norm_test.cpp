#include "kernels/norm.h"

#include <gtest/gtest.h>

#include "kernels/qk_norm.h"
#include "kernels/residual.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

struct Sizes {
    int64_t N, C;
};
constexpr Sizes kSizes[] = {{1, 1}, {1, 32}, {3, 7}, {9, 130}, {20, 64}, {300, 20}};

template <class T>
class CudaNorm : public testing::Test {};
TYPED_TEST_SUITE(CudaNorm, DeviceFloats);

// Two sums over C of values of order one, a root and two products.
TYPED_TEST(CudaNorm, ForwardMatchesTheCpuInFp64) {
    using T = TypeParam;
    for (const auto& [N, C] : kSizes)
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
            SCOPED_TRACE(fmt::format("N {} C {} kind {}", N, C, static_cast<int>(kind)));
            const bool layer = kind == NormKind::kLayer;
            Input<float> x(N * C, "x", 2), gain(C, "gain"), bias(layer ? C : 0, "bias");
            const auto rows = static_cast<size_t>(N), all = static_cast<size_t>(N * C);
            std::vector<double> out(all), mean(layer ? rows : 0), rstd(rows);
            norm_forward(view(out, {N, C}), view(mean, {N}), view(rstd, {N}), x.cpu({N, C}), gain.cpu({C}),
                         bias.cpu({C}), {.kind = kind}, {});
            const OnDevice<float> dx(x.rounded), dgain(gain.rounded), dbias(bias.rounded);
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> to(filled<T>(all, 7.0f));
                const OnDevice<float> means(filled<float>(layer ? rows : 0)), rstds(filled<float>(rows, 1.0f));
                norm_forward(to.tensor({N, C}), means.tensor({N}), rstds.tensor({N}), dx.tensor({N, C}),
                             dgain.tensor({C}), dbias.tensor({C}), {.kind = kind}, on_gpu());
                expect_close(rstds.values(), rstd, 60, "rstd");
                if (layer) expect_close(means.values(), mean, 60, "mean");
                return to.values();
            });
            expect_close(seen, out, 100, "out", 4);
        }
}

TYPED_TEST(CudaNorm, ResidualAndNormInOneAreTheTwoOneAfterTheOther) {
    using T = TypeParam;
    for (const auto& [N, C] : kSizes) {
        Input<float> x(N * C, "x"), gain(C, "gain"), bias(C, "bias");
        Input<T> branch(N * C, "branch");
        const OnDevice<float> dx(x.rounded), dgain(gain.rounded), dbias(bias.rounded);
        const OnDevice<T> dbranch(branch.rounded);
        const auto all = static_cast<size_t>(N * C);
        const OnDevice<float> mean(filled<float>(static_cast<size_t>(N))), rstd(mean.values());
        const NormSpec spec{.kind = NormKind::kLayer};
        const OnDevice<float> sum(filled<float>(all));
        const OnDevice<T> separate(filled<T>(all, 0.0f));
        residual_forward(sum.tensor({N, C}), dx.tensor({N, C}), dbranch.tensor({N, C}), on_gpu());
        norm_forward(separate.tensor({N, C}), mean.tensor({N}), rstd.tensor({N}), sum.tensor({N, C}), dgain.tensor({C}),
                     dbias.tensor({C}), spec, on_gpu());
        const auto fused = under_every_schedule<T>([&] {
            const OnDevice<float> to(filled<float>(all));
            const OnDevice<T> out(filled<T>(all, 0.0f));
            residual_norm_forward(to.tensor({N, C}), out.tensor({N, C}), mean.tensor({N}), rstd.tensor({N}),
                                  dx.tensor({N, C}), dbranch.tensor({N, C}), dgain.tensor({C}), dbias.tensor({C}), spec,
                                  on_gpu());
            EXPECT_TRUE(same_bits(to.values(), sum.values()));
            return out.values();
        });
        EXPECT_TRUE(same_bits(fused, separate.values()));
    }
}

// dgain and dbias: up to 300 products, in ranges.
TYPED_TEST(CudaNorm, BackwardMatchesTheCpuInFp64) {
    using T = TypeParam;
    for (const auto& [N, C] : kSizes)
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
            for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
                const bool layer = kind == NormKind::kLayer;
                Input<float> x(N * C, "x", 2), gain(C, "gain"), start(N * C, "dx"), gain_start(C, "dgain");
                Input<T> dout(N * C, "dout");
                const auto rows = static_cast<size_t>(N), all = static_cast<size_t>(N * C), c = static_cast<size_t>(C);
                std::vector<double> out(all), mean(layer ? rows : 0), rstd(rows),
                    dx = start.exact, dgain = gain_start.exact, dbias(layer ? c : 0, 0.5);
                norm_forward(view(out, {N, C}), view(mean, {N}), view(rstd, {N}), x.cpu({N, C}), gain.cpu({C}), {},
                             {.kind = kind}, {});
                norm_backward(view(dx, {N, C}), view(dgain, {C}), view(dbias, {C}), dout.cpu({N, C}), x.cpu({N, C}),
                              gain.cpu({C}), view(mean, {N}), view(rstd, {N}), {.kind = kind}, write, {});
                const std::vector<float> means(mean.begin(), mean.end()), rstds(rstd.begin(), rstd.end());
                const OnDevice<float> on_x(x.rounded), on_gain(gain.rounded), on_mean(means), on_rstd(rstds);
                const OnDevice<T> on_dout(dout.rounded);
                const auto seen = under_every_schedule<float>([&] {
                    const OnDevice<float> to(start.rounded), to_gain(gain_start.rounded),
                        to_bias(filled<float>(layer ? c : 0, 0.5f));
                    norm_backward(to.tensor({N, C}), to_gain.tensor({C}), to_bias.tensor({C}), on_dout.tensor({N, C}),
                                  on_x.tensor({N, C}), on_gain.tensor({C}), on_mean.tensor({N}), on_rstd.tensor({N}),
                                  {.kind = kind}, write, on_gpu());
                    std::vector<float> results = to.values();
                    append(results, to_gain.values());
                    append(results, to_bias.values());
                    return results;
                });
                // A row of one element has rstd up to 1 / sqrt(eps) = 316 when it is its own mean.
                expect_close(slice(seen, 0, all), dx, 400, "dx", C == 1 ? 1000 : 10);
                expect_close(slice(seen, all, c), dgain, 400, "dgain", 20);
                if (layer) expect_close(slice(seen, all + c, c), dbias, 400, "dbias", 20);
            }
}

// Rows that a block keeps in registers, in one to eight packs a thread, and the lengths beside them that it does not
// take; more rows than ranges, so that some ranges have two, one after the other.
TYPED_TEST(CudaNorm, BackwardOfLongRowsMatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr Sizes kLong[] = {{7, 508}, {3, 512}, {3, 2044}, {260, 2052}, {2, 8192}};
    for (const auto& [N, C] : kLong)
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
            SCOPED_TRACE(fmt::format("N {} C {} kind {}", N, C, static_cast<int>(kind)));
            const bool layer = kind == NormKind::kLayer;
            Input<float> x(N * C, "x", 2), gain(C, "gain"), start(N * C, "dx"), gain_start(C, "dgain");
            Input<T> dout(N * C, "dout");
            const auto rows = static_cast<size_t>(N), all = static_cast<size_t>(N * C), c = static_cast<size_t>(C);
            std::vector<double> out(all), mean(layer ? rows : 0), rstd(rows),
                dx = start.exact, dgain = gain_start.exact, dbias(layer ? c : 0, 0.5);
            norm_forward(view(out, {N, C}), view(mean, {N}), view(rstd, {N}), x.cpu({N, C}), gain.cpu({C}), {},
                         {.kind = kind}, {});
            norm_backward(view(dx, {N, C}), view(dgain, {C}), view(dbias, {C}), dout.cpu({N, C}), x.cpu({N, C}),
                          gain.cpu({C}), view(mean, {N}), view(rstd, {N}), {.kind = kind}, Write::kAccumulate, {});
            const std::vector<float> means(mean.begin(), mean.end()), rstds(rstd.begin(), rstd.end());
            const OnDevice<float> on_x(x.rounded), on_gain(gain.rounded), on_mean(means), on_rstd(rstds);
            const OnDevice<T> on_dout(dout.rounded);
            const int seed = layer ? 1 : 2;
            set_schedule(seed);
            const OnDevice<float> to(start.rounded), to_gain(gain_start.rounded),
                to_bias(filled<float>(layer ? c : 0, 0.5f));
            norm_backward(to.tensor({N, C}), to_gain.tensor({C}), to_bias.tensor({C}), on_dout.tensor({N, C}),
                          on_x.tensor({N, C}), on_gain.tensor({C}), on_mean.tensor({N}), on_rstd.tensor({N}),
                          {.kind = kind}, Write::kAccumulate, on_gpu());
            expect_close(to.values(), dx, 400, "dx", 10);
            expect_close(to_gain.values(), dgain, 400, "dgain", 20);
            if (layer) expect_close(to_bias.values(), dbias, 400, "dbias", 20);
            // The same with the gradient of the branch.
            const OnDevice<float> to2(start.rounded), to_gain2(gain_start.rounded),
                to_bias2(filled<float>(layer ? c : 0, 0.5f));
            const OnDevice<T> branch(filled<T>(all, 0.0f)), converted(filled<T>(all, 0.0f));
            residual_norm_backward(to2.tensor({N, C}), branch.tensor({N, C}), to_gain2.tensor({C}),
                                   to_bias2.tensor({C}), on_dout.tensor({N, C}), on_x.tensor({N, C}),
                                   on_gain.tensor({C}), on_mean.tensor({N}), on_rstd.tensor({N}), {.kind = kind},
                                   Write::kAccumulate, on_gpu());
            convert(converted.tensor({N, C}), to.tensor({N, C}), on_gpu());
            EXPECT_TRUE(same_bits(to2.values(), to.values()) && same_bits(to_gain2.values(), to_gain.values()));
            EXPECT_TRUE(same_bits(branch.values(), converted.values()));
            if (layer) EXPECT_TRUE(same_bits(to_bias2.values(), to_bias.values()));
            for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        }
}

TYPED_TEST(CudaNorm, QueryKeyNormMatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 7, H = 3, kAll = 5;  // heads 1 .. 3 of 5
    for (const int64_t HS : {1, 32, 40, 256}) {
        Input<T> x(N * kAll * HS, "x", 3), dout(N * H * HS, "dout");
        Input<float> gain(HS, "gain");
        const auto count = static_cast<size_t>(N * H * HS), heads = static_cast<size_t>(N * H);
        std::vector<double> out(count), rstd(heads), dx(count), dgain(static_cast<size_t>(HS), 0.25);
        const Tensor slice_of_x = x.cpu({N, kAll, HS}).slice_columns(1, H);
        qk_norm_forward(view(out, {N, H, HS}), view(rstd, {N, H}), slice_of_x, gain.cpu({HS}), 1e-5, {});
        qk_norm_backward(view(dx, {N, H, HS}), view(dgain, {HS}), dout.cpu({N, H, HS}), slice_of_x, gain.cpu({HS}),
                         view(rstd, {N, H}), Write::kAccumulate, {});
        const OnDevice<T> on_x(x.rounded);
        const OnDevice<float> on_gain(gain.rounded);
        const Tensor on_slice = on_x.tensor({N, kAll, HS}).slice_columns(1, H);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> to(filled<T>(count, 0.0f)), grad(dout.rounded);
            const OnDevice<float> rstds(filled<float>(heads)), to_gain(filled<float>(static_cast<size_t>(HS), 0.25f));
            qk_norm_forward(to.tensor({N, H, HS}), rstds.tensor({N, H}), on_slice, on_gain.tensor({HS}), 1e-5,
                            on_gpu());
            std::vector<T> results = to.values();
            qk_norm_backward(grad.tensor({N, H, HS}), to_gain.tensor({HS}), grad.tensor({N, H, HS}), on_slice,
                             on_gain.tensor({HS}), rstds.tensor({N, H}), Write::kAccumulate, on_gpu());  // in place
            expect_close(to_gain.values(), dgain, 200, "dgain", 20);
            append(results, grad.values());
            return results;
        });
        expect_close(slice(seen, 0, count), out, 100, "out", 4);
        expect_close(slice(seen, count, count), dx, 200, "dx", HS == 1 ? 100 : 10);
    }
}

}  // namespace
}  // namespace plimsoll
