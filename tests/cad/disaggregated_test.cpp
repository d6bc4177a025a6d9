// Core attention by ranks together against the same documents in one place: DISTRIBUTED.md's rows for CAD.
#include <cstring>

#include "support/cad_ranks.h"

namespace plimsoll {
namespace {

std::vector<AttentionCase> variants_to_test() {
    AttentionCase gqa{.NH = 4, .NKV = 2};
    AttentionCase one{.extra = ExtraColumn::kConstant, .extra_logit = 0.5, .NH = 2, .NKV = 1};
    AttentionCase sink{.extra = ExtraColumn::kLearnedLogit, .NH = 2, .NKV = 2, .gate = true};
    AttentionCase sigmoid{.weighting = "sigmoid", .bias = ScoreBias::kPerRow, .alibi = true, .NH = 2, .NKV = 1};
    AttentionCase gated{.weighting = "sigmoid", .bias_value = -5, .NH = 2, .NKV = 2, .gate = true};
    AttentionCase window{.window = 200, .NH = 2, .NKV = 1};
    AttentionCase pinned{
        .extra = ExtraColumn::kLearnedLogit, .window = 150, .pinned = 5, .alibi = true, .NH = 2, .NKV = 2};
    AttentionCase biased{.weighting = "sigmoid", .bias = ScoreBias::kLearned, .bias_value = -5, .NH = 4, .NKV = 2};
    AttentionCase factor{
        .weighting = "relu", .bias = ScoreBias::kLearned, .window = 150, .NH = 2, .NKV = 1, .gate = true};
    AttentionCase summed{.weighting = "sigmoid_normalized", .NH = 4, .NKV = 2, .gate = true};
    AttentionCase is_signed{.weighting = "linear_normalized", .window = 200, .NH = 2, .NKV = 2};
    AttentionCase wide{.NH = 4, .NKV = 2, .VS = 16};
    return {gqa, one, sink, sigmoid, gated, window, pinned, biased, factor, summed, is_signed, wide};
}

std::vector<CadCase> whole_cases(const AttentionCase& a) {
    return {CadCase::whole("two ranks", {{1000}, {300, 77}}, a),
            CadCase::whole("odd lengths", {{129, 511, 1}, {2, 3, 5, 700}, {640}}, a),
            CadCase::whole("one giant, tiny ones, nobody", {{1281}, {7, 9, 11, 13}, {}, {128, 128}}, a),
            CadCase::whole("one rank", {{600, 5}}, a)};
}
std::vector<CadCase> spanning_cases(const AttentionCase& a) {
    return {CadCase::spanning("one document over all ranks", 4, 256, {1024}, a),
            CadCase::spanning("odd cuts", 3, 401, {77, 900, 226}, a)};
}

template <class T>
bool equal_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The tolerances of the specification: sums over queries in another order.
template <class T>
constexpr double kKeyTolerance = std::is_same_v<T, double> ? 1e-12 : 2e-6;

template <class T>
void expect_equal(CadRanks<T>& ranks, const CadCase& c, bool whole_documents) {
    const AttentionRun<T> got = ranks.compute(false);
    if (::testing::Test::HasFailure()) return;  // a rank ended early
    const AttentionRun<T>& want = ranks.whole();
    const AttentionCase& a = c.attention;
    EXPECT_TRUE(equal_bits(got.out, want.out)) << "out";
    if (is_normalized(a.spec().weighting)) EXPECT_TRUE(equal_bits(got.lse, want.lse)) << "lse";
    EXPECT_TRUE(equal_bits(got.dgate, want.dgate)) << "dgate";
    const DenseQkv<double> d(a, widened(got.dqkv)), wanted(a, widened(want.dqkv));
    EXPECT_EQ(d.q, wanted.q) << "dq";
    EXPECT_LE(relative_l2(d.k, wanted.k), kKeyTolerance<T>) << "dk";
    EXPECT_LE(relative_l2(d.v, wanted.v), kKeyTolerance<T>) << "dv";
    EXPECT_LE(relative_l2(ranks.learned_sum(), widened(want.dlearned())), kKeyTolerance<T>)
        << "dsink_logit or dscore_bias";
    for (int r = 0; r < c.ranks; ++r)
        EXPECT_EQ(ranks.observed()[static_cast<size_t>(r)], ranks.planned(r)) << "bytes of rank " << r;
    if (!whole_documents) return;
    const AttentionRun<T> in_turn = ranks.compute(true);
    EXPECT_TRUE(equal_bits(got.dqkv, in_turn.dqkv)) << "servers in turn: dq, dk, dv";
    EXPECT_TRUE(equal_bits(got.out, in_turn.out)) << "servers in turn: out";
}

template <class T>
class Disaggregated : public ::testing::Test {};
TYPED_TEST_SUITE(Disaggregated, WideFloats);

template <class T>
void try_plans(const CadCase& c, bool whole_documents) {
    SCOPED_TRACE(c.name + ", " + ::testing::PrintToString(c.attention));
    const CaShape shape = CadRanks<T>::shape_of(c.attention);
    const AttentionSpec spec = c.attention.spec();
    const CaPlan forward = plan_core_attention(c.segments, c.options(shape.forward_costs(spec)));
    const CaPlan backward = plan_core_attention(c.segments, c.options(shape.backward_costs(spec)));
    for (const bool two_hop : {true, false}) {
        SCOPED_TRACE(two_hop ? "two hops" : "direct");
        if (whole_documents || forward.moves) {
            CadRanks<T> planned(c, forward, backward, two_hop);
            expect_equal(planned, c, whole_documents);
        }
        CadRanks<T> scattered(c, scattered_plan(c, 1), scattered_plan(c, 2), two_hop);
        expect_equal(scattered, c, whole_documents);
    }
}

TYPED_TEST(Disaggregated, WholeDocumentsGiveTheBitsOfOnePlace) {
    for (const AttentionCase& a : variants_to_test())
        for (const CadCase& c : whole_cases(a)) try_plans<TypeParam>(c, true);
}

TYPED_TEST(Disaggregated, DocumentsThatSpanRanksGiveTheBitsOfOnePlace) {
    for (const AttentionCase& a : variants_to_test())
        for (const CadCase& c : spanning_cases(a)) try_plans<TypeParam>(c, false);
}

// Rounded once more than in one place: out in front of a gate, and gradient times gate.
TEST(DisaggregatedIn, Bf16IsCloseToOnePlace) {
    for (const AttentionCase& a : variants_to_test()) {
        const CadCase c = whole_cases(a)[1];
        SCOPED_TRACE(::testing::PrintToString(a));
        CadRanks<bf16> ranks(c, scattered_plan(c, 1), scattered_plan(c, 2));
        const AttentionRun<bf16> got = ranks.compute(false), in_turn = ranks.compute(true);
        EXPECT_LE(relative_l2(widened(got.out), widened(ranks.whole().out)), 4e-3);  // one more half unit: 2^-9
        EXPECT_LE(relative_l2(widened(got.dqkv), widened(ranks.whole().dqkv)), 1e-2);
        EXPECT_TRUE(equal_bits(got.dqkv, in_turn.dqkv));
        EXPECT_TRUE(equal_bits(got.out, in_turn.out));
    }
}

TEST(DisaggregatedIn, NothingMovedIsNothingSentAndEveryBitLocal) {
    AttentionCase a{.NH = 2, .NKV = 1, .gate = true};
    const CadCase c = CadCase::whole("equal lengths", {{300, 300}, {300, 300}}, a);
    const CaPlan plan = plan_core_attention(c.segments, {.servers = 2, .costs = {1, 1, 1, 1, 0}});
    EXPECT_FALSE(plan.moves);
    CadRanks<bf16> ranks(c, plan, plan);
    const AttentionRun<bf16> got = ranks.compute(false);
    EXPECT_TRUE(equal_bits(got.out, ranks.whole().out));
    EXPECT_TRUE(equal_bits(got.dqkv, ranks.whole().dqkv));
    EXPECT_EQ(ranks.observed(), (std::vector<int64_t>{0, 0}));
}

// What is computed for a document depends on nothing of another one, wherever they are computed.
TYPED_TEST(Disaggregated, DocumentsDoNotSeeEachOther) {
    using T = TypeParam;
    for (const AttentionCase& a : variants_to_test()) {
        const CadCase c = whole_cases(a)[1];
        SCOPED_TRACE(::testing::PrintToString(a));
        CadRanks<T> ranks(c, scattered_plan(c, 5), scattered_plan(c, 6));
        constexpr size_t kChanged = 1;  // of 511 positions
        const AttentionRun<T> before = ranks.compute(false);
        ranks.change_document(kChanged);
        const AttentionRun<T> after = ranks.compute(false);
        const auto changed = [&](const std::vector<T>& x, const std::vector<T>& y, size_t document) {
            const auto row = static_cast<int64_t>(x.size()) / c.attention.N();
            const auto begin = c.attention.cu_seqlens[document] * row, end = c.attention.cu_seqlens[document + 1] * row;
            return !std::equal(x.begin() + begin, x.begin() + end, y.begin() + begin);
        };
        for (size_t d = 0; d + 1 < c.attention.cu_seqlens.size(); ++d) {
            EXPECT_EQ(changed(before.out, after.out, d), d == kChanged) << "out of document " << d;
            EXPECT_EQ(changed(before.dqkv, after.dqkv, d), d == kChanged) << "gradients of document " << d;
        }
    }
}

// What tests must notice.
TEST(DisaggregatedIn, WrongRoundsAreNoticed) {
    AttentionCase a{.NH = 2, .NKV = 1};
    const CadCase c = CadCase::whole("three ranks", {{900}, {200}, {210}}, a);
    const auto differs = [&](const std::function<void(CaRound&)>& damage) {
        const CaPlan plan = scattered_plan(c, 3);
        CadRanks<double> ranks(c, plan, plan);
        bool same = true;
        std::mutex mutex;
        as_ranks(c.ranks, [&](Communicator& world) {
            AttentionRun<double> own(c.of_rank(world.rank()), 1);
            CaRound backward = round_of(plan, c.segments, ranks.options(true), world.rank());
            if (world.rank() == 0) damage(backward);
            OneRound good(round_of(plan, c.segments, ranks.options(false), world.rank()),
                          round_of(plan, c.segments, ranks.options(true), world.rank()));
            OneRound bad(good.forward, std::move(backward));
            std::array<std::vector<double>, 2> gradients;
            for (OneRound* rounds : {&good, &bad}) {
                DisaggregatedAttention core(world, *rounds, ranks.shape());
                own.dout = normals<double>(static_cast<int64_t>(own.dout.size()), "dout");
                AttentionCall call{.t = own.tensors(), .cu_seqlens = own.c.cu_seqlens, .spec = own.c.spec()};
                core.forward(call, {});
                call.d = own.gradients();
                core.begin_backward(call, {});
                core.compute_backward(call, {});
                core.end_backward(call, {});
                gradients[rounds == &bad] = own.dqkv;
            }
            const std::lock_guard lock(mutex);
            same = same && gradients[0] == gradients[1];
        });
        return !same;
    };
    EXPECT_FALSE(differs([](CaRound&) {}));
    EXPECT_TRUE(differs([](CaRound& round) { round.owner_sums.pop_back(); }));  // one server's dk and dv dropped
    EXPECT_TRUE(differs([](CaRound& round) { --round.owner_sums.front().count; }));
    EXPECT_TRUE(differs([](CaRound& round) { std::swap(round.parts.front().row, round.parts.back().row); }));
}

}  // namespace
}  // namespace plimsoll
