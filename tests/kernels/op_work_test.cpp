#include "kernels/op_work.h"

#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/residual.h"
#include "kernels/trace.h"
#include "support/kernel_test.h"

namespace plimsoll {
namespace {

constexpr Exec kExec{.threads = 1};
float g_memory[1];  // never read: work is a function of shapes

Tensor of(Shape shape, DType dtype = DType::kF32) {
    return {g_memory, dtype, shape};
}

void expect_work(const OpWork& work, double products, double others, double bytes) {
    EXPECT_EQ(work.products, products);
    EXPECT_EQ(work.others, others);
    EXPECT_EQ(work.bytes, bytes);
}

// N = 5, O = 3, I = 2: 30 multiply-adds each; 15 outputs, 10 inputs, 6 weights, 3 biases.
TEST(OpWork, ProductsOfALinearLayer) {
    const DType bf16 = DType::kBF16;
    const Tensor out = of({5, 3}), x = of({5, 2}), weight = of({3, 2}), bias = of({3});
    expect_work(op_work::matmul_forward(out, x, weight, {}, kExec), 60, 0, 4 * (15 + 10 + 6));
    expect_work(op_work::matmul_forward(out, x, weight, bias, kExec), 60, 15, 4 * (15 + 10 + 6 + 3));
    expect_work(op_work::matmul_backward_input(x, out, weight, Write::kOverwrite, kExec), 60, 0, 4 * (15 + 10 + 6));
    expect_work(op_work::matmul_backward_input(x, out, weight, Write::kAccumulate, kExec), 60, 0, 4 * (15 + 20 + 6));
    // In bf16 with gradients of weights in fp32.
    const OpWork work =
        op_work::matmul_backward_weight(weight, bias, of({5, 3}, bf16), of({5, 2}, bf16), Write::kAccumulate, kExec);
    expect_work(work, 60, 15, 2 * (15 + 10) + 2 * 4 * (6 + 3));
    EXPECT_TRUE(work.bf16);
    EXPECT_FALSE(op_work::matmul_forward(out, x, weight, {}, kExec).bf16);
    EXPECT_TRUE(op_work::matmul_forward(out, of({5, 2}, bf16), of({3, 2}, bf16), {}, kExec).bf16);
}

// up (5, 6) = x (5, 2) W^T, SwiGLU makes (5, 3) of it: 5 operations each, 11 on the way back.
TEST(OpWork, ProductsWithAnActivation) {
    const Tensor act = of({5, 3}), up = of({5, 6}), x = of({5, 2}), weight = of({6, 2});
    expect_work(op_work::matmul_activation_forward(act, up, x, weight, {}, Activation::kSwiglu, kExec), 120, 75,
                4 * (15 + 30 + 10 + 12));
    // ReLU of half as many, in a memory of its own and in the product's.
    float other[1];
    const Tensor half = of({3, 2});
    expect_work(op_work::matmul_activation_forward(Tensor(other, DType::kF32, {5, 3}), act, x, half, {},
                                                   Activation::kRelu, kExec),
                60, 15, 4 * (15 + 15 + 10 + 6));
    expect_work(op_work::matmul_activation_forward(act, act, x, half, {}, Activation::kRelu, kExec), 60, 15,
                4 * (15 + 10 + 6));
    const Tensor dout = of({5, 2}), down = of({2, 3});
    float elsewhere[1];
    const Tensor dact(elsewhere, DType::kF32, {5, 3});
    expect_work(op_work::matmul_activation_backward(up, dact, dout, down, up, Activation::kSwiglu, kExec), 60, 165,
                4 * (10 + 6 + 30 + 30 + 15));
    // dact in dup's memory is no result of its own.
    expect_work(op_work::matmul_activation_backward(act, act, dout, down, act, Activation::kRelu, kExec), 60, 30,
                4 * (10 + 6 + 15 + 15));
}

// x (5, 2), up (5, 6), act (5, 3) in fp32, RMSNorm: the work of the ops apart, less what they hand each other.
TEST(OpWork, AFeedForwardHalf) {
    const Tensor rows = of({5, 2}), gain = of({2}), up = of({5, 6}), act = of({5, 3}), U = of({6, 2}), D = of({2, 3});
    const FeedForwardTensors t{.x = rows,
                               .branch = rows,
                               .sum = rows,
                               .normed = rows,
                               .mean = {},
                               .rstd = of({5}),
                               .gain = gain,
                               .gain_bias = {},
                               .up = up,
                               .up_weight = U,
                               .up_bias = {},
                               .act = act,
                               .down_weight = D,
                               .down_bias = {},
                               .product = rows,
                               .out = rows};
    expect_work(op_work::feed_forward_forward(t, Activation::kSwiglu, {}, kExec), 120 + 60, 10 * 5 + 75 + 10,
                4 * (4 * 10 + 5 + 2) + 4 * (15 + 30 + 12) + 4 * 6 + 4 * 10);
    const FeedForwardGradients d{
        .dx = rows, .dout = rows, .dact = act, .dup = up, .dnormed = rows, .dbranch = rows, .dgain = gain, .dbias = {}};
    expect_work(op_work::feed_forward_backward(d, t, Activation::kSwiglu, {}, Write::kOverwrite, kExec), 60 + 120,
                165 + 10 * 10, 4 * (10 + 6 + 30 + 30) + 4 * 12 + 4 * (2 * 10 + 10 + 2 + 5 + 2) + 4 * 10);
}

// Documents of 3 and 2 tokens: 6 + 3 pairs; 4 query heads on 2 key heads of 8 channels.
TEST(OpWork, CoreAttentionCountsWhatTheMaskShows) {
    const int32_t starts[] = {0, 3, 5};
    const AttentionTensors t{.out = of({5, 4, 8}),
                             .lse = of({4, 5}),
                             .q = of({5, 4, 8}),
                             .k = of({5, 2, 8}),
                             .v = of({5, 2, 8}),
                             .sink_logit = {},
                             .gate = {}};
    const AttentionTensors d{.out = of({5, 4, 8}),
                             .lse = {},
                             .q = of({5, 4, 8}),
                             .k = of({5, 2, 8}),
                             .v = of({5, 2, 8}),
                             .sink_logit = {},
                             .gate = {}};
    AttentionSpec spec;
    const double bytes = 4 * (160 + 20 + 160 + 80 + 80) + 4 * 3;
    expect_work(op_work::attention_forward(t, starts, spec, kExec), 2 * 2 * 8 * 4 * 9, 5 * 4 * 9, bytes);
    expect_work(op_work::attention_backward(d, t, starts, spec, Write::kOverwrite, kExec), 5 * 2 * 8 * 4 * 9,
                5 * 4 * 9 + 2 * 160, bytes + 4 * (160 + 160 + 80 + 80));
    spec.window = 1;
    EXPECT_EQ(op_work::attention_forward(t, starts, spec, kExec).products, 2 * 2 * 8 * 4 * 5);
}

TEST(OpWork, PairsAreThoseThatTheMaskShows) {
    AttentionSpec specs[5];
    specs[1].window = 4, specs[1].pinned = 2;
    specs[2].pattern = MaskPattern::kDilated, specs[2].window = 3, specs[2].dilation = 2;
    specs[3].pattern = MaskPattern::kStrided, specs[3].window = 3;
    specs[4].pattern = MaskPattern::kBlocked, specs[4].window = 5, specs[4].prefix = 3;
    const int32_t starts[] = {0, 7, 14, 16, 27, 38};  // equal neighbours twice
    for (const AttentionSpec& spec : specs) {
        const Mask mask(spec);
        double pairs = 0;
        for (size_t d = 0; d + 1 < std::size(starts); ++d)
            for (int64_t i = 0; i < starts[d + 1] - starts[d]; ++i)
                for (int64_t j = 0; j < starts[d + 1] - starts[d]; ++j) pairs += mask.visible(i, j);
        EXPECT_EQ(op_work::visible_pairs(spec, starts), pairs) << &spec - specs;
    }
}

// Queries 4 to 6 of a document see 5, 6 and 7 keys.
TEST(OpWork, TasksCountTheirQueries) {
    const KeyRange keys[] = {{.row = 0, .prefix = 0, .begin = 0, .end = 9}};
    const AttentionTask tasks[] = {{.row = 0, .count = 3, .position = 4, .keys = 0}};
    EXPECT_EQ(op_work::visible_pairs(AttentionSpec{}, AttentionTasks{keys, tasks}), 18);
}

TEST(OpWork, PassesOverMemory) {
    const DType bf16 = DType::kBF16;
    const Tensor x = of({5, 4}), half = of({5, 4}, bf16), rows = of({5}), gain = of({4});
    const NormSpec layer{.kind = NormKind::kLayer}, rms{};
    expect_work(op_work::norm_forward(half, rows, rows, x, gain, gain, layer, kExec), 0, 8 * 20,
                2 * 20 + 4 * (20 + 5 + 5 + 4 + 4));
    // Where dx is added to, it is read and written.
    expect_work(op_work::norm_backward(x, gain, {}, half, x, gain, {}, rows, rms, Write::kAccumulate,
                                       Write::kAccumulate, kExec),
                0, 10 * 20, 2 * 20 + 4 * (3 * 20 + 4 + 5 + 2 * 4));
    expect_work(
        op_work::norm_backward(x, gain, {}, half, x, gain, {}, rows, rms, Write::kOverwrite, Write::kAccumulate, kExec),
        0, 10 * 20, 2 * 20 + 4 * (2 * 20 + 4 + 5 + 2 * 4));
    expect_work(op_work::residual_forward(x, x, half, kExec), 0, 20, 4 * 40 + 2 * 20);
    expect_work(op_work::convert(half, x, kExec), 0, 0, 6 * 20);
    const Tensor p = of({100}), working = of({100}, bf16);
    const UpdateSpan spans[] = {{.begin = 0, .count = 60}, {.begin = 80, .count = 10}};  // 30 of 100 stay as they are
    expect_work(op_work::adamw_step(p, p, p, p, working, {spans, 2}, kExec), 0, 17 * 70, 70 * (7 * 4 + 2));
    expect_work(op_work::sum_of_squares(p, kExec), 0, 200, 400);
}

// Rows of a table: as many as there are ids, or as the table has.
TEST(OpWork, EmbeddingTouchesNoMoreRowsThanThereAre) {
    const int32_t ids[] = {1, 2, 1, 0, 2};
    const Tensor out = of({5, 4}), small = of({3, 4}), large = of({1000, 4});
    expect_work(op_work::embedding_forward(out, ids, ids, small, {}, kExec), 0, 0, 4 * (20 + 5 + 12));
    expect_work(op_work::embedding_forward(out, ids, ids, large, small, kExec), 0, 20, 4 * (20 + 5 + 20 + 5 + 12));
    expect_work(op_work::embedding_backward(large, {}, out, ids, ids, kExec), 0, 20, 4 * (20 + 5 + 2 * 20));
}

class Told final : public Tracer {
  public:
    explicit Told(bool counts) : counts_(counts) {}
    int told = 0, begun = 0;
    double products = 0;
    void begin(const char*, int64_t) override { ++begun; }
    void end() override {}
    bool counts_work() const override { return counts_; }
    void work(const OpWork& work) override { ++told, products += work.products; }

  private:
    bool counts_;
};

// Dispatchers tell a tracer that wants to know, once an op.
TEST(OpWork, TracersAreToldOnlyIfTheyWant) {
    std::vector<float> x = normals<float>(10, "x"), w = normals<float>(6, "w"), y(15);
    for (const bool counts : {false, true}) {
        Told tracer(counts);
        const Exec exec{.threads = 1, .tracer = &tracer};
        matmul_forward(view(y, {5, 3}), view(x, {5, 2}), view(w, {3, 2}), {}, exec);
        fill_zero(view(y, {15}), exec);
        EXPECT_EQ(tracer.begun, 2);
        EXPECT_EQ(tracer.told, counts ? 2 : 0);
        EXPECT_EQ(tracer.products, counts ? 60 : 0);
    }
}

}  // namespace
}  // namespace plimsoll
