// The three products of a linear layer against loops in double, central differences, and themselves on other thread
// counts.
#include "kernels/matmul.h"

#include <algorithm>
#include <ostream>
#include <vector>

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

// Activations are slices of columns of wider rows if `padding` > 0.
struct Case {
    int64_t N, O, I;
    int64_t padding = 0;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << "N=" << c.N << " O=" << c.O << " I=" << c.I << " padding=" << c.padding;
}

// Rows (N, columns) inside rows `padding` longer, which hold a marker on both sides.
template <class T>
struct Rows {
    static constexpr float kMarker = 77;
    int64_t N, columns, padding;
    std::vector<T> memory;

    Rows(int64_t N, int64_t columns, int64_t padding, std::vector<T> values = {})
        : N(N), columns(columns), padding(padding) {
        memory.assign(static_cast<size_t>(N * (columns + padding)), T(kMarker));
        for (size_t i = 0; i < values.size(); ++i) memory[place(i)] = values[i];
    }
    size_t place(size_t i) const {
        const auto C = static_cast<size_t>(columns), P = static_cast<size_t>(padding);
        return i / C * (C + P) + P / 2 + i % C;
    }
    Tensor tensor() { return view(memory, {N, columns + padding}).slice_columns(padding / 2, columns); }
    std::vector<T> values() const {
        std::vector<T> result(static_cast<size_t>(N * columns));
        for (size_t i = 0; i < result.size(); ++i) result[i] = memory[place(i)];
        return result;
    }
    void expect_markers() const {
        std::vector<T> rest = memory;
        for (size_t i = 0; i < static_cast<size_t>(N * columns); ++i) rest[place(i)] = T(kMarker);
        EXPECT_TRUE(same_bits(rest, std::vector<T>(memory.size(), T(kMarker)))) << "written outside of the slice";
    }
};

// a (M, K) and b (K, N), element (i, j) at i * row + j * column, multiplied by the definition.
std::vector<double> multiplied(const std::vector<double>& a, size_t a_row, size_t a_column,
                               const std::vector<double>& b, size_t b_row, size_t b_column, size_t M, size_t N,
                               size_t K) {
    std::vector<double> c(M * N);
    for (size_t m = 0; m < M; ++m)
        for (size_t n = 0; n < N; ++n)
            for (size_t k = 0; k < K; ++k) c[m * N + n] += a[m * a_row + k * a_column] * b[k * b_row + n * b_column];
    return c;
}

// Operands in T, results of activations in Out.
template <class T, class Out>
struct Layer {
    using R = Accumulator<T>;
    Case c;
    Rows<T> x, dout;
    std::vector<T> weight;
    std::vector<R> bias;
    explicit Layer(Case c)
        : c(c),
          x(c.N, c.I, c.padding, normals<T>(c.N * c.I, "x")),
          dout(c.N, c.O, c.padding, normals<T>(c.N * c.O, "dout")) {
        weight = normals<T>(c.O * c.I, "weight"), bias = normals<R>(c.O, "bias");
    }
    Tensor weight_view() { return view(weight, {c.O, c.I}); }
    // The result starts as NaN where it is overwritten.
    static constexpr float kUnread = std::numeric_limits<float>::quiet_NaN();

    Rows<Out> forward(bool with_bias, int threads = 2) {
        Rows<Out> out(c.N, c.O, c.padding, std::vector<Out>(static_cast<size_t>(c.N * c.O), Out(kUnread)));
        matmul_forward(out.tensor(), x.tensor(), weight_view(), with_bias ? view(bias, {c.O}) : Tensor{},
                       {.threads = threads});
        return out;
    }
    Rows<Out> backward_input(Write write, int threads = 2) {
        std::vector<Out> start = normals<Out>(c.N * c.I, "dx");
        if (write == Write::kOverwrite) std::fill(start.begin(), start.end(), Out(kUnread));
        Rows<Out> dx(c.N, c.I, c.padding, start);
        matmul_backward_input(dx.tensor(), dout.tensor(), weight_view(), write, {.threads = threads});
        return dx;
    }
    struct WeightGradient {
        std::vector<R> dweight, dbias;
    };
    WeightGradient backward_weight(Write write, int threads = 2) {
        WeightGradient g{normals<R>(c.O * c.I, "dweight"), normals<R>(c.O, "dbias")};
        if (write == Write::kOverwrite) {
            std::fill(g.dweight.begin(), g.dweight.end(), R(kUnread));
            std::fill(g.dbias.begin(), g.dbias.end(), R(kUnread));
        }
        matmul_backward_weight(view(g.dweight, {c.O, c.I}), view(g.dbias, {c.O}), dout.tensor(), x.tensor(), write,
                               {.threads = threads});
        return g;
    }
};

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i % b.size()];
    return a;
}

// A sum of K products of normal numbers, in whatever order a library adds them: K + 1 roundings of partial sums no
// larger than 6 sqrt(K) would be the worst case; they are independent, so that their sum grows as sqrt(K). The factor 2
// is room.
template <class T>
void expect_sums(const std::vector<T>& actual, const std::vector<double>& expected, int64_t K, const char* name) {
    const double root = std::sqrt(static_cast<double>(K));
    expect_close(actual, expected, 2 * (root + 1), name, 6 * root);
}

template <class T, class Out>
void expect_definition(Case c) {
    using R = Accumulator<T>;
    Layer<T, Out> layer(c);
    const auto N = static_cast<size_t>(c.N), O = static_cast<size_t>(c.O), I = static_cast<size_t>(c.I);
    const std::vector<double> x = widened(layer.x.values()), dout = widened(layer.dout.values()),
                              w = widened(layer.weight);
    const std::vector<double> out = multiplied(x, I, 1, w, 1, I, N, O, I),
                              dx = multiplied(dout, O, 1, w, I, 1, N, I, O);
    const std::vector<double> dweight = multiplied(dout, 1, O, x, I, 1, O, I, N);
    const std::vector<double> dbias = multiplied(std::vector<double>(N, 1.0), N, 1, dout, O, 1, 1, O, N);

    for (const bool with_bias : {false, true}) {
        const Rows<Out> got = layer.forward(with_bias);
        expect_sums(got.values(), with_bias ? plus(out, widened(layer.bias)) : out, c.I,
                    with_bias ? "out with bias" : "out");
        got.expect_markers();
    }
    for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
        const bool add = write == Write::kAccumulate;
        const Rows<Out> got = layer.backward_input(write);
        expect_sums(got.values(), add ? plus(dx, widened(normals<Out>(c.N * c.I, "dx"))) : dx, c.O,
                    add ? "dx added" : "dx");
        got.expect_markers();
        const auto g = layer.backward_weight(write);
        expect_sums(g.dweight, add ? plus(dweight, widened(normals<R>(c.O * c.I, "dweight"))) : dweight, c.N,
                    add ? "dweight added" : "dweight");
        expect_sums(g.dbias, add ? plus(dbias, widened(normals<R>(c.O, "dbias"))) : dbias, c.N,
                    add ? "dbias added" : "dbias");
    }
}

class MatmulTest : public testing::TestWithParam<Case> {};

TEST_P(MatmulTest, DoubleFollowsTheDefinition) {
    expect_definition<double, double>(GetParam());
}
TEST_P(MatmulTest, SingleFollowsTheDefinition) {
    expect_definition<float, float>(GetParam());
}
// Against the oracle on the rounded operands.
TEST_P(MatmulTest, HalfFollowsTheDefinition) {
    expect_definition<bf16, bf16>(GetParam());
}
TEST_P(MatmulTest, HalfWithSingleResultsFollowsTheDefinition) {
    expect_definition<bf16, float>(GetParam());
}

template <class T>
void expect_same_bits_for(Case c, std::vector<int> thread_counts) {
    Layer<T, T> layer(c);
    const auto out = layer.forward(true, 1), dx = layer.backward_input(Write::kAccumulate, 1);
    const auto g = layer.backward_weight(Write::kAccumulate, 1), fresh = layer.backward_weight(Write::kOverwrite, 1);
    for (const int threads : thread_counts) {
        EXPECT_TRUE(same_bits(layer.forward(true, threads).memory, out.memory)) << threads << " threads";
        EXPECT_TRUE(same_bits(layer.backward_input(Write::kAccumulate, threads).memory, dx.memory))
            << threads << " threads";
        const auto again = layer.backward_weight(Write::kAccumulate, threads);
        EXPECT_TRUE(same_bits(again.dweight, g.dweight)) << threads << " threads";
        EXPECT_TRUE(same_bits(again.dbias, g.dbias)) << threads << " threads";
        const auto anew = layer.backward_weight(Write::kOverwrite, threads);
        EXPECT_TRUE(same_bits(anew.dweight, fresh.dweight)) << threads << " threads";
        EXPECT_TRUE(same_bits(anew.dbias, fresh.dbias)) << threads << " threads";
    }
}

TEST_P(MatmulTest, BitsRepeatAndDoNotDependOnThreads) {
    const std::vector<int> thread_counts =
        matmul_backend().starts_with("OpenBLAS") ? std::vector<int>{1} : std::vector<int>{1, 2, 3, 8};
    expect_same_bits_for<float>(GetParam(), thread_counts);
    expect_same_bits_for<double>(GetParam(), {1, 2, 3, 8});
    expect_same_bits_for<bf16>(GetParam(), {1});
}

INSTANTIATE_TEST_SUITE_P(Sizes, MatmulTest,
                         testing::Values(Case{1, 1, 1}, Case{1, 3, 17}, Case{3, 1, 65}, Case{17, 65, 1},
                                         Case{1, 1, 300}, Case{65, 17, 3}, Case{3, 1, 1, 4}, Case{33, 5, 7, 2},
                                         Case{65, 67, 130, 6}, Case{128, 96, 64, 32}, Case{40, 300, 65},
                                         Case{300, 257, 40, 8}));

// So many rows that a library is tempted to share the sum over them out among threads.
TEST(Matmul, WeightGradientOfManyRowsDoesNotDependOnThreads) {
    if (matmul_backend().starts_with("OpenBLAS")) GTEST_SKIP() << "OpenBLAS does not promise it";
    for (const Case c : {Case{16384, 16, 16}, Case{4096, 64, 64, 8}, Case{5000, 67, 32}, Case{2048, 3, 1}}) {
        SCOPED_TRACE(testing::PrintToString(c));
        expect_same_bits_for<float>(c, {2, 3, 8});
    }
    if (!cpu::avx512_bf16::available()) return;
    for (const Case c : {Case{9000, 64, 64}, Case{6200, 60, 120, 8}, Case{4100, 33, 61}}) {
        SCOPED_TRACE(testing::PrintToString(c));
        expect_same_bits_for<bf16>(c, {2, 3, 8});
    }
}

TEST(Matmul, ManyRowsFollowTheDefinition) {
    expect_definition<float, float>({2500, 9, 33, 2});
    expect_definition<float, float>({1100, 40, 70, 2});
    expect_definition<float, float>({40, 1100, 600});
    expect_definition<float, float>({700, 40, 600});
    expect_definition<double, double>({2500, 9, 33, 2});
    expect_definition<bf16, bf16>({2500, 9, 33, 2});
}

// Few outputs: head-wise gates, temperatures. On AVX512_BF16 these are no blocks.
TEST(Matmul, ThinLayersFollowTheDefinition) {
    for (const Case c : {Case{2500, 3, 70, 2}, Case{700, 4, 256}, Case{700, 8, 33}, Case{64, 7, 1}, Case{1, 2, 40}}) {
        SCOPED_TRACE(testing::PrintToString(c));
        expect_definition<bf16, bf16>(c);
        expect_definition<bf16, float>(c);
        if (cpu::avx512_bf16::available()) expect_same_bits_for<bf16>(c, {2, 3, 8});
    }
}

// loss = out . dout: its gradients are what the backward products return.
TEST(Matmul, BackwardMatchesCentralDifferences) {
    Layer<double, double> layer({5, 7, 6});
    const std::vector<double> dout = layer.dout.values(), dx = layer.backward_input(Write::kOverwrite).values();
    const auto g = layer.backward_weight(Write::kOverwrite);
    const auto loss = [&] { return dot(layer.forward(true).values(), dout); };
    expect_gradient(layer.x.memory, dx, loss, "x");
    expect_gradient(layer.weight, g.dweight, loss, "weight");
    expect_gradient(layer.bias, g.dbias, loss, "bias");
}

TEST(Matmul, EmptySumsAreZeroOrTheBias) {
    std::vector<float> weight = normals<float>(6, "weight"), bias = normals<float>(2, "bias"), none(1), out(8, 5);
    // No rows: nothing to write but gradients of zero.
    matmul_forward(view(none, {0, 2}), view(none, {0, 3}), view(weight, {2, 3}), view(bias, {2}), {});
    matmul_backward_input(view(none, {0, 3}), view(none, {0, 2}), view(weight, {2, 3}), Write::kOverwrite, {});
    std::vector<float> dweight = weight, dbias = bias;
    matmul_backward_weight(view(dweight, {2, 3}), view(dbias, {2}), view(none, {0, 2}), view(none, {0, 3}),
                           Write::kAccumulate, {});
    EXPECT_EQ(dweight, weight);
    EXPECT_EQ(dbias, bias);
    matmul_backward_weight(view(dweight, {2, 3}), view(dbias, {2}), view(none, {0, 2}), view(none, {0, 3}),
                           Write::kOverwrite, {});
    EXPECT_EQ(dweight, std::vector<float>(6));
    EXPECT_EQ(dbias, std::vector<float>(2));
    // No inputs.
    matmul_forward(view(out, {4, 2}), view(none, {4, 0}), view(none, {2, 0}), view(bias, {2}), {});
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], bias[i % 2]);
}

TEST(Matmul, MismatchedShapesAndDtypesAreRefused) {
    std::vector<float> out(8), x(12), weight(6), bias(2), three(3);
    std::vector<bf16> half_x(12), half_out(8);
    std::vector<double> wide(12);
    const auto forward = [&](Tensor o, Tensor x, Tensor w, Tensor b) { matmul_forward(o, x, w, b, {}); };
    const Tensor o = view(out, {4, 2}), i = view(x, {4, 3}), w = view(weight, {2, 3}), b = view(bias, {2});
    EXPECT_NO_THROW(forward(o, i, w, b));
    EXPECT_THROW(forward(o, i, view(weight, {3, 2}), b), Error);                 // weight transposed
    EXPECT_THROW(forward(view(out, {2, 4}), i, w, b), Error);                    // out transposed
    EXPECT_THROW(forward(o, view(x, {6, 2}), w, b), Error);                      // other rows
    EXPECT_THROW(forward(o, view(x, {2, 2, 3}), w, b), Error);                   // rank
    EXPECT_THROW(forward(o, {}, w, b), Error);                                   // absent
    EXPECT_THROW(forward(o, i, view(x, {2, 6}).slice_columns(0, 3), b), Error);  // weight not contiguous
    EXPECT_THROW(forward(o, i, w, view(three, {3})), Error);                     // bias of another length
    EXPECT_THROW(forward(o, view(half_x, {4, 3}), w, b), Error);                 // operands differ
    EXPECT_THROW(forward(view(half_out, {4, 2}), i, w, b), Error);               // fp32 rounded to bf16
    EXPECT_THROW(forward(o, i, w, view(half_out, {2})), Error);                  // a bf16 bias
    EXPECT_THROW(matmul_forward(o, i, w, b, {.threads = 0}), Error);
    EXPECT_THROW(matmul_forward(o, i, w, b, {.device = Device::kCuda}), Error);
    EXPECT_THROW(matmul_backward_input(view(wide, {4, 3}), o, w, Write::kOverwrite, {}), Error);
    EXPECT_THROW(matmul_backward_input(view(x, {3, 4}), o, w, Write::kOverwrite, {}), Error);
    EXPECT_THROW(matmul_backward_weight(view(weight, {3, 2}), b, o, i, Write::kOverwrite, {}), Error);
    EXPECT_THROW(matmul_backward_weight(w, view(three, {3}), o, i, Write::kOverwrite, {}), Error);
    // Weight gradients are kept in the dtype of sums.
    EXPECT_THROW(matmul_backward_weight(view(half_out, {2, 3}), {}, view(half_out, {4, 2}), view(half_x, {4, 3}),
                                        Write::kOverwrite, {}),
                 Error);
}

}  // namespace
}  // namespace plimsoll
