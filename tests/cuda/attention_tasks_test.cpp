#include "kernels/attention_tasks.h"

#include <gtest/gtest.h>

#include "support/attention_shares.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

// Fewer than on the CPU, where the same code is held against the local path to the bit: here it is the tables that are
// new, and the kernels' reading of them.
std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const VariantInfo& variant : variants()) {
        AttentionCase c{.weighting = std::string(variant.name), .bias_value = -1.5, .NH = 2, .HS = 32};
        c.positive = variant.name == "kernel_normalized";
        const bool few = variant.name != "softmax" && variant.name != "sigmoid";  // the emulator takes its time
        c = columns_and_biases(c).back();  // with a learned sink logit or bias, if it takes one
        const auto add = [&](std::vector<int32_t> documents, int64_t window, int64_t pinned, bool alibi) {
            c.cu_seqlens = std::move(documents), c.window = window, c.pinned = pinned, c.alibi = alibi;
            all.push_back(c);
        };
        add({0, 1, 20, 150}, 0, 0, true);
        for (const bool alibi : {false, true}) {
            add({0, 397}, 20, 3, alibi);
            if (!few) add({0, 330, 340}, 66, 130, alibi);
        }
        for (size_t i = 0; i < std::size(kPatterns); ++i) {
            if (few && i % 9 != 3) continue;
            const PatternCase& pattern = kPatterns[i];
            const AttentionCase without = c;
            c = pattern.of(c);
            add({0, 1, 20, 341}, pattern.window, pattern.pinned, pattern.prefix > 0);
            c = without;
        }
        c.NKV = 2;
        add({0, 390}, 5, 0, true);
        c.NKV = 1, c.gate = true;
        add({0, 70, 140}, 0, 0, false);
        for (const int64_t HS : {64, 96, 128, 256})
            if (c.HS = HS; !few || HS == 128) add({0, 300}, 9, 2, false);
        // Values of two heads' width, which have neither a gate nor anything learned.
        c = {.weighting = std::string(variant.name), .NH = 2, .HS = 32, .positive = c.positive, .VS = 64};
        if (!few) add({0, 70, 340}, 0, 0, false);
        c.NH = 4, c.NKV = 2;
        add({0, 1, 20, 300}, 9, 2, false);
    }
    return all;
}

class CudaTaskAttention : public testing::TestWithParam<AttentionCase> {};

// The tolerances of attention_test.cpp; a gate apart from the kernel rounds once more, and dsink sums up to 390 terms
// of both signs.
template <class G>
void expect_oracle(const AttentionCase& c, int seed) {
    const AttentionRun<bf16> run(c);
    AttentionRun<double> exact = run.widened_run();
    exact.forward();
    exact.backward();
    const DenseQkv<double> wanted(c, exact.dqkv);
    set_schedule(seed);
    const Together<bf16> seen =
        run_shares<bf16, G, OnDevice>(run, Dealer(c, 2, static_cast<uint32_t>(seed)).deal(), on_gpu());
    for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
    expect_near(widened(seen.out), exact.out, 6e-3, "out");
    if (is_normalized(c.spec().weighting)) expect_close(seen.lse, exact.lse, 200, "lse", 4);
    expect_near(widened(seen.dq), wanted.q, 1.2e-2, "dq");
    expect_near(seen.dk, wanted.k, 1.2e-2, "dk");
    expect_near(seen.dv, wanted.v, 1.2e-2, "dv");
    expect_near(widened(seen.dsink), exact.dsink, 2e-2, "dsink");
    expect_near(widened(seen.dgate), exact.dgate, 1e-2, "dgate");
}
TEST_P(CudaTaskAttention, MatchesTheOracle) {
    GetParam().alibi ? expect_oracle<float>(GetParam(), 1) : expect_oracle<bf16>(GetParam(), 2);
}

std::string name_of_case(const testing::TestParamInfo<AttentionCase>& info) {
    return std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(Cases, CudaTaskAttention, testing::ValuesIn(cases()), name_of_case);

// Tasks may be gone before the device gets to them, and there may be more than one kernel's arguments hold.
TEST(CudaTaskAttentionTables, OfManyTasksOutliveTheCall) {
    AttentionCase c{.HS = 32, .cu_seqlens = {0}};
    for (int i = 0; i < 220; ++i) c.cu_seqlens.push_back(c.cu_seqlens.back() + 1 + i % 3);
    set_late_streams(true);
    expect_oracle<float>(c, 3);
    set_late_streams(false);
}

TEST(CudaTaskAttention, BitsDoNotDependOnTheSchedule) {
    AttentionCase c{.window = 20, .pinned = 3, .NH = 2, .HS = 32, .cu_seqlens = {0, 300}};
    const AttentionRun<bf16> run(c);
    const std::vector<AttentionShare> shares = Dealer(c, 2, 5).deal();
    under_every_schedule<double>([&] {
        const Together<bf16> seen = run_shares<bf16, float, OnDevice>(run, shares, on_gpu());
        std::vector<double> results = seen.dk;
        append(results, seen.dv);
        append(results, widened(seen.out));
        append(results, widened(seen.dq));
        append(results, widened(seen.lse));
        return results;
    });
}

// Of a whole, where prefixes and gaps lie between keys. There is no backward: the keys' owners would want gradients.
TEST(CudaTaskAttention, BiasesOfKeysLieWhereTheirKeysDo) {
    AttentionCase c{.window = 20, .pinned = 3, .NH = 4, .NKV = 2, .HS = 32, .cu_seqlens = {0, 1, 20, 300}};
    c.key_bias = true;
    const AttentionRun<bf16> run(c);
    const DenseQkv<bf16> dense(c, run.qkv);
    const int64_t wide = c.NH * c.HS, narrow = c.NKV * c.HS;
    std::vector<double> wanted, lse;
    run.oracle(wanted, lse);
    std::vector<double> seen(wanted.size());
    for (const AttentionShare& share : Dealer(c, 2, 5).deal()) {
        if (share.tasks.empty()) continue;
        const OnDevice<bf16> q(gather_rows(dense.q, share.query_tokens, wide)),
            k(gather_rows(dense.k, share.key_tokens, narrow)), v(gather_rows(dense.v, share.key_tokens, narrow)),
            out(untouched<bf16>(share.N() * wide));
        const OnDevice<float> sums(untouched<float>(share.N() * c.NH)),
            key_bias(gather_rows(run.key_bias, share.key_tokens, c.NH));
        const Shape rows{share.N(), c.NH, c.HS}, keys{share.M(), c.NKV, c.HS};
        const AttentionTensors t{.out = out.tensor(rows),
                                 .lse = sums.tensor({c.NH, share.N()}),
                                 .q = q.tensor(rows),
                                 .k = k.tensor(keys),
                                 .v = v.tensor(keys),
                                 .sink_logit = {},
                                 .gate = {},
                                 .score_bias = {},
                                 .key_bias = key_bias.tensor({share.M(), c.NH})};
        attention_tasks_forward(t, share.work(), c.spec(), on_gpu());
        scatter_rows(out.values(), share.query_tokens, wide, bf16(kUntouched),
                     [&](size_t i, bf16 x) { seen[i] = static_cast<double>(static_cast<float>(x)); });
        EXPECT_THROW(attention_tasks_backward(t, t, t.lse, share.work(), c.spec(), on_gpu()), Error);
    }
    expect_near(seen, wanted, 6e-3, "out");
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

// Keys without a query have gradients of zero; without any task nothing else is touched.
TEST(CudaTaskAttention, RangesWithoutTasksGetZeros) {
    const KeyRange keys{.row = 1, .end = 66};
    const OnDevice<bf16> q(filled<bf16>(32, 1.0f)), k(filled<bf16>(70 * 32, 1.0f));
    const OnDevice<float> per_row(filled<float>(1, 1.0f)), dk(filled<float>(70 * 32, 3.0f));
    const AttentionTensors t{.out = q.tensor({1, 1, 32}),
                             .lse = per_row.tensor({1, 1}),
                             .q = q.tensor({1, 1, 32}),
                             .k = k.tensor({70, 1, 32}),
                             .v = k.tensor({70, 1, 32}),
                             .sink_logit = {},
                             .gate = {}};
    AttentionTensors d = t;
    d.k = d.v = dk.tensor({70, 1, 32});
    attention_tasks_forward(t, {{&keys, 1}, {}}, {}, on_gpu());
    attention_tasks_backward(d, t, per_row.tensor({1, 1}), {{&keys, 1}, {}}, {}, on_gpu());
    attention_tasks_backward(d, t, per_row.tensor({1, 1}), {}, {}, on_gpu());
    std::vector<float> wanted = filled<float>(70 * 32, 3.0f);
    std::fill(wanted.begin() + 32, wanted.begin() + 66 * 32 + 32, 0.0f);
    EXPECT_EQ(dk.values(), wanted);
    EXPECT_EQ(widened(q.values()), std::vector<double>(32, 1.0));
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

}  // namespace
}  // namespace plimsoll
