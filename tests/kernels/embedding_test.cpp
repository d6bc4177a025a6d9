// Embedding lookups and their gradient against loops in double.
#include "kernels/embedding.h"

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

// Ids with repeats, all below `rows`.
std::vector<int32_t> ids(int64_t N, int64_t rows, std::string_view name) {
    const RandomStream stream(11, "test", name);
    std::vector<int32_t> values(static_cast<size_t>(N));
    for (size_t n = 0; n < values.size(); ++n)
        values[n] = static_cast<int32_t>(stream.below(n, static_cast<uint64_t>(rows)));
    return values;
}

template <class T>
struct Lookup {
    int64_t N, C, V, P;
    std::vector<int32_t> tokens = ids(N, V, "tokens"), positions = ids(N, P, "positions");
    std::vector<T> token_table = normals<T>(V * C, "token_table"), position_table = normals<T>(P * C, "position_table");
    std::vector<T> dout = normals<T>(N * C, "dout"), out = std::vector<T>(static_cast<size_t>(N * C));
    std::vector<T> dtoken_table = normals<T>(V * C, "dtoken_table"),
                   dposition_table = normals<T>(P * C, "dposition_table");

    void forward(int threads = 1) {
        embedding_forward(view(out, {N, C}), tokens, positions, view(token_table, {V, C}), view(position_table, {P, C}),
                          {.threads = threads});
    }
    void backward(int threads = 1) {
        embedding_backward(view(dtoken_table, {V, C}), view(dposition_table, {P, C}), view(dout, {N, C}), tokens,
                           positions, {.threads = threads});
    }
};

template <class T>
class EmbeddingTest : public testing::Test {};
TYPED_TEST_SUITE(EmbeddingTest, WideFloats);

TYPED_TEST(EmbeddingTest, FollowsTheDefinition) {
    for (const int64_t C : {1, 3, 17, 65}) {
        Lookup<TypeParam> run{.N = 37, .C = C, .V = 11, .P = 5};
        std::vector<double> out, dtoken = widened(run.dtoken_table), dposition = widened(run.dposition_table);
        for (size_t n = 0; n < 37; ++n)
            for (size_t c = 0; c < static_cast<size_t>(C); ++c) {
                const size_t token = static_cast<size_t>(run.tokens[n] * C) + c,
                             position = static_cast<size_t>(run.positions[n] * C) + c;
                out.push_back(static_cast<double>(run.token_table[token]) +
                              static_cast<double>(run.position_table[position]));
                dtoken[token] += static_cast<double>(run.dout[n * static_cast<size_t>(C) + c]);
                dposition[position] += static_cast<double>(run.dout[n * static_cast<size_t>(C) + c]);
            }
        run.forward();
        run.backward();
        expect_close(run.out, out, 1, "out");
        expect_close(run.dtoken_table, dtoken, 20, "dtoken_table",
                     4);  // up to 20 additions, of partial sums below 4 or so
        expect_close(run.dposition_table, dposition, 20, "dposition_table", 8);
    }
}

TYPED_TEST(EmbeddingTest, PositionsMayBeAbsentAndRowsThatDoNotOccurAreLeftAlone) {
    std::vector<TypeParam> table = normals<TypeParam>(4 * 3, "table"), out(2 * 3),
                           dtable(4 * 3, std::numeric_limits<TypeParam>::quiet_NaN());
    std::fill_n(dtable.begin() + 6, 3, TypeParam(1));
    const std::vector<int32_t> tokens{2, 2};
    embedding_forward(view(out, {2, 3}), tokens, {}, view(table, {4, 3}), {}, {});
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(out[i], table[6 + i % 3]);
    embedding_backward(view(dtable, {4, 3}), {}, view(out, {2, 3}), tokens, {}, {});
    for (size_t i = 0; i < 12; ++i) {
        if (i >= 6 && i < 9)
            EXPECT_EQ(dtable[i], TypeParam(1) + out[i - 6] + out[i - 6]) << i;
        else
            EXPECT_TRUE(std::isnan(dtable[i])) << i;
    }
}

TYPED_TEST(EmbeddingTest, BitsDoNotDependOnThreads) {
    for (const int64_t C : {65, 16}) {
        Lookup<TypeParam> one{.N = 1201, .C = C, .V = 13, .P = 7};
        one.forward(), one.backward();
        for (const int threads : {1, 2, 3, 8}) {
            Lookup<TypeParam> run{.N = 1201, .C = C, .V = 13, .P = 7};
            run.forward(threads), run.backward(threads);
            EXPECT_TRUE(same_bits(one.out, run.out) && same_bits(one.dtoken_table, run.dtoken_table) &&
                        same_bits(one.dposition_table, run.dposition_table))
                << threads << " threads, C = " << C;
        }
    }
}

TYPED_TEST(EmbeddingTest, GradientsAreSummedInAscendingOrder) {
    for (const int64_t C : {1, 17, 256}) {
        const int64_t N = 301;
        Lookup<TypeParam> run{.N = N, .C = C, .V = 1000, .P = 7};
        std::fill_n(run.tokens.begin() + 40, 150, 3);  // more than a thread's share, and most ids never
        std::vector<TypeParam> dtoken = run.dtoken_table, dposition = run.dposition_table;
        for (int64_t n = 0; n < N; ++n)
            for (int64_t c = 0; c < C; ++c) {
                const TypeParam grad = run.dout[static_cast<size_t>(n * C + c)];
                dtoken[static_cast<size_t>(run.tokens[static_cast<size_t>(n)] * C + c)] += grad;
                dposition[static_cast<size_t>(run.positions[static_cast<size_t>(n)] * C + c)] += grad;
            }
        run.backward(3);
        EXPECT_TRUE(same_bits(run.dtoken_table, dtoken) && same_bits(run.dposition_table, dposition)) << C;
    }
}

TEST(Embedding, BackwardMatchesCentralDifferences) {
    Lookup<double> run{.N = 9, .C = 3, .V = 5, .P = 4};
    std::ranges::fill(run.dtoken_table, 0), std::ranges::fill(run.dposition_table, 0);
    run.backward();
    const auto loss = [&] { return run.forward(), dot(run.out, run.dout); };
    expect_gradient(run.token_table, run.dtoken_table, loss, "token_table");
    expect_gradient(run.position_table, run.dposition_table, loss, "position_table");
}

TEST(Embedding, IdsOutsideTheTableAndWrongShapesAreRefused) {
    const auto message = [](Lookup<float> run) -> std::string {
        try {
            run.forward();
        } catch (const Error& error) {
            return error.what();
        }
        return "accepted";
    };
    const Lookup<float> good{.N = 4, .C = 3, .V = 5, .P = 4};
    EXPECT_EQ(message(good), "accepted");
    Lookup<float> bad = good;
    bad.tokens[2] = 5;
    EXPECT_NE(message(bad).find("tokens[2] is 5, its table has 5 rows"), std::string::npos) << message(bad);
    EXPECT_THROW(bad.backward(), Error);
    bad = good, bad.tokens[0] = -1;
    EXPECT_NE(message(bad).find("tokens[0] is -1"), std::string::npos) << message(bad);
    bad = good, bad.positions[3] = 4;
    EXPECT_NE(message(bad).find("positions[3] is 4"), std::string::npos) << message(bad);
    bad = good, bad.tokens.pop_back();
    EXPECT_NE(message(bad).find("3 tokens for 4 rows"), std::string::npos) << message(bad);
    std::vector<bf16> half(12);
    bad = good;
    EXPECT_THROW(embedding_forward(view(half, {4, 3}), bad.tokens, {}, view(bad.token_table, {5, 3}), {}, {}), Error);
}

}  // namespace
}  // namespace plimsoll
