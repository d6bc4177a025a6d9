// Attention of tasks against the local path, to the bit, and against the oracle.
#include "kernels/attention_tasks.h"

#include <gtest/gtest.h>

#include "support/attention_shares.h"

namespace plimsoll {
namespace {

std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const VariantInfo& variant : variants()) {
        AttentionCase c{.weighting = std::string(variant.name), .extra_logit = 0.7, .bias_value = -1.5, .HS = 12};
        for (AttentionCase with : columns_and_biases(c))
            for (const auto& [window, pinned] : {std::pair{0, 0}, {1, 0}, {5, 3}, {66, 2}, {40, 150}, {130, 128}})
                for (const bool alibi : {false, true}) {
                    with.window = window, with.pinned = pinned, with.alibi = alibi;
                    with.NH = 1, with.NKV = 1, with.cu_seqlens = {0, 391};
                    all.push_back(with);
                    with.NH = 4, with.NKV = 2, with.cu_seqlens = {0, 1, 20, 150, 214, 351}, with.gate = !with.gate;
                    all.push_back(with);
                }
        for (const PatternCase& pattern : kPatterns) {
            AttentionCase with = pattern.of(columns_and_biases(c).back());
            with.NH = 2, with.cu_seqlens = {0, 1, 20, 411}, with.alibi = pattern.prefix > 0;
            all.push_back(with);
        }
        c.window = 20, c.pinned = 4, c.NH = 2, c.cu_seqlens = {0, 300};
        for (const int64_t HS : {1, 7, 64, 100, 128}) c.HS = HS, all.push_back(c);
        for (const auto& [HS, VS] : {std::pair{7, 14}, {64, 32}}) c.HS = HS, c.VS = VS, all.push_back(c);
    }
    return all;
}

// Deals out the inputs and gates of a run, whose own outputs are not read.
template <class T, class G>
Together<T> run_tasks(const AttentionRun<T>& run, const std::vector<AttentionShare>& shares) {
    return run_shares<T, G, OnHost>(run, shares, {.threads = run.threads});
}

// Deals the queries of a case to `servers`, and compares with attention_forward and attention_backward.
template <class T>
void expect_local(const AttentionCase& c, int servers, uint32_t seed, double tolerance) {
    SCOPED_TRACE(std::to_string(servers) + " servers, seed " + std::to_string(seed));
    AttentionRun<T> run(c);
    run.forward();
    run.backward();
    const DenseQkv<T> d(c, run.dqkv);
    const Together<T> all = run_tasks<T, Accumulator<T>>(run, Dealer(c, servers, seed).deal());
    EXPECT_TRUE(same_bits(all.out, run.out));
    if (is_normalized(c.spec().weighting)) EXPECT_TRUE(same_bits(all.lse, run.lse));
    EXPECT_TRUE(same_bits(all.dq, d.q));
    EXPECT_TRUE(same_bits(all.dgate, run.dgate) && same_bits(all.dsink, run.dsink) && same_bits(all.dbias, run.dbias));
    EXPECT_LE(relative_l2(all.dk, widened(d.k)), tolerance);
    EXPECT_LE(relative_l2(all.dv, widened(d.v)), tolerance);
}

class TaskAttention : public testing::TestWithParam<AttentionCase> {};

// Sums over queries are made in parts, one per range: rounding errors of another order, no more.
TEST_P(TaskAttention, GiveTheBitsOfTheLocalPathInFp64) {
    for (const int servers : {1, 3}) expect_local<double>(GetParam(), servers, 3, 1e-12);
}
TEST_P(TaskAttention, GiveTheBitsOfTheLocalPathInFp32) {
    expect_local<float>(GetParam(), 4, 5, 2e-6);
}
// bf16: a gate apart from the kernel rounds once more, so without one.
TEST_P(TaskAttention, GiveTheBitsOfTheLocalPathInBf16) {
    AttentionCase c = GetParam();
    c.gate = false;
    expect_local<bf16>(c, 3, 7, 1e-2);
}

// All queries of a document on one range, in several tasks: also the sums over queries.
template <class T>
void expect_whole(const AttentionCase& c) {
    AttentionRun<T> run(c);
    run.forward();
    run.backward();
    const DenseQkv<T> d(c, run.dqkv);
    const Together<T> all = run_tasks<T, T>(run, {Dealer(c, 1, 9).whole()});
    EXPECT_TRUE(same_bits(all.out, run.out));
    EXPECT_EQ(all.dk, widened(d.k));
    EXPECT_EQ(all.dv, widened(d.v));
}
TEST_P(TaskAttention, OfAWholeDocumentGiveTheBitsOfAllGradients) {
    expect_whole<double>(GetParam());
    expect_whole<float>(GetParam());
    AttentionCase c = GetParam();
    c.gate = false;
    expect_whole<bf16>(c);
}

TEST_P(TaskAttention, MatchTheOracle) {
    AttentionRun<double> run(GetParam());
    std::vector<double> out, lse;
    run.oracle(out, lse);
    const Together<double> all = run_tasks<double, double>(run, Dealer(run.c, 3, 11).deal());
    expect_close(all.out, out, 400, "out", run.c.magnitude());  // sums of at most 391 products of order one
    if (is_normalized(run.c.spec().weighting)) expect_close(all.lse, lse, 400, "lse", 4);
}

TEST_P(TaskAttention, BitsDoNotDependOnThreads) {
    const std::vector<AttentionShare> shares = Dealer(GetParam(), 2, 13).deal();
    AttentionRun<float> one(GetParam(), 1), three(GetParam(), 3);
    const Together<float> a = run_tasks<float, float>(one, shares), b = run_tasks<float, float>(three, shares);
    EXPECT_TRUE(same_bits(a.out, b.out) && same_bits(a.lse, b.lse) && same_bits(a.dq, b.dq));
    EXPECT_TRUE(a.dk == b.dk && a.dv == b.dv && same_bits(a.dsink, b.dsink) && same_bits(a.dgate, b.dgate) &&
                same_bits(a.dbias, b.dbias));
}

INSTANTIATE_TEST_SUITE_P(Cases, TaskAttention, testing::ValuesIn(cases()));

// What the comparison above is worth: each of these must show in out or dq.
TEST(TaskAttentionMutations, ShowInTheBits) {
    const AttentionCase c{.window = 30, .pinned = 3, .NH = 2, .HS = 8, .cu_seqlens = {0, 500}};
    AttentionRun<float> run(c);
    const AttentionShare whole = Dealer(c, 1, 17).whole();
    const auto bits_with = [&](auto&& change) {
        AttentionShare share = whole;
        change(share);
        return run_tasks<float, float>(run, {share});
    };
    const Together<float> good = bits_with([](auto&) {});
    const auto expect_other = [&](const char* what, auto&& change) {
        const Together<float> other = bits_with(change);
        EXPECT_FALSE(same_bits(other.out, good.out)) << what;
        EXPECT_FALSE(same_bits(other.dq, good.dq)) << what;
        EXPECT_TRUE(other.dk != good.dk && other.dv != good.dv) << what;
    };
    expect_other("a task is missing", [](auto& share) { share.tasks.erase(share.tasks.begin() + 1); });
    expect_other("a task is one row short", [](auto& share) { --share.tasks[1].count; });
    expect_other("a task sits one position early",
                 [](auto& share) { --share.tasks[0].count, --share.tasks[1].position; });
    expect_other("two keys have changed places", [](auto& share) {
        std::swap(share.key_tokens[static_cast<size_t>(share.keys[0].row_of(5))],
                  share.key_tokens[static_cast<size_t>(share.keys[0].row_of(6))]);
    });
}

TEST(TaskAttentionChecks, WrongTasksAreRefused) {
    const KeyRange good{.row = 3, .prefix = 128, .begin = 256, .end = 300};
    const AttentionTask task{.row = 2, .count = 10, .position = 285};
    const auto changed = [](auto value, auto&& change) {
        change(value);
        return value;
    };
    const auto message = [&](std::vector<KeyRange> keys, std::vector<AttentionTask> tasks) -> std::string {
        std::vector<float> q(20 * 4), out(q), lse(20), k(180 * 4), v(k);
        try {
            attention_tasks_forward({.out = view(out, {20, 1, 4}),
                                     .lse = view(lse, {1, 20}),
                                     .q = view(q, {20, 1, 4}),
                                     .k = view(k, {180, 1, 4}),
                                     .v = view(v, {180, 1, 4}),
                                     .sink_logit = {},
                                     .gate = {}},
                                    {keys, tasks}, {.window = 30, .pinned = 2}, {});
        } catch (const Error& error) {
            return error.what();
        }
        return "no error";
    };
    const auto expect = [&](const char* wanted, std::vector<KeyRange> keys, std::vector<AttentionTask> tasks) {
        const std::string seen = message(keys, tasks);
        EXPECT_NE(seen.find(wanted), std::string::npos) << seen << ", wanted: " << wanted;
    };
    expect("no error", {good}, {task});
    expect("no error", {good}, {});
    expect("must ascend, in multiples of 128", {changed(good, [](auto& r) { r.prefix = 64; })}, {task});
    expect("must ascend, in multiples of 128", {changed(good, [](auto& r) { r.begin = 257; })}, {task});
    expect("must ascend, in multiples of 128", {changed(good, [](auto& r) { r.prefix = 384; })}, {task});
    expect("must ascend, in multiples of 128", {changed(good, [](auto& r) { r.end = 255; })}, {task});
    expect("key range 0 has rows 9 .. 181, must lie in 0 .. 180", {changed(good, [](auto& r) { r.row = 9; })}, {task});
    expect("key range 1 has rows 3 .. 175, must lie in 175 .. 180", {good, good}, {task});
    expect("task 0 is on key range 1 of 1", {good}, {changed(task, [](auto& t) { t.keys = 1; })});
    expect("task 0 has rows 2 .. 2", {good}, {changed(task, [](auto& t) { t.count = 0; })});
    expect("task 0 has rows 11 .. 21 at position 285, must lie in 0 .. 20", {good},
           {changed(task, [](auto& t) { t.row = 11; })});
    expect("task 1 has rows 11 .. 12 at position 295, must lie in 12 .. 20", {good},
           {task, {.row = 11, .count = 1, .position = 295}});
    expect("task 1 (key range 0, position 294) must come before task 0", {good},
           {task, {.row = 12, .count = 1, .position = 294}});
    // Keys that are seen and not there: behind the end, before begin, of the pinned prefix.
    expect("sees keys 0 .. 2 and 262 .. 301, range 0 holds 0 .. 128 and 256 .. 300", {good},
           {changed(task, [](auto& t) { t.position = 291; })});
    expect("sees keys 0 .. 2 and 255 .. 294", {good}, {changed(task, [](auto& t) { t.position = 284; })});
    expect("sees keys 0 .. 2 and 120 .. 159", {good}, {changed(task, [](auto& t) { t.position = 149; })});
    expect("sees keys 0 .. 2 and 256 .. 295", {changed(good, [](auto& r) { r.prefix = 0; })}, {task});
    expect("no error", {good}, {changed(task, [](auto& t) { t.position = 118; })});
    expect("no error", {{.row = 0, .prefix = 128, .begin = 128, .end = 160}},
           {changed(task, [](auto& t) { t.position = 150; })});
}

TEST(TaskAttentionChecks, WrongTensorsAreRefused) {
    std::vector<float> q(4 * 8), k(8 * 8), lse(4), gate(4), shorter(3);
    std::vector<double> wide(8 * 8);
    const KeyRange keys{.end = 8};
    const AttentionTask task{.count = 4, .position = 2};
    const AttentionTasks tasks{{&keys, 1}, {&task, 1}};
    const Tensor rows = view(q, {4, 1, 8}), key_rows = view(k, {8, 1, 8}), per_row = view(lse, {1, 4});
    const AttentionTensors t{
        .out = rows, .lse = per_row, .q = rows, .k = key_rows, .v = key_rows, .sink_logit = {}, .gate = {}};
    AttentionTensors wrong = t;
    EXPECT_NO_THROW(attention_tasks_forward(t, tasks, {}, {}));
    wrong.gate = view(gate, {4, 1});
    EXPECT_THROW(attention_tasks_forward(wrong, tasks, {}, {}), Error);
    wrong = t, wrong.lse = {};
    EXPECT_THROW(attention_tasks_forward(wrong, tasks, {}, {}), Error);
    wrong = t, wrong.v = rows;
    EXPECT_THROW(attention_tasks_forward(wrong, tasks, {}, {}), Error);
    EXPECT_THROW(attention_tasks_forward(t, tasks, {.extra_column = ExtraColumn::kLearnedLogit}, {}), Error);

    EXPECT_NO_THROW(attention_tasks_backward(t, t, per_row, tasks, {}, {}));
    EXPECT_THROW(attention_tasks_backward(t, t, {}, tasks, {}, {}), Error);
    EXPECT_THROW(attention_tasks_backward(t, t, view(shorter, {1, 3}), tasks, {}, {}), Error);
    wrong = t, wrong.k = wrong.v = view(wide, {8, 1, 8});
    EXPECT_THROW(attention_tasks_backward(wrong, t, per_row, tasks, {}, {}), Error);

    const std::vector<int32_t> documents = {0, 4};
    EXPECT_NO_THROW(attention_backward_rows(t, per_row, t, documents, {}, Write::kOverwrite, {}));
    EXPECT_THROW(attention_backward_rows(t, {}, t, documents, {}, Write::kOverwrite, {}), Error);
    wrong = t, wrong.gate = view(gate, {4, 1});
    EXPECT_THROW(attention_backward_rows(t, per_row, wrong, documents, {}, Write::kOverwrite, {}), Error);
    EXPECT_THROW(attention_backward_rows(t, per_row, t, std::vector<int32_t>{0, 3}, {}, Write::kOverwrite, {}), Error);
}

}  // namespace
}  // namespace plimsoll
