#include "kernels/norm.h"

#include <gtest/gtest.h>

#include "kernels/qk_norm.h"
#include "kernels/residual.h"
#include "support/both_devices.h"

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

// What the backward of N rows of C reads, with the statistics that the CPU's forward finds, and what it writes.
template <class T>
struct NormBackward {
    // A norm without a mean has no bias here.
    NormBackward(Sizes sizes, NormKind kind, Write write)
        : all{sizes.N, sizes.C}, of_columns{sizes.C}, spec{.kind = kind}, write(write) {
        Input<float> mean(layer ? sizes.N : 0, "mean"), rstd(sizes.N, "rstd");
        std::vector<double> out(static_cast<size_t>(all.elements()));
        norm_forward(view(out, all), view(mean.exact, {sizes.N}), view(rstd.exact, {sizes.N}), x.on({}), gain.on({}),
                     {}, spec, {});
        for (Input<float>* statistic : {&mean, &rstd})
            statistic->rounded.assign(statistic->exact.begin(), statistic->exact.end());
        means.emplace(Shape{layer ? sizes.N : 0}, mean), rstds.emplace(Shape{sizes.N}, rstd);
    }
    void operator()(const Exec& exec) {
        norm_backward(dx.on(exec), dgain.on(exec), dbias.on(exec), dout.on(exec), x.on(exec), gain.on(exec),
                      means->on(exec), rstds->on(exec), spec, write, write, exec);
    }
    // A row of one element has rstd up to 1 / sqrt(eps) = 316 when it is its own mean.
    void expect_close() const {
        dx.expect_close(400, "dx", of_columns[0] == 1 ? 1000 : 10);
        dgain.expect_close(400, "dgain", 20);
        dbias.expect_close(400, "dbias", 20);
    }

    Shape all, of_columns;
    NormSpec spec;
    Write write;
    bool layer = spec.kind == NormKind::kLayer;
    Given<float> x{all, "x", 2}, gain{of_columns, "gain"};
    Given<T> dout{all, "dout"};
    std::optional<Given<float>> means, rstds;
    Result<float> dx{all, Input<float>(all.elements(), "dx")}, dgain{of_columns, Input<float>(of_columns[0], "dgain")},
        dbias{Shape{layer ? of_columns[0] : 0}, 0.5f};
};

// dgain and dbias: up to 300 products, in ranges.
TYPED_TEST(CudaNorm, BackwardMatchesTheCpuInFp64) {
    for (const Sizes& sizes : kSizes)
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
            for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
                NormBackward<TypeParam> backward(sizes, kind, write);
                run_on_both({&backward.dx, &backward.dgain, &backward.dbias}, backward);
                backward.expect_close();
            }
}

// Rows that a block keeps in registers, in one to eight packs a thread, and the lengths beside them that it does not
// take; more rows than ranges, so that some ranges have two, one after the other.
TYPED_TEST(CudaNorm, BackwardOfLongRowsMatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr Sizes kLong[] = {{7, 508}, {3, 512}, {3, 2044}, {260, 2052}, {2, 8192}};
    for (const Sizes& sizes : kLong)
        for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
            SCOPED_TRACE(fmt::format("N {} C {} kind {}", sizes.N, sizes.C, static_cast<int>(kind)));
            NormBackward<T> backward(sizes, kind, kind == NormKind::kRms ? Write::kOverwrite : Write::kAccumulate);
            const int seed = backward.layer ? 1 : 2;
            set_schedule(seed);
            backward(Exec{}), backward(on_gpu());
            backward.expect_close();
            // The same with the gradient of the branch.
            const std::vector<float> dx = backward.dx.there(), dgain = backward.dgain.there(),
                                     dbias = backward.dbias.there();
            Result<T> branch(backward.all), converted(backward.all);
            convert(converted.on(on_gpu()), backward.dx.on(on_gpu()), on_gpu());
            for (AnyResult* result : {static_cast<AnyResult*>(&backward.dx), static_cast<AnyResult*>(&backward.dgain),
                                      static_cast<AnyResult*>(&backward.dbias)})
                result->restart();
            residual_norm_backward(backward.dx.on(on_gpu()), branch.on(on_gpu()), backward.dgain.on(on_gpu()),
                                   backward.dbias.on(on_gpu()), backward.dout.on(on_gpu()), backward.x.on(on_gpu()),
                                   backward.gain.on(on_gpu()), backward.means->on(on_gpu()),
                                   backward.rstds->on(on_gpu()), backward.spec, backward.write, backward.write,
                                   on_gpu());
            EXPECT_TRUE(same_bits(backward.dx.there(), dx) && same_bits(backward.dgain.there(), dgain));
            EXPECT_TRUE(same_bits(backward.dbias.there(), dbias));
            EXPECT_TRUE(same_bits(branch.there(), converted.there()));
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
