// Attention's forward on compute capability 9.0, and what of it is integers.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <set>

#include "kernels/cuda/attention_forward_sm90.h"
#include "kernels/cuda/sm90/forward_tile.h"
#include "kernels/cuda/tensor_map.h"
#include "support/attention_run.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

constexpr int kFewMultiprocessors = 3;  // so that blocks take several pieces of work

// Every weighting in every head size; lengths around tiles of 64, 80 and 128, and long enough for stages to be used
// again; every extra column and bias, windows, pinned keys, documents, ALiBi, gates and groups of heads.
std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    constexpr std::array<int64_t, 4> kSizes = {64, 96, 128, 256};
    for (const VariantInfo& variant : variants()) {
        const bool few = variant.name != "softmax" && variant.name != "sigmoid";
        AttentionCase c;
        c.weighting = variant.name, c.bias_value = -1.5, c.positive = variant.name == "kernel_normalized";
        size_t turn = all.size();
        const auto add = [&](AttentionCase with) { with.HS = kSizes[turn++ % 4], all.push_back(with); };
        for (const int32_t T : few ? std::vector<int32_t>{70, 257, 130, 290}
                                   : std::vector<int32_t>{1, 63, 64, 65, 129, 130, 257, 300, 700, 641, 520, 410}) {
            c.cu_seqlens = {0, T}, add(c);
        }
        c.NH = 4, c.NKV = 2, c.extra_logit = 0.7;
        for (AttentionCase with : columns_and_biases(c)) {
            with.cu_seqlens = {0, 140}, with.gate = true, add(with);
            for (const auto& [window, pinned] : {std::pair{0, 0}, {5, 3}, {64, 0}, {150, 2}}) {
                with.window = window, with.pinned = pinned, with.alibi = window == 64 || pinned == 3;
                with.gate = window == 0;
                with.cu_seqlens =
                    pinned == 2 ? std::vector<int32_t>{0, 330} : std::vector<int32_t>{0, 1, 20, 90, 91, 155, 290};
                if (!few || (pinned + window) % 3 == 2) add(with);
            }
        }
        // A bias on every key, which a Hopper too leaves to the kernels for sm_80.
        AttentionCase biased = c;
        biased.key_bias = true, biased.cu_seqlens = {0, 1, 20, 90};
        if (!few) add(biased);
        if (takes_extra_column(c.spec().weighting)) c.extra = ExtraColumn::kLearnedLogit, c.sink_shift = 100, add(c);
    }
    return all;
}

struct Results {
    std::vector<bf16> out;
    std::vector<float> lse;
};

Results forward(const AttentionRun<bf16>& run, const Exec& exec) {
    const AttentionCase& c = run.c;
    const int64_t N = c.N(), heads = c.NH + 2 * c.NKV;
    const OnDevice<bf16> qkv(run.qkv), gate(run.gate), out(std::vector<bf16>(run.out.size(), bf16(7.0f)));
    const OnDevice<float> lse(filled<float>(is_normalized(c.spec().weighting) ? run.lse.size() : 0, 7.0f)),
        sink(run.sink), bias(run.bias), key_bias(run.key_bias);
    const OnDevice<int32_t> documents(c.cu_seqlens);
    const auto part = [&](int64_t first, int64_t count) {
        return qkv.tensor({N, heads, c.HS}).slice_columns(first, count);
    };
    attention_forward({.out = out.tensor({N, c.NH, c.HS}),
                       .lse = lse.tensor({c.NH, N}),
                       .q = part(0, c.NH),
                       .k = part(c.NH, c.NKV),
                       .v = part(c.NH + c.NKV, c.NKV),
                       .sink_logit = sink.tensor({c.NH}),
                       .gate = gate.tensor({N, c.NH}),
                       .score_bias = bias.tensor({c.NH}),
                       .key_bias = key_bias.tensor({N, c.NH})},
                      documents.span(), c.spec(), exec);
    exec.cuda->synchronize();
    return {out.values(), lse.values()};
}

double distance(const std::vector<bf16>& seen, const std::vector<double>& wanted) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < seen.size(); ++i) {
        const double value = static_cast<double>(static_cast<float>(seen[i]));
        EXPECT_TRUE(std::isfinite(value)) << i;
        difference += std::pow(value - wanted[i], 2), size += std::pow(wanted[i], 2);
    }
    return std::sqrt(difference) / (std::sqrt(size) + 1e-6);
}

class CudaAttention90 : public testing::TestWithParam<AttentionCase> {
  protected:
    static void SetUpTestSuite() {
        hopper_ = context_like(90, kFewMultiprocessors), ampere_ = context_like(80, kFewMultiprocessors);
    }
    static void TearDownTestSuite() { hopper_.reset(), ampere_.reset(); }

    inline static std::unique_ptr<cuda::Context> hopper_, ampere_;
};

// Weights and results are rounded to bf16 (2^-9), sums of them lose little more; lse stays fp32. The kernels of sm_80
// must agree as well.
TEST_P(CudaAttention90, MatchesTheOracle) {
    const AttentionRun<bf16> run(GetParam());
    std::vector<double> out, lse;
    run.oracle(out, lse);
    Results first;
    for (int seed = 1; seed <= 2; ++seed) {
        set_schedule(seed);
        const Results seen = forward(run, on(*hopper_));
        for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        if (seed > 1) {
            EXPECT_TRUE(same_bits(first.out, seen.out) && same_bits(first.lse, seen.lse)) << "schedule " << seed;
            continue;
        }
        first = seen;
        EXPECT_LE(distance(seen.out, out), 5e-3);
        if (is_normalized(run.c.spec().weighting)) expect_close(seen.lse, lse, 200, "lse", 4);
    }
    if (run.c.N() > 140) return;  // where tiles are cut is tested with the other kernels' own cases
    EXPECT_LE(distance(forward(run, on(*ampere_)).out, out), 5e-3);
    for (const std::string& report : device_reports()) ADD_FAILURE() << "sm_80: " << report;
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention90, testing::ValuesIn(cases()),
                         [](const auto& info) { return std::to_string(info.index); });

TEST(Attention90, TakesWhatItHasKernelsFor) {
    const auto hopper = context_like(90, kFewMultiprocessors), ampere = context_like(80, kFewMultiprocessors);
    if (hopper->architecture() != 90) GTEST_SKIP() << "not a Hopper";
    const auto takes = [](const AttentionCase& c, cuda::Context& context) {
        const OnDevice<bf16> q(filled<bf16>(static_cast<size_t>(c.HS)));
        const OnDevice<float> key_bias(filled<float>(1));
        AttentionTensors t{};
        t.q = q.tensor({1, 1, c.HS});
        if (c.key_bias) t.key_bias = key_bias.tensor({1, 1});
        return cuda::takes_sm90_forward(t, c.spec(), on(context));
    };
    for (const int64_t HS : {64, 96, 128, 256}) EXPECT_TRUE(takes({.HS = HS}, *hopper));
    for (const int64_t HS : {32, 80, 512}) EXPECT_FALSE(takes({.HS = HS}, *hopper));
    EXPECT_TRUE(takes({.window = 7, .pinned = 2, .alibi = true, .HS = 64}, *hopper));
    EXPECT_FALSE(takes({.prefix = 3, .HS = 64}, *hopper));
    EXPECT_FALSE(takes({.HS = 64, .key_bias = true}, *hopper));
    EXPECT_FALSE(takes({.window = 7, .pattern = MaskPattern::kStrided, .HS = 64}, *hopper));
    EXPECT_EQ(takes({.HS = 64}, *ampere), ampere->architecture() == 90);
}

TEST(Attention90, TilesFitABlock) {
    for (int64_t HS = 8; HS <= 512; HS += 8) {
        const cuda::ForwardTile tile = cuda::forward_tile(HS);
        if (!tile.exists()) continue;
        const int size = static_cast<int>(HS), barriers = 8 * (2 + 4 * tile.stages);
        EXPECT_LE(tile.tensor_bytes(size) + barriers, cuda::kSharedBytes90) << HS;
        EXPECT_EQ(tile.queries, 128) << HS << ": two warpgroups of 64";
        EXPECT_EQ(tile.keys % 16, 0) << HS;
        EXPECT_LE(tile.keys, 256) << HS << ": rows of a TMA box, columns of wgmma";
        EXPECT_EQ(tile.keys * size * 2 % 1024, 0) << HS << ": tiles begin where swizzling does";
        EXPECT_LE(tile.keys / 2 + tile.keys / 4 + size / 2, 200) << HS << ": registers, of 240";
        EXPECT_GE(tile.stages, 2) << HS;
    }
}

TEST(TensorMap, DescribesTilesOfHeads) {
    alignas(16) static const bf16 data[8] = {};
    const cuda::TensorMapSpec spec = cuda::head_tiles(data, 10, 3, 96, 400, 64);
    EXPECT_EQ(spec.base, data);
    EXPECT_EQ(std::to_array(spec.size), (std::array<uint64_t, 4>{32, 10, 3, 3}))
        << "columns of a box, rows, boxes, heads";
    EXPECT_EQ(std::to_array(spec.stride), (std::array<uint64_t, 4>{2, 800, 64, 192})) << "bytes";
    EXPECT_EQ(std::to_array(spec.box), (std::array<uint32_t, 4>{32, 64, 3, 1}));
    EXPECT_EQ(spec.swizzle_bytes, 64u);
    EXPECT_EQ(cuda::head_tiles(data, 1, 1, 256, 256, 80).swizzle_bytes, 128u);
    EXPECT_THROW(cuda::head_tiles(data + 1, 10, 3, 96, 400, 64), Error) << "alignment";
    EXPECT_THROW(cuda::head_tiles(data, 10, 3, 96, 404, 64), Error) << "stride of 808 bytes";
    EXPECT_THROW(cuda::head_tiles(data, 10, 3, 40, 400, 64), Error) << "head size";
    EXPECT_THROW(cuda::head_tiles(data, 10, 3, 96, 400, 257), Error) << "rows of a box";
}

TEST(Attention90, EveryPieceOfWorkIsTakenOnce) {
    for (const auto& [tiles, heads, section] : {std::array{1, 1, 1}, {5, 3, 3}, {2, 12, 4}, {7, 10, 4}, {3, 9, 2}}) {
        const cuda::ForwardSchedule schedule{tiles, heads, section};
        std::set<std::pair<int, int>> taken;
        for (int index = 0; index < schedule.count(); ++index) {
            const cuda::ForwardWork work = schedule.work(index);
            EXPECT_TRUE(work.tile >= 0 && work.tile < tiles && work.head >= 0 && work.head < heads);
            EXPECT_EQ(work.head / section, index / (section * tiles)) << "one section after the other";
            taken.insert({work.tile, work.head});
        }
        EXPECT_EQ(taken.size(), static_cast<size_t>(tiles * heads));
        EXPECT_EQ(schedule.work(0).tile, tiles - 1) << "the tile with most keys is first";
    }
}

TEST(Attention90, SectionsOfHeadsFitTheCache) {
    const auto section = [](int64_t rows, int64_t HS, int heads, int group) {
        return cuda::forward_schedule(rows, HS, heads, group).section;
    };
    EXPECT_EQ(section(1024, 64, 12, 1), 12) << "0.25 MiB a head: all";
    EXPECT_EQ(section(32768, 64, 12, 1), 4) << "8 MiB a head";
    EXPECT_EQ(section(32768, 64, 32, 8), 32) << "four key heads";
    EXPECT_EQ(section(32768, 128, 32, 8), 16);
    EXPECT_EQ(section(1 << 20, 256, 32, 8), 8) << "never less than a group";
    EXPECT_EQ(cuda::forward_schedule(129, 64, 2, 1).tiles, 2);
}

}  // namespace
}  // namespace plimsoll
