// Norms of an fp32 stream at the widths of models and around those of vectors, against formulas in double: what
// kernels/cpu/avx512_bf16/norm_rows.h computes where there is AVX-512, and loops elsewhere (PLIMSOLL_AMX=0).
#include <cmath>
#include <ostream>
#include <vector>

#include "kernels/residual.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kRows = 70;  // more than the ranges of parameter gradients, so that some have two

struct Case {
    NormKind kind;
    int64_t C;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << (c.kind == NormKind::kRms ? "rms" : "layer") << " C=" << c.C;
}

// x + branch, its norm and the way back, with every row `offset` elements from where it would lie.
template <class Out>
struct Rows {
    int64_t C, offset;
    bool layer;
    std::vector<float> x = values<float>("x"), gain = values<float>("gain", 1), bias = values<float>("bias", 1),
                       sum = values<float>("sum"), dx = values<float>("dx"), mean, rstd, dgain, dbias;
    std::vector<Out> branch = values<Out>("branch"), dout = values<Out>("dout"), out = values<Out>("out"),
                     dbranch = out;

    explicit Rows(Case c, int64_t offset = 0, int threads = 1)
        : C(c.C), offset(offset), layer(c.kind == NormKind::kLayer) {
        mean.resize(layer ? kRows : 0), rstd.resize(kRows), dgain = dbias = gain;
        const NormSpec spec{.kind = c.kind};
        const Exec exec{.threads = threads};
        residual_norm_forward(rows(sum), rows(out), view(mean, {kRows}), view(rstd, {kRows}), rows(x), rows(branch),
                              row(gain), layer ? row(bias) : Tensor{}, spec, exec);
        residual_norm_backward(rows(dx), rows(dbranch), row(dgain), layer ? row(dbias) : Tensor{}, rows(dout),
                               rows(sum), row(gain), view(mean, {kRows}), view(rstd, {kRows}), spec, Write::kAccumulate,
                               Write::kOverwrite, exec);
    }

    template <class T>
    std::vector<T> values(const char* name, int64_t count = kRows) const {
        std::vector<T> result(static_cast<size_t>(offset));
        const std::vector<T> drawn = normals<T>(count * C, name);
        result.insert(result.end(), drawn.begin(), drawn.end());
        return result;
    }
    template <class T>
    Tensor rows(std::vector<T>& all) const {
        return Tensor(all.data() + offset, kDTypeOf<T>, {kRows, C});
    }
    Tensor row(std::vector<float>& all) const { return Tensor(all.data() + offset, DType::kF32, {C}); }
    template <class T>
    std::vector<T> without_offset(const std::vector<T>& all) const {
        return std::vector<T>(all.begin() + offset, all.end());
    }
};

class NormRowsTest : public testing::TestWithParam<Case> {};

template <class Out>
void expect_formulas(Case c) {
    const Rows<Out> run(c);
    const std::vector<double> x = widened(run.x), branch = widened(run.branch), dout = widened(run.dout),
                              start = widened(normals<float>(kRows * c.C, "dx"));
    const auto C = static_cast<size_t>(c.C);
    std::vector<double> sum(x.size()), out(x.size()), dx = start, dgain(C), dbias(C), mean, rstd;
    for (size_t n = 0; n < kRows; ++n) {
        double centre = 0, variance = 0, mean_g = 0, mean_g_xhat = 0;
        for (size_t i = n * C; i < n * C + C; ++i) sum[i] = static_cast<double>(static_cast<float>(x[i] + branch[i]));
        for (size_t i = n * C; i < n * C + C; ++i) centre += run.layer ? sum[i] / static_cast<double>(C) : 0;
        for (size_t i = n * C; i < n * C + C; ++i) variance += std::pow(sum[i] - centre, 2) / static_cast<double>(C);
        const double scale = 1 / std::sqrt(variance + 1e-5);
        if (run.layer) mean.push_back(centre);
        rstd.push_back(scale);
        for (size_t k = 0; k < C; ++k) {
            const size_t i = n * C + k;
            const double xhat = (sum[i] - centre) * scale, gain = static_cast<double>(run.gain[k]);
            out[i] = xhat * gain + (run.layer ? static_cast<double>(run.bias[k]) : 0);
            mean_g += run.layer ? dout[i] * gain / static_cast<double>(C) : 0;
            mean_g_xhat += dout[i] * gain * xhat / static_cast<double>(C);
            dgain[k] += dout[i] * xhat, dbias[k] += dout[i];
        }
        for (size_t i = n * C; i < n * C + C; ++i) {
            const double xhat = (sum[i] - centre) * scale, g = dout[i] * static_cast<double>(run.gain[i - n * C]);
            dx[i] += scale * (g - mean_g - xhat * mean_g_xhat);
        }
    }
    expect_close(run.sum, sum, 0, "sum");
    expect_close(run.mean, mean, 4, "mean");
    expect_close(run.rstd, rstd, 8, "rstd");
    expect_close(run.out, out, 12, "out", 5);  // as in norm_test.cpp
    if (c.C == 1 && run.layer) return;         // rstd is 316 there, and what it multiplies cancels to nothing
    // Products of values below 5, times rstd, which is below 5 but for rows of a single channel.
    const double steep = c.C == 1 ? 1000 : 1;
    expect_close(run.dx, dx, 12, "dx", 25 * steep);
    for (size_t i = 0; i < run.dx.size(); ++i)
        EXPECT_EQ(static_cast<float>(run.dbranch[i]), static_cast<float>(Out(run.dx[i]))) << i;
    expect_close(run.dgain, dgain, kRows, "dgain", 5);
    if (run.layer) expect_close(run.dbias, dbias, kRows, "dbias", 5);
}

TEST_P(NormRowsTest, FollowTheFormulas) {
    expect_formulas<float>(GetParam());
    expect_formulas<bf16>(GetParam());
}

template <class Out>
void expect_same_anywhere(Case c) {
    const Rows<Out> one(c);
    for (const auto& [offset, threads] : {std::pair{0, 2}, std::pair{1, 1}, std::pair{7, 3}}) {
        const Rows<Out> other(c, offset, threads);
        const auto same = [&other](const auto& a, const auto& b) { return same_bits(a, other.without_offset(b)); };
        EXPECT_TRUE(same(one.sum, other.sum) && same(one.out, other.out) && same(one.dx, other.dx) &&
                    same(one.dbranch, other.dbranch) && same(one.dgain, other.dgain) && same(one.dbias, other.dbias) &&
                    same_bits(one.mean, other.mean) && same_bits(one.rstd, other.rstd))
            << "offset " << offset << ", " << threads << " threads";
        // Nothing before a row is written.
        for (size_t i = 0; i < static_cast<size_t>(offset); ++i) {
            EXPECT_EQ(static_cast<float>(other.out[i]), 0);
            EXPECT_EQ(other.dx[i], 0);
        }
    }
}

TEST_P(NormRowsTest, BitsDependOnNeitherAddressNorThreads) {
    expect_same_anywhere<float>(GetParam());
    expect_same_anywhere<bf16>(GetParam());
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
        for (const int64_t C : {1, 15, 16, 17, 32, 33, 100, 256, 768, 1000, 1600}) all.push_back({kind, C});
    return all;
}

INSTANTIATE_TEST_SUITE_P(Widths, NormRowsTest, testing::ValuesIn(cases()));

// bf16 results have the bits of bf16(float), of subnormal floats too.
TEST(NormRows, SubnormalsAreRounded) {
    constexpr int64_t kC = 40;
    std::vector<float> x = normals<float>(kC, "x"), gain(kC, 1e-39f), rstd(1), out(kC), dgain(kC), dx(kC);
    std::vector<bf16> half(kC), dout(kC), dbranch(kC);
    norm_forward(view(out, {1, kC}), {}, view(rstd, {1}), view(x, {1, kC}), view(gain, {kC}), {}, {}, {});
    norm_forward(view(half, {1, kC}), {}, view(rstd, {1}), view(x, {1, kC}), view(gain, {kC}), {}, {}, {});
    for (size_t i = 0; i < kC; ++i) {
        EXPECT_NE(out[i], 0) << i;
        EXPECT_EQ(half[i].bits, bf16(out[i]).bits) << i;
        dx[i] = static_cast<float>(i) * 1.1e-40f;
    }
    residual_norm_backward(view(dx, {1, kC}), view(dbranch, {1, kC}), view(dgain, {kC}), {}, view(dout, {1, kC}),
                           view(x, {1, kC}), view(gain, {kC}), {}, view(rstd, {1}), {}, Write::kAccumulate,
                           Write::kOverwrite, {});
    for (size_t i = 0; i < kC; ++i) EXPECT_EQ(dbranch[i].bits, bf16(static_cast<float>(i) * 1.1e-40f).bits) << i;
}

}  // namespace
}  // namespace plimsoll
