// bf16 products of our own against sums in double, where parts of K, N and M begin and end, and on other thread counts.
#include "kernels/cpu/avx512_bf16/gemm.h"

#include <cmath>
#include <limits>
#include <ostream>
#include <vector>

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

struct Case {
    int64_t M, N, K;
    bool a_turned, b_turned;  // whether neighbours in memory are of one column
    DType c;
    bool accumulate, bias;
};
void PrintTo(const Case& c, std::ostream* out) {
    *out << c.M << " x " << c.N << " x " << c.K << (c.a_turned ? " a^T" : " a") << (c.b_turned ? " b^T" : " b") << " "
         << name_of(c.c) << (c.accumulate ? " added" : "") << (c.bias ? " bias" : "");
}

// A matrix among NaNs: what a product must not read would show.
struct Operand {
    std::vector<bf16> memory;
    Matrix matrix;

    Operand(int64_t rows, int64_t columns, bool turned, const char* name) {
        const int64_t outer = turned ? columns : rows, inner = turned ? rows : columns, stride = inner + 5;
        const std::vector<bf16> values = normals<bf16>(rows * columns, name);
        memory.assign(static_cast<size_t>(outer * stride + 5), bf16(std::numeric_limits<float>::quiet_NaN()));
        for (int64_t i = 0; i < outer; ++i)
            for (int64_t j = 0; j < inner; ++j)
                memory[static_cast<size_t>(5 + i * stride + j)] = values[static_cast<size_t>(i * inner + j)];
        matrix = {memory.data() + 5, DType::kBF16, rows, columns, turned ? 1 : stride, turned ? stride : 1};
    }
    double at(int64_t i, int64_t j) const {
        return static_cast<const bf16*>(matrix.data)[i * matrix.row + j * matrix.column];
    }
};

// c (M, N) between columns of a marker, as its elements' values.
template <class T>
std::vector<float> product(const Case& c, const Operand& a, const Operand& b, const std::vector<float>& bias,
                           int threads) {
    constexpr float kMarker = 77;
    const std::vector<T> before = normals<T>(c.M * c.N, "c");
    std::vector<T> memory(static_cast<size_t>(c.M * (c.N + 2)), T(kMarker));
    for (int64_t m = 0; m < c.M; ++m)
        for (int64_t n = 0; n < c.N; ++n)
            memory[static_cast<size_t>(m * (c.N + 2) + 1 + n)] =
                c.accumulate ? before[static_cast<size_t>(m * c.N + n)] : T(std::numeric_limits<float>::quiet_NaN());
    cpu::avx512_bf16::gemm({memory.data() + 1, c.c, c.M, c.N, c.N + 2, 1}, a.matrix, b.matrix, c.accumulate,
                           c.bias ? bias.data() : nullptr, {.threads = threads});
    std::vector<float> values;
    for (size_t i = 0; i < memory.size(); ++i) {
        const int64_t n = static_cast<int64_t>(i) % (c.N + 2);
        if (n >= 1 && n <= c.N)
            values.push_back(memory[i]);
        else
            EXPECT_EQ(static_cast<float>(memory[i]), kMarker) << "written outside of c";
    }
    return values;
}

class Bf16Gemm : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        if (!cpu::avx512_bf16::available()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
    }
};

TEST_P(Bf16Gemm, IsTheProductOnEveryThreadCount) {
    const Case c = GetParam();
    const Operand a(c.M, c.K, c.a_turned, "a"), b(c.K, c.N, c.b_turned, "b");
    const std::vector<float> bias = normals<float>(c.N, "bias");
    const auto run = [&](int threads) {
        return c.c == DType::kF32 ? product<float>(c, a, b, bias, threads) : product<bf16>(c, a, b, bias, threads);
    };
    const std::vector<float> got = run(1);
    const std::vector<double> start =
        c.c == DType::kF32 ? widened(normals<float>(c.M * c.N, "c")) : widened(normals<bf16>(c.M * c.N, "c"));
    // Sums of K products of normals in fp32: K roundings of 2^-24 of a sum of about sqrt(K); bf16 results add 2^-9.
    const double own = std::ldexp(std::sqrt(static_cast<double>(c.K)) * static_cast<double>(c.K), -24) + 1e-6;
    for (int64_t m = 0; m<c.M; m += c.M> 100 ? 7 : 1)
        for (int64_t n = 0; n<c.N; n += c.N> 100 ? 5 : 1) {
            const auto i = static_cast<size_t>(m * c.N + n);
            double sum = c.bias ? bias[static_cast<size_t>(n)] : 0;
            for (int64_t k = 0; k < c.K; ++k) sum += a.at(m, k) * b.at(k, n);
            if (c.accumulate) sum += start[i];
            const double rounding = c.c == DType::kBF16 ? std::ldexp(std::abs(sum) + 1e-3, -8) : 0;
            ASSERT_NEAR(got[i], sum, own + rounding) << "row " << m << ", column " << n;
        }
    for (const int threads : {2, 3, 7}) EXPECT_TRUE(same_bits(got, run(threads))) << threads << " threads";
}

// Thin ones: few elements of K, few columns.
INSTANTIATE_TEST_SUITE_P(Thin, Bf16Gemm,
                         testing::Values(Case{150, 75, 3, false, false, DType::kBF16, true, false},
                                         Case{150, 75, 8, false, false, DType::kF32, true, false},
                                         Case{3, 33, 1, false, false, DType::kF32, false, false},
                                         Case{150, 64, 4, false, false, DType::kBF16, false, false},
                                         Case{150, 3, 70, false, true, DType::kBF16, false, true},
                                         Case{150, 4, 300, false, true, DType::kF32, true, true},
                                         Case{2, 1, 33, false, true, DType::kBF16, true, false}));

// Tails of every size, then what packs by itself and together, several parts of N, and of K in fp32 and in bf16.
INSTANTIATE_TEST_SUITE_P(Sizes, Bf16Gemm,
                         testing::Values(Case{1, 1, 1, false, false, DType::kF32, false, false},
                                         Case{31, 33, 31, false, true, DType::kBF16, false, true},
                                         Case{33, 31, 33, true, false, DType::kF32, true, false},
                                         Case{64, 48, 64, false, false, DType::kBF16, false, false},
                                         Case{65, 17, 257, true, true, DType::kBF16, true, true},
                                         Case{300, 70, 256, false, true, DType::kBF16, false, true},
                                         Case{300, 800, 64, false, false, DType::kF32, false, false},
                                         Case{96, 96, 4128, true, false, DType::kF32, true, false},
                                         Case{96, 96, 4128, false, false, DType::kBF16, false, false},
                                         Case{260, 40, 6200, false, true, DType::kBF16, true, true},
                                         Case{257, 1600, 4100, true, true, DType::kF32, false, true}));

// Packing from fp32 is packing of the values rounded to bf16, of every height and width, and reads nothing else.
TEST(Bf16Tiles, PackFp32AsItsBf16) {
    if (!cpu::avx512_bf16::available()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
    constexpr int64_t kStride = 37, kApart = 2 * cpu::avx512_bf16::kTileElements;
    alignas(64) bf16 wanted[2 * kApart], seen[2 * kApart];
    for (const int64_t rows : {-1, 0, 1, 15, 16, 17, 31, 32})
        for (const int64_t columns : {1, 15, 16, 17, 31, 32})
            for (const bool turned : {false, true}) {
                std::vector<float> from(32 * kStride, std::numeric_limits<float>::quiet_NaN());
                std::vector<bf16> rounded(from.size());
                const std::vector<float> values = normals<float>(32 * 32, "values");
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t j = 0; j < columns; ++j) {
                        const auto at = static_cast<size_t>(i * kStride + j);
                        from[at] = values[static_cast<size_t>(i * 32 + j)], rounded[at] = bf16(from[at]);
                    }
                const auto pack = [&](bf16* to, const auto* data) {
                    std::fill_n(to, 2 * kApart, bf16(7.0f));
                    turned ? cpu::avx512_bf16::pack_left_turned(to, kApart, data, kStride, rows, columns)
                           : cpu::avx512_bf16::pack_left(to, kApart, data, kStride, rows, columns);
                };
                pack(wanted, rounded.data()), pack(seen, from.data());
                for (int64_t i = 0; i < 2 * kApart; ++i)
                    ASSERT_EQ(seen[i].bits, wanted[i].bits) << rows << " x " << columns << ", " << turned << ": " << i;
            }
}

}  // namespace
}  // namespace plimsoll
