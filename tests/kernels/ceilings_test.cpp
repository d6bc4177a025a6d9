#include "kernels/ceilings.h"

#include <gtest/gtest.h>

#include "kernels/cpu/avx512_bf16/tiles.h"

namespace plimsoll {
namespace {

// Of arithmetic only what must hold on any machine and under any load: vectors beat a multiply-add a nanosecond.
TEST(Ceilings, AreMeasured) {
    const Ceilings ceilings = measure_ceilings(1, 12 << 20);
    EXPECT_GT(ceilings.fp32, 2e9);
    EXPECT_GT(ceilings.read, 1e8);
    EXPECT_GT(ceilings.triad, 1e8);
    EXPECT_EQ(ceilings.bf16_products > 0, cpu::avx512_bf16::available());
    if (cpu::avx512_bf16::available()) {
        EXPECT_GT(ceilings.bf16_products, ceilings.fp32);
    }
}

TEST(Ceilings, WithoutAmxProductsAreFp32) {
    const Ceilings without{.bf16_products = 0, .fp32 = 5, .read = 2, .triad = 3}, with{.bf16_products = 50, .fp32 = 5};
    EXPECT_EQ(without.products(true), 5);
    EXPECT_EQ(with.products(true), 50);
    EXPECT_EQ(with.products(false), 5);
    EXPECT_EQ(without.memory(), 3);
}

}  // namespace
}  // namespace plimsoll
