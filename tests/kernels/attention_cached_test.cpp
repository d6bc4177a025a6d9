// Attention of single queries on cached keys against the oracle, wherever the keys lie, and rotated on the way or not.
#include "kernels/attention_cached.h"

#include "kernels/rope.h"
#include "support/attention_run.h"

namespace plimsoll {
namespace {

std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const VariantInfo& variant : variants()) {
        AttentionCase c{.weighting = std::string(variant.name), .extra_logit = 0.7, .bias_value = -1.5, .HS = 12};
        c.cu_seqlens = {0, 83};
        for (AttentionCase with : columns_and_biases(c))
            for (const auto& [window, pinned] : {std::pair{0, 0}, {1, 0}, {5, 3}, {66, 2}, {40, 150}})
                for (const bool alibi : {false, true}) {
                    with.window = window, with.pinned = pinned, with.alibi = alibi;
                    with.NH = 1, with.NKV = 1, all.push_back(with);
                    with.NH = 4, with.NKV = 2, with.gate = !with.gate, all.push_back(with);
                }
        // A query of a prefix sees what is cached, none of it ahead: prefixes are for whole prompts.
        for (const PatternCase& pattern : kPatterns)
            if (pattern.prefix == 0) all.push_back(pattern.of(columns_and_biases(c).back()));
        c.window = 20, c.pinned = 4, c.NH = 2;
        for (const int64_t HS : {2, 6, 64, 100, 128}) c.HS = HS, all.push_back(c);
        for (const auto& [HS, VS] : {std::pair{6, 12}, {64, 7}}) c.HS = HS, c.VS = VS, all.push_back(c);
    }
    return all;
}

// The keys and values of a case as a cache holds them: the first `pinned` in their rows, the others in a ring behind
// them that began `turned` rows before its end.
template <class T>
struct Cache {
    AttentionRun<T>& run;
    int64_t pinned, ring, turned;
    std::vector<T> k, v;

    Cache(AttentionRun<T>& run, int64_t pinned, int64_t turned)
        : run(run), pinned(pinned), ring(run.c.N() - pinned + 3), turned(turned) {
        const auto fill = [&](std::vector<T>& to, Tensor from) {
            const int64_t row = from.row_elements();
            to.resize(static_cast<size_t>((pinned + ring) * row), T(77.0f));
            for (int64_t p = 0; p < run.c.N(); ++p)
                std::copy_n(from.ptr<T>() + p * from.row_stride, row, to.data() + row_of(p) * row);
        };
        const Qkv parts = run.parts(run.qkv);
        fill(k, parts.k), fill(v, parts.v);
    }
    int64_t row_of(int64_t p) const { return p < pinned ? p : pinned + (p - pinned + ring - turned) % ring; }
    CachedQuery query(int64_t position) const {
        CachedQuery q{.position = position};
        const int64_t end = position + 1, first = std::min(pinned, end), behind = std::min(end, pinned + turned);
        q.runs[0] = {.row = 0, .position = 0, .count = first};
        if (behind > pinned) q.runs[1] = {.row = row_of(pinned), .position = pinned, .count = behind - pinned};
        if (end > pinned + turned)
            q.runs[2] = {.row = pinned, .position = pinned + turned, .count = end - pinned - turned};
        return q;
    }
    void forward(std::span<const double> frequencies = {}) {
        AttentionTensors t = run.tensors();
        t.k = view(k, {pinned + ring, run.c.NKV, run.c.HS});
        t.v = view(v, {pinned + ring, run.c.NKV, run.c.value_size()});
        std::vector<CachedQuery> queries;
        for (int64_t i = 0; i < run.c.N(); ++i) queries.push_back(query(i));
        attention_cached_forward(t, queries, frequencies, run.c.spec(), {.threads = run.threads});
    }
};

class CachedAttentionOp : public testing::TestWithParam<AttentionCase> {};

template <class T>
void expect_oracle(const AttentionCase& c) {
    AttentionRun<T> run(c);
    std::vector<double> out, lse;
    run.oracle(out, lse);
    for (const auto& [pinned, turned] : {std::pair<int64_t, int64_t>{0, 0}, {4, 0}, {3, 17}}) {
        Cache<T>(run, pinned, turned).forward();
        expect_close(run.out, out, 100, "out", c.magnitude());  // sums of at most 83 products of order one
        if (is_normalized(c.spec().weighting)) expect_close(run.lse, lse, 100, "lse", 4);
    }
}
TEST_P(CachedAttentionOp, MatchesTheOracleWhereverKeysLie) {
    expect_oracle<double>(GetParam());
    expect_oracle<float>(GetParam());
    expect_oracle<bf16>(GetParam());
}

TEST_P(CachedAttentionOp, RotatesWhatItReads) {
    const std::vector<double> frequencies = rope_frequencies(50, GetParam().HS);
    AttentionRun<double> rotated(GetParam()), run(GetParam());
    std::vector<int32_t> positions;
    for (int32_t i = 0; i < run.c.N(); ++i) positions.push_back(i);
    const Tensor qk = heads_at(view(rotated.qkv, {run.c.N(), run.c.columns()}), 0, run.c.NH + run.c.NKV, run.c.HS);
    rope_forward(qk, positions, 50, {});
    std::vector<double> out, lse;
    rotated.oracle(out, lse);
    const std::vector<double> before = run.qkv;
    Cache<double>(run, 3, 17).forward(frequencies);
    expect_close(run.out, out, 200, "out", run.c.magnitude());
    EXPECT_EQ(run.qkv, before);
}

TEST_P(CachedAttentionOp, BitsDoNotDependOnThreadsOrOtherQueries) {
    AttentionRun<float> one(GetParam(), 1), three(GetParam(), 3), alone(GetParam(), 2);
    Cache<float>(one, 3, 17).forward(), Cache<float>(three, 3, 17).forward();
    EXPECT_TRUE(same_bits(one.out, three.out) && same_bits(one.lse, three.lse));
    const Cache<float> cache(alone, 3, 17);
    const int64_t last = alone.c.N() - 1, row = alone.c.out_columns();
    AttentionTensors t = alone.tensors();
    std::vector<float> lse(static_cast<size_t>(alone.c.NH));
    t.q = t.q.slice_rows(last, 1), t.out = t.out.slice_rows(last, 1), t.lse = view(lse, {alone.c.NH, 1});
    if (t.gate) t.gate = t.gate.slice_rows(last, 1);
    std::vector<float> k = cache.k, v = cache.v;
    t.k = view(k, {cache.pinned + cache.ring, alone.c.NKV, alone.c.HS});
    t.v = view(v, {cache.pinned + cache.ring, alone.c.NKV, alone.c.value_size()});
    attention_cached_forward(t, std::vector{cache.query(last)}, {}, alone.c.spec(), {.threads = 2});
    EXPECT_TRUE(std::equal(alone.out.end() - row, alone.out.end(), one.out.end() - row));
}

INSTANTIATE_TEST_SUITE_P(Cases, CachedAttentionOp, testing::ValuesIn(cases()));

TEST(CachedAttentionOp, SeesNothingWithoutKeys) {
    for (const VariantInfo& variant : variants()) {
        AttentionRun<float> run({.weighting = std::string(variant.name), .NH = 2, .NKV = 1, .cu_seqlens = {0, 1}});
        attention_cached_forward(run.tensors(), std::vector{CachedQuery{.position = 9}}, {}, run.c.spec(), {});
        const float empty =
            variant.normalization == Normalization::kExp ? -std::numeric_limits<float>::infinity() : 0.0f;
        for (const float value : run.out) EXPECT_EQ(value, 0) << variant.name;
        for (const float value : run.lse) EXPECT_EQ(value, empty) << variant.name;
    }
}

TEST(CachedAttentionOp, RefusesRunsThatDoNotFit) {
    AttentionRun<float> run({.cu_seqlens = {0, 5}});
    AttentionTensors t = run.tensors();
    t.q = t.q.slice_rows(0, 1), t.out = t.out.slice_rows(0, 1), t.lse = Tensor(t.lse.data, DType::kF32, {1, 1});
    const auto refuse = [&](CachedQuery query, const std::string& text) {
        try {
            attention_cached_forward(t, std::vector{query}, {}, run.c.spec(), {});
            ADD_FAILURE() << "accepted: " << text;
        } catch (const Error& error) {
            EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
        }
    };
    refuse({.position = 4, .runs = {{{.row = 2, .position = 0, .count = 4}}}}, "within 5 rows");
    refuse({.position = 2, .runs = {{{.row = 0, .position = 0, .count = 4}}}}, "query 0 at position 2 has 4 keys");
    refuse({.position = 9, .runs = {{{.row = 0, .position = 3, .count = 2}, {.row = 2, .position = 4, .count = 1}}}},
           "must ascend from 5");
    EXPECT_THROW(attention_cached_forward(t, {}, {}, run.c.spec(), {}), Error);
    EXPECT_THROW(attention_cached_forward(t, std::vector{CachedQuery{}}, std::vector{1.0}, run.c.spec(), {}), Error);
    EXPECT_THROW(attention_cached_forward(t, std::vector{CachedQuery{}}, {}, run.c.spec(), {.device = Device::kCuda}),
                 Error);
}

}  // namespace
}  // namespace plimsoll
