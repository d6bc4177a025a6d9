// The feed-forward half of a block as one op, against the ops it is made of, bit by bit.
#include "kernels/feed_forward.h"

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/feed_forward.h"
#include "kernels/matmul.h"
#include "kernels/residual.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

struct Case {
    NormKind norm;
    Activation activation;
    int64_t N, C, F;
};

// All that the two ops read and write, in bf16 beside an fp32 stream.
struct Half {
    Case c;
    bool layer = c.norm == NormKind::kLayer;
    int64_t U = c.F * inputs_per_output(c.activation);
    std::vector<float> x = normals<float>(c.N * c.C, "x"), gain = normals<float>(c.C, "gain"),
                       gain_bias = normals<float>(layer ? c.C : 0, "gain bias"),
                       up_bias = normals<float>(layer ? U : 0, "up bias"),
                       down_bias = normals<float>(layer ? c.C : 0, "down bias"), dx = normals<float>(c.N * c.C, "dx"),
                       dgain = normals<float>(c.C, "dgain"), dbias = normals<float>(layer ? c.C : 0, "dbias");
    std::vector<bf16> branch = normals<bf16>(c.N * c.C, "branch"), up_weight = normals<bf16>(U * c.C, "up"),
                      down_weight = normals<bf16>(c.C * c.F, "down"), dout = normals<bf16>(c.N * c.C, "dout");
    std::vector<float> sum = x, out = x, mean = std::vector<float>(static_cast<size_t>(layer ? c.N : 0)),
                       rstd = std::vector<float>(static_cast<size_t>(c.N));
    std::vector<bf16> normed = branch, product = branch, dnormed = branch, dbranch = branch,
                      up = std::vector<bf16>(static_cast<size_t>(c.N * U)),
                      act = std::vector<bf16>(static_cast<size_t>(c.N * c.F)), dact = act, dup = up;

    FeedForwardTensors tensors() {
        const Shape rows{c.N, c.C};
        return {.x = view(x, rows),
                .branch = view(branch, rows),
                .sum = view(sum, rows),
                .normed = view(normed, rows),
                .mean = view(mean, {c.N}),
                .rstd = view(rstd, {c.N}),
                .gain = view(gain, {c.C}),
                .gain_bias = view(gain_bias, {c.C}),
                .up = view(up, {c.N, U}),
                .up_weight = view(up_weight, {U, c.C}),
                .up_bias = view(up_bias, {U}),
                .act = view(act, {c.N, c.F}),
                .down_weight = view(down_weight, {c.C, c.F}),
                .down_bias = view(down_bias, {c.C}),
                .product = view(product, rows),
                .out = view(out, rows)};
    }
    FeedForwardGradients gradients(bool with_branch, bool in_place = false) {
        const Shape rows{c.N, c.C};
        return {.dx = view(dx, rows),
                .dout = view(dout, rows),
                .dact = view(dact, {c.N, c.F}),
                .dup = view(in_place ? up : dup, {c.N, U}),
                .dnormed = view(dnormed, rows),
                .dbranch = with_branch ? view(dbranch, rows) : Tensor{},
                .dgain = view(dgain, {c.C}),
                .dbias = view(dbias, {c.C})};
    }
    NormSpec spec() const { return {.kind = c.norm}; }
};

void expect_bits_of_the_ops(const Case& c, bool with_branch, Write write, int threads) {
    Half apart{c}, fused{c};
    const Exec exec{.threads = threads};
    const FeedForwardTensors t = apart.tensors();
    const FeedForwardGradients d = apart.gradients(with_branch);
    residual_norm_forward(t.sum, t.normed, t.mean, t.rstd, t.x, t.branch, t.gain, t.gain_bias, apart.spec(), {});
    matmul_activation_forward(t.act, t.up, t.normed, t.up_weight, t.up_bias, c.activation, {});
    matmul_forward(t.product, t.act, t.down_weight, t.down_bias, {});
    residual_forward(t.out, t.sum, t.product, {});
    matmul_activation_backward(d.dup, d.dact, d.dout, t.down_weight, t.up, c.activation, {});
    matmul_backward_input(d.dnormed, d.dup, t.up_weight, Write::kOverwrite, {});
    norm_backward(d.dx, d.dgain, d.dbias, d.dnormed, t.sum, t.gain, t.mean, t.rstd, apart.spec(), Write::kAccumulate,
                  write, {});
    if (with_branch) convert(d.dbranch, d.dx, {});

    EXPECT_TRUE(!cpu::avx512_bf16::available() || cpu::feed_forward_is_fused(fused.tensors(), exec));
    feed_forward_forward(fused.tensors(), c.activation, fused.spec(), exec);
    feed_forward_backward(fused.gradients(with_branch), fused.tensors(), c.activation, fused.spec(), write, exec);
    EXPECT_TRUE(same_bits(fused.sum, apart.sum) && same_bits(fused.normed, apart.normed) &&
                same_bits(fused.mean, apart.mean) && same_bits(fused.rstd, apart.rstd));
    EXPECT_TRUE(same_bits(fused.up, apart.up) && same_bits(fused.act, apart.act) && same_bits(fused.out, apart.out));
    EXPECT_TRUE(same_bits(fused.dup, apart.dup) && same_bits(fused.dx, apart.dx) &&
                same_bits(fused.dbranch, apart.dbranch));
    EXPECT_TRUE(same_bits(fused.dgain, apart.dgain) && same_bits(fused.dbias, apart.dbias));

    // dup in the place of up, as blocks have it on a CPU.
    Half in_place{c};
    feed_forward_forward(in_place.tensors(), c.activation, in_place.spec(), exec);
    feed_forward_backward(in_place.gradients(with_branch, true), in_place.tensors(), c.activation, in_place.spec(),
                          write, exec);
    EXPECT_TRUE(same_bits(in_place.up, apart.dup) && same_bits(in_place.dx, apart.dx) &&
                same_bits(in_place.dgain, apart.dgain));

    // And all three in one place, as blocks with ReLU have them.
    if (!slope_follows_from_output(c.activation)) return;
    Half one{c};
    FeedForwardTensors of_one = one.tensors();
    FeedForwardGradients d_one = one.gradients(with_branch);
    of_one.up = d_one.dup = of_one.act;
    feed_forward_forward(of_one, c.activation, one.spec(), exec);
    EXPECT_TRUE(same_bits(one.act, apart.act) && same_bits(one.out, apart.out));
    feed_forward_backward(d_one, of_one, c.activation, one.spec(), write, exec);
    EXPECT_TRUE(same_bits(one.act, apart.dup) && same_bits(one.dx, apart.dx) && same_bits(one.dgain, apart.dgain));
}

// Panels that are whole and not, sizes that are multiples of a tile and not, K of one pass and of several.
TEST(FeedForward, HasTheBitsOfItsOps) {
    for (const NormKind norm : {NormKind::kRms, NormKind::kLayer})
        for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kSwiglu})
            for (const auto& [N, C, F] : {std::array<int64_t, 3>{768, 64, 256}, {901, 40, 56}, {1000, 96, 544}})
                for (const int threads : {1, 2, 3}) {
                    SCOPED_TRACE(fmt::format("norm {} activation {} N={} C={} F={} threads={}", static_cast<int>(norm),
                                             static_cast<int>(activation), N, C, F, threads));
                    const Write write = threads == 2 ? Write::kAccumulate : Write::kOverwrite;
                    expect_bits_of_the_ops({norm, activation, N, C, F}, threads > 1, write, threads);
                }
}

// Few rows, weights beyond a cache and long sums are computed op by op.
TEST(FeedForward, IsFusedOnlyWhereItPays) {
    Half few{{NormKind::kRms, Activation::kGelu, 511, 32, 64}},
        large{{NormKind::kRms, Activation::kGelu, 512, 512, 1024}};
    EXPECT_FALSE(cpu::feed_forward_is_fused(few.tensors(), {.threads = 2}));
    EXPECT_EQ(cpu::feed_forward_is_fused(few.tensors(), {.threads = 1}), cpu::avx512_bf16::available());
    EXPECT_FALSE(cpu::feed_forward_is_fused(large.tensors(), {.threads = 1}));
    // Whose products sum part by part, as panels do not.
    Half long_sums{{NormKind::kRms, Activation::kGelu, 512, 16, 4128}};
    EXPECT_FALSE(cpu::feed_forward_is_fused(long_sums.tensors(), {.threads = 1}));
}

}  // namespace
}  // namespace plimsoll
