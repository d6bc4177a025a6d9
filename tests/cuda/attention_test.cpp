#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/attention_run.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

// The same cases as on the CPU, in the head sizes there are kernels for. AttentionRun<double> on the rounded inputs is
// the oracle of the backward, attention_oracle() that of the forward.
std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const VariantInfo& variant : variants()) {
        AttentionCase c;
        c.weighting = variant.name;
        c.bias_value = -1.5;
        c.HS = 32;
        const auto add = [&](AttentionCase with) { all.push_back(with); };
        for (const int32_t T : {1, 2, 15, 63, 64, 65, 100, 128, 193, 257}) c.cu_seqlens = {0, T}, add(c);
        c.cu_seqlens = {0, 70};
        for (const int64_t HS : {64, 96, 128, 256}) c.HS = HS, add(c);
        for (const int64_t HS : {64, 96, 128, 256}) c.HS = HS, c.cu_seqlens = {0, 40, 130}, add(c);
        c.HS = 32;
        c.NH = 6;
        for (const int64_t NKV : {1, 2, 6})
            for (const int32_t T : {31, 64, 96, 129}) c.NKV = NKV, c.cu_seqlens = {0, T}, add(c);
        c.NH = 4, c.NKV = 2;
        // Every extra column or bias under every mask, with and without ALiBi, in one document and in several.
        c.extra_logit = 0.7;
        std::vector<AttentionCase> kinds(3, c);
        kinds[1].extra = ExtraColumn::kConstant, kinds[2].extra = ExtraColumn::kLearnedLogit;
        if (!variant.normalized) kinds = {c, c}, kinds[1].bias = ScoreBias::kPerRow;
        for (AttentionCase with : kinds)
            for (const std::vector<int32_t>& documents :
                 {std::vector<int32_t>{0, 140}, std::vector<int32_t>{0, 1, 20, 90, 91, 155}})
                for (const auto& [window, pinned] :
                     {std::pair{0, 0}, {1, 0}, {5, 0}, {5, 3}, {64, 0}, {66, 2}, {70, 66}})
                    for (const bool alibi : {false, true}) {
                        with.window = window, with.pinned = pinned, with.alibi = alibi, with.cu_seqlens = documents;
                        add(with);
                    }
        AttentionCase gated{.weighting = std::string(variant.name), .HS = 32, .cu_seqlens = {0, 70}, .gate = true};
        add(gated);
        gated.NH = 6, gated.NKV = 2, gated.cu_seqlens = {0, 1, 20, 90, 155}, add(gated);
        if (variant.normalized) gated.extra = ExtraColumn::kLearnedLogit, add(gated);
        if (variant.normalized) c.extra = ExtraColumn::kLearnedLogit, c.sink_shift = 100, add(c);
    }
    return all;
}

struct Results {
    std::vector<bf16> out, dqkv, dgate;
    std::vector<float> lse, dsink;
};

// Forward and backward of a run's inputs on the device.
Results run_on_gpu(const AttentionRun<bf16>& run, Write write) {
    const AttentionCase& c = run.c;
    const int64_t N = c.N(), heads = c.NH + 2 * c.NKV;
    const bool normalized = is_normalized(c.spec().weighting);
    const OnDevice<bf16> qkv(run.qkv), dout(run.dout), out(std::vector<bf16>(run.out.size(), bf16(7.0f))),
        dqkv(std::vector<bf16>(run.qkv.size(), bf16(7.0f)));
    const OnDevice<float> lse(filled<float>(normalized ? run.lse.size() : 0, 7.0f)), sink(run.sink),
        dsink(filled<float>(run.sink.size(), 0.5f));
    const OnDevice<bf16> gate(run.gate), dgate(filled<bf16>(run.gate.size(), 7.0f));
    const OnDevice<int32_t> documents(c.cu_seqlens);
    const auto part = [&](const OnDevice<bf16>& fused, int64_t first, int64_t count) {
        return fused.tensor({N, heads, c.HS}).slice_columns(first, count);
    };
    const Shape wide{N, c.NH, c.HS};
    const Tensor q = part(qkv, 0, c.NH), k = part(qkv, c.NH, c.NKV), v = part(qkv, c.NH + c.NKV, c.NKV);
    const AttentionTensors t{.out = out.tensor(wide),
                             .lse = lse.tensor({c.NH, N}),
                             .q = q,
                             .k = k,
                             .v = v,
                             .sink_logit = sink.tensor({c.NH}),
                             .gate = gate.tensor({N, c.NH})};
    const AttentionTensors d{.out = dout.tensor(wide),
                             .lse = {},
                             .q = part(dqkv, 0, c.NH),
                             .k = part(dqkv, c.NH, c.NKV),
                             .v = part(dqkv, c.NH + c.NKV, c.NKV),
                             .sink_logit = dsink.tensor({c.NH}),
                             .gate = dgate.tensor({N, c.NH})};
    attention_forward(t, documents.span(), c.spec(), on_gpu());
    attention_backward(d, t, documents.span(), c.spec(), write, on_gpu());
    return {out.values(), dqkv.values(), dgate.values(), lse.values(), dsink.values()};
}

// Largest difference, and the size it must be seen against.
void expect_near(const std::vector<double>& seen, const std::vector<double>& wanted, double tolerance,
                 const char* name) {
    ASSERT_EQ(seen.size(), wanted.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < seen.size(); ++i) {
        difference += std::pow(seen[i] - wanted[i], 2), size += std::pow(wanted[i], 2);
        ASSERT_TRUE(std::isfinite(seen[i])) << name << "[" << i << "]";
    }
    EXPECT_LE(std::sqrt(difference), tolerance * (std::sqrt(size) + 1e-6)) << name;
}

class CudaAttention : public testing::TestWithParam<AttentionCase> {};

// Weights, ds and results are rounded to bf16 (2^-9), sums of them lose little more; lse stays fp32.
TEST_P(CudaAttention, MatchesTheOracle) {
    AttentionRun<bf16> run(GetParam());
    std::vector<double> out, lse;
    run.oracle(out, lse);
    AttentionRun<double> exact(GetParam());
    exact.qkv = widened(run.qkv), exact.dout = widened(run.dout), exact.sink = widened(run.sink);
    exact.gate = widened(run.gate);
    exact.forward();
    exact.backward();
    Results first;
    for (int seed = 1; seed <= kSchedules; ++seed) {
        set_schedule(seed);
        const Results seen = run_on_gpu(run, Write::kOverwrite);
        for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        if (seed > 1) {
            EXPECT_TRUE(same_bits(first.out, seen.out) && same_bits(first.dqkv, seen.dqkv) &&
                        same_bits(first.dgate, seen.dgate) && same_bits(first.lse, seen.lse) &&
                        same_bits(first.dsink, seen.dsink))
                << "schedule " << seed;
            continue;
        }
        first = seen;
        expect_near(widened(seen.out), out, 5e-3, "out");
        if (is_normalized(run.c.spec().weighting)) expect_close(seen.lse, lse, 200, "lse", 4);
        expect_near(widened(seen.dqkv), exact.dqkv, 1e-2, "dqkv");
        expect_near(widened(seen.dsink), exact.dsink, 1e-2, "dsink");
        expect_near(widened(seen.dgate), exact.dgate, 1e-2, "dgate");
    }
}

std::string name_of_case(const testing::TestParamInfo<AttentionCase>& info) {
    return std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, testing::ValuesIn(cases()), name_of_case);

TEST(CudaAttentionCases, AreAtLeastTwoHundred) {
    EXPECT_GE(cases().size(), 200u);
}

TEST(CudaAttentionGradient, OfTheSinkIsAddedWhereAsked) {
    AttentionCase c{.extra = ExtraColumn::kLearnedLogit, .NH = 2, .HS = 32, .cu_seqlens = {0, 40}};
    const AttentionRun<bf16> run(c);
    const Results once = run_on_gpu(run, Write::kOverwrite), added = run_on_gpu(run, Write::kAccumulate);
    for (size_t h = 0; h < once.dsink.size(); ++h) EXPECT_NEAR(added.dsink[h], once.dsink[h] + 0.5f, 1e-6);
}

// Changing a later token leaves earlier outputs bit-equal, on the device too.
TEST(CudaAttentionMask, IsCausalToTheBit) {
    for (const VariantInfo& variant : variants()) {
        AttentionRun<bf16> run({.weighting = std::string(variant.name), .NH = 2, .HS = 32, .cu_seqlens = {0, 100}});
        const std::vector<bf16> before = run_on_gpu(run, Write::kOverwrite).out;
        const int64_t row = 4 * 32;  // both query heads, with a key and a value head: 2 + 1 + 1
        for (int64_t i = 99 * row; i < 100 * row; ++i) run.qkv[static_cast<size_t>(i)] = bf16(3.0f);
        const std::vector<bf16> after = run_on_gpu(run, Write::kOverwrite).out;
        EXPECT_TRUE(same_bits(slice(before, 0, 99 * 64), slice(after, 0, 99 * 64)));
        EXPECT_FALSE(same_bits(before, after));
    }
}

TEST(CudaAttentionChecks, WhatThereIsNoKernelForIsNamed) {
    const auto message = [](const AttentionCase& c) {
        try {
            run_on_gpu(AttentionRun<bf16>(c), Write::kOverwrite);
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
