// Sums of squares by blocks, alone and behind products, against sums in long double.
#include "kernels/global_norm.h"

#include <array>
#include <cmath>
#include <limits>

#include "kernels/matmul.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

template <class R>
void expect_squares(const std::vector<double>& squares, const std::vector<R>& x, int64_t M, int64_t N) {
    const int64_t across = squares_shape({M, N})[1];
    std::vector<long double> sums(squares.size());
    for (int64_t m = 0; m < M; ++m)
        for (int64_t n = 0; n < N; ++n) {
            const auto value = static_cast<long double>(x[static_cast<size_t>(m * N + n)]);
            sums[static_cast<size_t>(m / kSquaresSide * across + n / kSquaresSide)] += value * value;
        }
    // Positive terms in fp64: one rounding for each of at most 64 additions of a lane.
    for (size_t i = 0; i < sums.size(); ++i)
        EXPECT_NEAR(squares[i], static_cast<double>(sums[i]), static_cast<double>(sums[i]) * 1e-14) << i;
}

std::vector<double> places(Shape matrix) {
    return std::vector<double>(static_cast<size_t>(squares_shape(matrix).elements()),
                               std::numeric_limits<double>::quiet_NaN());
}

template <class T>
class BlockSquaresTest : public testing::Test {};
TYPED_TEST_SUITE(BlockSquaresTest, WideFloats);

TYPED_TEST(BlockSquaresTest, AreThoseOfEveryBlock) {
    for (const auto& [M, N] : {std::array<int64_t, 2>{1, 1}, {32, 32}, {33, 31}, {65, 100}, {700, 260}}) {
        std::vector<TypeParam> x = normals<TypeParam>(M * N, "x");
        std::vector<double> squares = places({M, N});
        const auto all = [&](int threads) {
            block_squares(view(squares, squares_shape({M, N})), view(x, {M, N}), {.threads = threads});
            return squares;
        };
        const std::vector<double> first = all(1);
        expect_squares(first, x, M, N);
        for (const int threads : {2, 3}) EXPECT_TRUE(same_bits(all(threads), first)) << threads;
    }
    std::vector<TypeParam> huge(40, TypeParam(1e30));  // squares beyond fp32
    std::vector<double> squares = places({1, 40});
    block_squares(view(squares, {1, 2}), view(huge, {1, 40}), {});
    EXPECT_NEAR(squares[0] / 32e60, 1, 1e-6);
}

// Only the blocks of these rows are summed again, to the bits that all of them give.
TYPED_TEST(BlockSquaresTest, OfRowsThatHaveChanged) {
    constexpr int64_t M = 200, N = 70;
    const Shape shape = squares_shape({M, N});
    std::vector<TypeParam> x = normals<TypeParam>(M * N, "x");
    std::vector<double> squares = places({M, N}), expected = squares;
    block_squares(view(squares, shape), view(x, {M, N}), {});
    const std::vector<int32_t> rows{199, 5, 64, 5};
    for (const int32_t row : rows) x[static_cast<size_t>(row * N + 69)] = 100;
    x[static_cast<size_t>(130 * N)] = 1000;  // nobody says so
    block_squares(view(squares, shape), view(x, {M, N}), rows, {.threads = 2});
    block_squares(view(expected, shape), view(x, {M, N}), {});
    for (int64_t i = 0; i < shape.elements(); ++i) {
        const bool unsaid = i / shape[1] == 130 / kSquaresSide && i % shape[1] == 0;
        EXPECT_EQ(squares[static_cast<size_t>(i)] == expected[static_cast<size_t>(i)], !unsaid) << i;
    }
    const std::vector<int32_t> none{200};
    EXPECT_THROW(block_squares(view(squares, shape), view(x, {M, N}), none, {}), Error);
    EXPECT_THROW(block_squares(view(squares, {1, 2}), view(x, {M, N}), {}), Error);
}

// What a weight's gradient leaves are the sums of what is there then, in every dtype, written or added, with every end
// of blocks, past the caches (from 512 Ki elements on) and in several parts of K (from 4097 on).
template <class T>
void expect_squares_of_gradients(int64_t O, int64_t I, int64_t N) {
    using R = Accumulator<T>;
    std::vector<T> dout = normals<T>(N * O, "dout"), x = normals<T>(N * I, "x");
    std::vector<R> bias(static_cast<size_t>(O));
    for (const Write write : {Write::kOverwrite, Write::kAccumulate})
        for (const bool with_bias : {false, true}) {
            std::vector<double> first;
            for (const int threads : {1, 2, 3}) {
                std::vector<R> dweight = normals<R>(O * I, "dweight"), plain = dweight;
                std::vector<double> squares = places({O, I});
                const Tensor dbias = with_bias ? view(bias, {O}) : Tensor{};
                const auto gradient = [&](std::vector<R>& to, Tensor sums) {
                    matmul_backward_weight(view(to, {O, I}), dbias, view(dout, {N, O}), view(x, {N, I}), write,
                                           {.threads = threads}, sums);
                };
                gradient(dweight, view(squares, squares_shape({O, I})));
                gradient(plain, {});
                EXPECT_TRUE(same_bits(dweight, plain));
                expect_squares(squares, dweight, O, I);
                if (first.empty()) first = squares;
                EXPECT_TRUE(same_bits(squares, first)) << threads << " threads";
            }
        }
}

TEST(MatmulSquares, AreThoseOfTheGradient) {
    for (const auto& [O, I, N] :
         {std::array<int64_t, 3>{1, 1, 1}, {33, 65, 7}, {64, 96, 40}, {96, 40, 300}, {40, 33, 4200}}) {
        SCOPED_TRACE(testing::Message() << O << " x " << I << ", " << N << " tokens");
        expect_squares_of_gradients<bf16>(O, I, N);
        expect_squares_of_gradients<float>(O, I, N);
        expect_squares_of_gradients<double>(O, I, N);
    }
    expect_squares_of_gradients<bf16>(736, 736, 32);
}

TEST(MatmulSquares, WantTheirShape) {
    std::vector<float> dweight(6), dout(8), x(12);
    std::vector<double> squares(2);
    const auto gradient = [&](Shape shape) {
        matmul_backward_weight(view(dweight, {2, 3}), {}, view(dout, {4, 2}), view(x, {4, 3}), Write::kOverwrite, {},
                               view(squares, shape));
    };
    EXPECT_NO_THROW(gradient({1, 1}));
    EXPECT_THROW(gradient({1, 2}), Error);
}

}  // namespace
}  // namespace plimsoll
