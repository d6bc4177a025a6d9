// Shapes that `plimsoll bench --attention` takes, and what their rows count.
#include <gtest/gtest.h>

#include "data/data_test_support.h"
#include "train/bench_parts.h"

namespace plimsoll {
namespace {

TEST(BenchAttention, ShapesAreCausalOrFull) {
    const AttentionShape causal = parse_attention_shape("4x512x8x2x64"),
                         full = parse_attention_shape("4x512x8x2x64:full");
    EXPECT_EQ(causal.B * causal.T * causal.NH * causal.NKV * causal.HS, 4 * 512 * 8 * 2 * 64);
    EXPECT_EQ(full.HS, 64);
    EXPECT_FALSE(causal.full);
    EXPECT_TRUE(full.full);
    for (const char* wrong :
         {"", "4x512x8x2", "4x512x8x2x64x1", "4x512x8x3x64", "4x0x8x2x64", "4x512x8x2x64:half", "4x512x8x2x64full"})
        expect_error(ExitCode::kBadInput, {wrong, "BxTxNHxNKVxHS"}, [&] { parse_attention_shape(wrong); });
}

TEST(BenchAttention, CountsTheScoresThatAreSeen) {
    const AttentionShape causal{.B = 1, .T = 8, .NH = 2, .NKV = 1, .HS = 4};
    AttentionShape full = causal;
    full.full = true;
    const std::vector<KernelTime> half = time_attention(causal, {}, DType::kF32, {}),
                                  all = time_attention(full, {}, DType::kF32, {});
    ASSERT_EQ(half.size(), all.size());
    for (size_t i = 0; i < half.size(); ++i) {
        EXPECT_EQ(half[i].flops, (i % 2 ? 2.5 : 1) * 4 * 2 * 4 * (8 * 9 / 2));
        EXPECT_EQ(all[i].flops, (i % 2 ? 2.5 : 1) * 4 * 2 * 4 * (8 * 8));
        EXPECT_EQ(all[i].shape, half[i].shape + ":full");
    }
}

}  // namespace
}  // namespace plimsoll
