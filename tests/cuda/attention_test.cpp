#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

#include "kernels/attention/mask.h"
#include "support/attention_device.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

// Whether a weighting before this one in the table has its kind of row: the same code around it.
bool is_like_another(const VariantInfo& variant) {
    for (const VariantInfo& other : variants()) {
        if (other.name == variant.name) return false;
        if (other.normalization == variant.normalization && other.bias == variant.bias) return true;
    }
    return false;
}

constexpr int64_t kHeadSizes[] = {64, 96, 128, 256};  // beside 32, which all else is tested with

// A case, and the schedules it runs under: from 1 on.
struct Scheduled {
    AttentionCase c;
    std::vector<int> schedules = {};
};
void PrintTo(const Scheduled& scheduled, std::ostream* out) {
    PrintTo(scheduled.c, out);
}

// The same cases as on the CPU, in the head sizes there are kernels for, fewer of weightings like another: the emulator
// takes its time. AttentionRun<double> on the rounded inputs is the oracle of the backward, attention_oracle() that of
// the forward. Every fifth case runs under all schedules, others under the first and one of the rest in turn.
std::vector<Scheduled> cases() {
    std::vector<Scheduled> all;
    const auto schedules = [&](bool one) {
        const auto number = static_cast<int>(all.size());
        std::vector<int> some{1, 2 + number % (kSchedules - 1)};
        if (one) some = {1 + number % kSchedules};
        if (!one && number % 5 == 0) some.resize(kSchedules), std::iota(some.begin(), some.end(), 1);
        return some;
    };
    for (const VariantInfo& variant : variants()) {
        const bool few = variant.name != "softmax" && variant.name != "sigmoid";
        const bool fewest = is_like_another(variant);
        AttentionCase c;
        c.weighting = variant.name;
        c.bias_value = -1.5;
        c.positive = variant.name == "kernel_normalized";
        c.HS = 32;
        const auto add = [&](AttentionCase with, bool one = false) { all.push_back({with, schedules(one)}); };
        std::vector<int32_t> lengths = {65};
        if (!few) lengths = {1, 2, 15, 63, 64, 65, 100, 128, 193, 257};
        for (const int32_t T : lengths) c.cu_seqlens = {0, T}, add(c);
        // A kernel for every head size, and in the backward for either kind of mask.
        for (const int64_t HS : kHeadSizes) {
            c.HS = HS, c.cu_seqlens = {0, 70}, add(c, few);
            c.cu_seqlens = {0, 40}, add(kPatterns[HS == 96 ? 6 : 0].of(c), true);
            if (c.cu_seqlens = {0, 40, 130}; !few) add(c);
        }
        c.HS = 32;
        // Values of two heads' width: each half is a head of the kernels.
        c.NH = 2, c.NKV = 2, c.VS = 64, add(c, few);
        c.NH = 4, c.cu_seqlens = {0, 1, 20, 100}, add(c, few);
        c.NKV = 1, c.VS = 0;
        c.NH = 6;
        for (const int64_t NKV : few ? std::vector<int64_t>{2} : std::vector<int64_t>{1, 2, 6})
            for (const int32_t T : {129, 31, 64, 96}) {
                c.NKV = NKV, c.cu_seqlens = {0, T}, add(c);
                if (few) break;
            }
        c.NH = 4, c.NKV = 2;
        // Every extra column or bias under every mask; either of both with one document and several, with ALiBi and
        // without.
        c.extra_logit = 0.7;
        constexpr std::pair<int, int> kMasks[] = {{0, 0}, {1, 0}, {5, 3}, {64, 0}, {66, 2}, {70, 66}};
        size_t column = 0;
        for (AttentionCase with : columns_and_biases(c)) {
            for (size_t m = 0; m < std::size(kMasks); ++m) {
                const auto& [window, pinned] = kMasks[m];
                if (few && pinned != 2) continue;
                with.window = window, with.pinned = pinned;
                with.alibi = few ? !fewest : (m / 2 + column) % 2 > 0;
                with.cu_seqlens = {0, 140};
                if (few || (m + column) % 2 > 0) with.cu_seqlens = {0, 1, 20, 90, 91, 155};
                add(with);
            }
            ++column;
        }
        for (size_t i = 0; i < std::size(kPatterns); ++i) {
            AttentionCase with = kPatterns[i].of(columns_and_biases(c).back());
            with.gate = i % 3 == 0, with.positive = c.positive;
            if (few && i % 9 != 3) continue;
            with.alibi = i % 2 == 0, with.cu_seqlens = {0, 201};
            if (i % 4 > 1) with.cu_seqlens = {0, 1, 6, 136, 139, 180};
            if (i % 5 == 0)  // larger, and so not as many
                with.HS = kHeadSizes[i / 5], with.NH = 2, with.NKV = 1, with.cu_seqlens = {0, 30, 130};
            add(with, i % 5 == 0);
        }
        AttentionCase gated{.weighting = std::string(variant.name), .HS = 32, .cu_seqlens = {0, 70}, .gate = true};
        add(gated);
        gated.positive = c.positive;
        gated.NH = 6, gated.NKV = 2, gated.cu_seqlens = {0, 1, 20, 90, 155};
        for (const AttentionCase& with : columns_and_biases(gated))
            if (!fewest) add(with);
        // A bias on every key. It has kernels of its own in the backward, whatever the mask: in every head size, with
        // grouped heads and several tiles, then by pairs with windows, pinned keys, ALiBi, documents and patterns.
        AttentionCase biased{.weighting = std::string(variant.name), .HS = 32, .cu_seqlens = {0, 70}, .key_bias = true};
        biased.bias_value = -1.5, biased.positive = c.positive;
        for (const int64_t HS : kHeadSizes) biased.HS = HS, add(biased, true);
        biased.HS = 32, biased.NH = 4, biased.NKV = 2, biased.cu_seqlens = {0, 1, 20, 90, 91, 230}, add(biased);
        biased.window = 66, biased.pinned = 2, biased.gate = !few;
        for (AttentionCase with : columns_and_biases(biased))
            if (with.alibi = few; !fewest || with.extra == ExtraColumn::kNone) add(with, few);
        biased.gate = false, biased.NKV = 1;
        for (size_t i = 0; i < std::size(kPatterns); ++i)
            if (i % (few ? 9 : 4) == 1) biased.alibi = i % 8 > 4, add(kPatterns[i].of(biased), few);
        if (takes_extra_column(c.spec().weighting)) c.extra = ExtraColumn::kLearnedLogit, c.sink_shift = 100, add(c);
    }
    return all;
}

class CudaAttention : public testing::TestWithParam<Scheduled> {};

// Weights, ds and results are rounded to bf16 (2^-9), sums of them lose little more; lse stays fp32.
TEST_P(CudaAttention, MatchesTheOracle) {
    AttentionRun<bf16> run(GetParam().c);
    std::vector<double> out, lse;
    run.oracle(out, lse);
    AttentionRun<double> exact = run.widened_run();
    exact.forward();
    exact.backward();
    DeviceResults first;
    for (const int seed : GetParam().schedules) {
        set_schedule(seed);
        const DeviceResults seen = run_on_device(run, Write::kOverwrite, on_gpu());
        for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        if (seed != GetParam().schedules.front()) {
            EXPECT_TRUE(same_results(first, seen)) << "schedule " << seed;
            continue;
        }
        first = seen;
        expect_near(widened(seen.out), out, 5e-3, "out");
        if (is_normalized(run.c.spec().weighting)) expect_close(seen.lse, lse, 200, "lse", 4);
        expect_near(widened(seen.dqkv), exact.dqkv, 1e-2, "dqkv");
        expect_near(widened(seen.dsink), exact.dsink, 1e-2, "dsink", sink_terms(exact));
        expect_near(widened(seen.dbias), exact.dbias, 1e-2, "dbias");
        expect_near(widened(seen.dkey_bias), exact.dkey_bias, 1e-2, "dkey_bias");
        expect_near(widened(seen.dgate), exact.dgate, 1e-2, "dgate");
    }
}

std::string name_of_case(const testing::TestParamInfo<Scheduled>& info) {
    return std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, testing::ValuesIn(cases()), name_of_case);

TEST(CudaAttentionCases, AreAtLeastTwoHundred) {
    EXPECT_GE(cases().size(), 200u);
}

TEST(CudaAttentionGradient, OfWhatIsLearnedPerHeadIsAddedWhereAsked) {
    AttentionCase c{.extra = ExtraColumn::kLearnedLogit, .NH = 2, .HS = 32, .cu_seqlens = {0, 40}};
    const auto expect_added = [](const std::vector<float>& once, const std::vector<float>& added) {
        ASSERT_EQ(once.size(), 2u);
        for (size_t h = 0; h < once.size(); ++h) EXPECT_NEAR(added[h], once[h] + 0.5f, 1e-6);
    };
    const AttentionRun<bf16> sinks(c);
    expect_added(run_on_device(sinks, Write::kOverwrite, on_gpu()).dsink,
                 run_on_device(sinks, Write::kAccumulate, on_gpu()).dsink);
    c.weighting = "sigmoid", c.extra = ExtraColumn::kNone, c.bias = ScoreBias::kLearned;
    const AttentionRun<bf16> biases(c);
    expect_added(run_on_device(biases, Write::kOverwrite, on_gpu()).dbias,
                 run_on_device(biases, Write::kAccumulate, on_gpu()).dbias);
}

// Every dispatch row is launched, with its backward for either kind of mask and for biases of keys.
TEST(CudaAttentionCases, HaveEveryWeightingHeadSizeAndKindOfMask) {
    std::set<std::tuple<std::string, int64_t, int>> rows;
    for (const Scheduled& with : cases())
        rows.emplace(with.c.weighting, with.c.HS, with.c.key_bias ? 2 : Mask(with.c.spec()).patterned());
    EXPECT_EQ(rows.size(), variants().size() * (std::size(kHeadSizes) + 1) * 3);
}

// A token changes the outputs of those that see it, within a prefix also those before it, and no bit of any other's.
// The mask is the same code for all weightings: all patterns with softmax, each with one more weighting.
TEST(CudaAttentionMask, IsBidirectionalWithinThePrefixOnly) {
    for (size_t v = 0; v < variants().size(); ++v)
        for (size_t p = 0; p < std::size(kPatterns); ++p) {
            if (variants()[v].name != "softmax" && p % variants().size() != v) continue;
            AttentionRun<bf16> run(
                kPatterns[p].of({.weighting = std::string(variants()[v].name), .HS = 32, .cu_seqlens = {0, 30, 130}}));
            const std::vector<bf16> before = run_on_device(run, std::nullopt, on_gpu()).out;
            constexpr int64_t kToken = 3 * 32, kDocument = 30, kChanged = 66;
            for (int64_t x = (kDocument + kChanged) * kToken; x < (kDocument + kChanged + 1) * kToken; ++x)
                run.qkv[static_cast<size_t>(x)] = bf16(3.0f);
            const std::vector<bf16> after = run_on_device(run, std::nullopt, on_gpu()).out;
            int seeing = 0, changed = 0;
            for (size_t i = 0; i < 130; ++i) {
                const bool same = same_bits(slice(before, i * 32, 32), slice(after, i * 32, 32));
                const auto query = static_cast<int64_t>(i) - kDocument;
                const bool sees = query >= 0 && oracle_visible(run.c, query, kChanged);
                seeing += sees, changed += !same;
                ASSERT_TRUE(sees || same) << ::testing::PrintToString(run.c) << " query " << query;
            }
            // A key that repels may change no bit of bf16.
            ASSERT_GE(2 * changed, seeing) << ::testing::PrintToString(run.c);
        }
}

// Changing a later token leaves earlier outputs bit-equal, on the device too.
TEST(CudaAttentionMask, IsCausalToTheBit) {
    for (const VariantInfo& variant : variants()) {
        AttentionRun<bf16> run({.weighting = std::string(variant.name), .NH = 2, .HS = 32, .cu_seqlens = {0, 100}});
        const std::vector<bf16> before = run_on_device(run, std::nullopt, on_gpu()).out;
        const int64_t row = 4 * 32;  // both query heads, with a key and a value head: 2 + 1 + 1
        for (int64_t i = 99 * row; i < 100 * row; ++i) run.qkv[static_cast<size_t>(i)] = bf16(3.0f);
        const std::vector<bf16> after = run_on_device(run, std::nullopt, on_gpu()).out;
        EXPECT_TRUE(same_bits(slice(before, 0, 99 * 64), slice(after, 0, 99 * 64)));
        EXPECT_FALSE(same_bits(before, after));
    }
}

TEST(CudaAttentionChecks, WhatThereIsNoKernelForIsNamed) {
    const auto message = [](const AttentionCase& c) {
        try {
            run_on_device(AttentionRun<bf16>(c), Write::kOverwrite, on_gpu());
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("no error");
    };
    EXPECT_NE(message({.HS = 40}).find("head_size 40, wanted 32, 64, 96, 128 or 256"), std::string::npos);
    const OnDevice<float> qkv(filled<float>(3 * 32)), out(filled<float>(32)), lse(filled<float>(1));
    const OnDevice<int32_t> documents(std::vector<int32_t>{0, 1});
    const Tensor all = qkv.tensor({1, 3, 32});
    try {
        attention_forward({.out = out.tensor({1, 1, 32}),
                           .lse = lse.tensor({1, 1}),
                           .q = all.slice_columns(0, 1),
                           .k = all.slice_columns(1, 1),
                           .v = all.slice_columns(2, 1),
                           .sink_logit = {},
                           .gate = {}},
                          documents.span(), {}, on_gpu());
        ADD_FAILURE();
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("computes in bf16"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace plimsoll
