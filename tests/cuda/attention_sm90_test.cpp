// Attention on compute capability 9.0, and what of it is integers.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <set>

#include "kernels/cuda/attention_backward_sm90.h"
#include "kernels/cuda/attention_forward_sm90.h"
#include "kernels/cuda/sm90/backward_tile.h"
#include "kernels/cuda/sm90/forward_tile.h"
#include "kernels/cuda/tensor_map.h"
#include "support/attention_device.h"

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

class CudaAttention90 : public testing::TestWithParam<AttentionCase> {
  protected:
    static void SetUpTestSuite() {
        hopper_ = context_like(90, kFewMultiprocessors), ampere_ = context_like(80, kFewMultiprocessors);
    }
    static void TearDownTestSuite() { hopper_.reset(), ampere_.reset(); }

    inline static std::unique_ptr<cuda::Context> hopper_, ampere_;
};

// Weights, ds and results are rounded to bf16 (2^-9), sums of them lose little more; lse stays fp32. Where the kernels
// of sm_80 can be compared quickly they must agree as well; where tiles are cut is tested with their own cases.
TEST_P(CudaAttention90, MatchesTheOracle) {
    const AttentionRun<bf16> run(GetParam());
    const AttentionCase& c = run.c;
    std::vector<double> out, lse;
    run.oracle(out, lse);
    AttentionRun<double> exact = run.widened_run();
    exact.forward();
    exact.backward();
    const auto compare = [&](const DeviceResults& seen) {
        expect_near(widened(seen.out), out, 5e-3, "out");
        if (is_normalized(c.spec().weighting)) expect_close(seen.lse, lse, 200, "lse", 4);
        const DenseQkv<double> d(c, widened(seen.dqkv)), wanted(c, exact.dqkv);
        expect_near(d.q, wanted.q, 1e-2, "dq");
        expect_near(d.k, wanted.k, 1e-2, "dk");
        expect_near(d.v, wanted.v, 1e-2, "dv");
        expect_near(widened(seen.dsink), exact.dsink, 1e-2, "dsink", sink_terms(exact));
        expect_near(widened(seen.dbias), exact.dbias, 1e-2, "dbias");
        expect_near(widened(seen.dgate), exact.dgate, 1e-2, "dgate");
    };
    DeviceResults first;
    for (int seed = 1; seed <= (c.N() % 2 ? 2 : 1); ++seed) {
        set_schedule(seed);
        const DeviceResults seen = run_on_device(run, Write::kOverwrite, on(*hopper_));
        for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        if (seed > 1) {
            EXPECT_TRUE(same_results(first, seen)) << "schedule " << seed;
            continue;
        }
        first = seen;
        compare(seen);
    }
    if (c.N() > 70) return;
    compare(run_on_device(run, Write::kOverwrite, on(*ampere_)));
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

TEST(Attention90, TakesTheBackwardItHasKernelsFor) {
    const auto hopper = context_like(90, kFewMultiprocessors), ampere = context_like(80, kFewMultiprocessors);
    if (hopper->architecture() != 90) GTEST_SKIP() << "not a Hopper";
    const auto takes = [](const AttentionCase& c, cuda::Context& context, bool fp32 = false) {
        const OnDevice<bf16> q(filled<bf16>(static_cast<size_t>(c.HS)));
        const OnDevice<float> wide(filled<float>(static_cast<size_t>(c.HS)));
        AttentionTensors t{}, d{};
        t.q = q.tensor({1, 1, c.HS});
        if (c.key_bias) t.key_bias = wide.tensor({1, 1});
        d.k = d.v = fp32 ? wide.tensor({1, 1, c.HS}) : t.q;
        const auto [dq, dkv] = cuda::takes_sm90_backward(d, t, c.spec(), on(context));
        return std::pair{dq, dkv};
    };
    constexpr std::pair kBoth{true, true}, kQueries{true, false}, kNeither{false, false};
    for (const int64_t HS : {64, 96, 128}) EXPECT_EQ(takes({.HS = HS}, *hopper), kBoth);
    EXPECT_EQ(takes({.HS = 256}, *hopper), kQueries) << "dK and dV of 256 columns fit no registers";
    EXPECT_EQ(takes({.HS = 64}, *hopper, true), kQueries) << "gradients of keys in fp32 belong to tasks";
    for (const int64_t HS : {32, 80, 512}) EXPECT_EQ(takes({.HS = HS}, *hopper), kNeither);
    EXPECT_EQ(takes({.window = 7, .pinned = 2, .alibi = true, .HS = 64}, *hopper), kBoth);
    EXPECT_EQ(takes({.prefix = 3, .HS = 64}, *hopper), kNeither);
    EXPECT_EQ(takes({.HS = 64, .key_bias = true}, *hopper), kNeither) << "it would be left out";
    EXPECT_EQ(takes({.window = 7, .pattern = MaskPattern::kStrided, .HS = 64}, *hopper), kNeither);
    EXPECT_EQ(takes({.HS = 64}, *ampere), ampere->architecture() == 90 ? kBoth : kNeither);
}

void expect_fits(int bytes, int64_t HS, int queries, int keys, int stages, int registers) {
    EXPECT_LE(bytes, cuda::kSharedBytes90) << HS;
    for (const int rows : {queries, keys}) {
        EXPECT_EQ(rows % 16, 0) << HS;
        EXPECT_LE(rows, 256) << HS << ": rows of a TMA box, columns of wgmma";
        EXPECT_EQ(rows * static_cast<int>(HS) * 2 % 1024, 0) << HS << ": tiles begin where swizzling does";
    }
    EXPECT_LE(registers, 224) << HS << ": of 240";
    EXPECT_GE(stages, 2) << HS;
}

TEST(Attention90, TilesFitABlock) {
    int forward = 0, queries = 0, keys = 0;
    for (int64_t HS = 8; HS <= 512; HS += 8) {
        const int size = static_cast<int>(HS);
        if (const cuda::ForwardTile tile = cuda::forward_tile(HS); tile.exists()) {
            EXPECT_EQ(tile.queries, 128) << HS << ": two warpgroups of 64";
            expect_fits(tile.tensor_bytes(size) + 8 * (2 + 4 * tile.stages), HS, tile.queries, tile.keys, tile.stages,
                        tile.keys / 2 + tile.keys / 4 + size / 2);
            ++forward;
        }
        if (const cuda::QueryGradientTile tile = cuda::query_gradient_tile(HS); tile.exists()) {
            EXPECT_EQ(tile.queries, 128) << HS << ": two warpgroups of 64";
            expect_fits(tile.tensor_bytes(size) + 8 * (2 + 2 * tile.stages), HS, tile.queries, tile.keys, tile.stages,
                        tile.registers(size));
            ++queries;
        }
        if (const cuda::KeyGradientTile tile = cuda::key_gradient_tile(HS); tile.exists()) {
            EXPECT_EQ(tile.keys, 128) << HS << ": two warpgroups of 64";
            EXPECT_EQ(tile.row_bytes() % 16, 0) << HS << ": a bulk copy";
            expect_fits(tile.tensor_bytes(size) + 8 * (2 + 2 * tile.stages), HS, tile.queries, tile.keys, tile.stages,
                        tile.registers(size));
            ++keys;
        }
    }
    EXPECT_EQ(std::tuple(forward, queries, keys), std::tuple(4, 4, 3));
}

TEST(Attention90, NumbersOfRowsLieInTilesOfTheirQueries) {
    EXPECT_EQ(cuda::padded_rows(1), 128);
    EXPECT_EQ(cuda::padded_rows(128), 128);
    EXPECT_EQ(cuda::padded_rows(129), 256);
    std::set<int64_t> places;
    for (int64_t head = 0; head < 3; ++head)
        for (int64_t i = 0; i < cuda::padded_rows(130); ++i)
            for (int number = 0; number < cuda::kRowNumbers; ++number)
                places.insert(cuda::row_at(head, i, 130) + number * cuda::kRowTile);
    EXPECT_EQ(places.size(), 3u * 256 * 3) << "one each";
    EXPECT_EQ(*places.rbegin(), 3 * 256 * 3 - 1) << "and no other";
    EXPECT_EQ(cuda::row_at(1, 64, 130), 3 * (256 + 64)) << "a tile's begin where a bulk copy can";
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
    for (const bool last_first : {false, true})
        for (const auto& [tiles, heads, section] :
             {std::array{1, 1, 1}, {5, 3, 3}, {2, 12, 4}, {7, 10, 4}, {3, 9, 2}}) {
            const cuda::TileSchedule schedule{tiles, heads, section, last_first};
            std::set<std::pair<int, int>> taken;
            for (int index = 0; index < schedule.count(); ++index) {
                const cuda::TileWork work = schedule.work(index);
                EXPECT_TRUE(work.tile >= 0 && work.tile < tiles && work.head >= 0 && work.head < heads);
                EXPECT_EQ(work.head / section, index / (section * tiles)) << "one section after the other";
                taken.insert({work.tile, work.head});
            }
            EXPECT_EQ(taken.size(), static_cast<size_t>(tiles * heads));
            EXPECT_EQ(schedule.work(0).tile, last_first ? tiles - 1 : 0) << "the tile with most work is first";
        }
}

TEST(Attention90, SectionsOfHeadsFitTheCache) {
    const auto section = [](int64_t rows, int64_t HS, int heads, int group) {
        return cuda::query_schedule(rows, HS, heads, group, 128).section;
    };
    EXPECT_EQ(section(1024, 64, 12, 1), 12) << "0.25 MiB a head: all";
    EXPECT_EQ(section(32768, 64, 12, 1), 4) << "8 MiB a head";
    EXPECT_EQ(section(32768, 64, 32, 8), 32) << "four key heads";
    EXPECT_EQ(section(32768, 128, 32, 8), 16);
    EXPECT_EQ(section(1 << 20, 256, 32, 8), 8) << "never less than a group";
    EXPECT_EQ(cuda::query_schedule(129, 64, 2, 1, 128).tiles, 2);
    EXPECT_EQ(cuda::key_schedule(129, 64, 2, 4, 128).tiles, 2);
    EXPECT_EQ(cuda::key_schedule(1024, 64, 3, 4, 128).section, 3) << "1 MiB a key head, with its four query heads: all";
    EXPECT_EQ(cuda::key_schedule(32768, 64, 12, 1, 128).section, 4) << "8 MiB a key head";
    EXPECT_EQ(cuda::key_schedule(32768, 64, 12, 8, 128).section, 1);
}

}  // namespace
}  // namespace plimsoll
