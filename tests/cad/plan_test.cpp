#include "dist/cad/plan.h"

#include <gtest/gtest.h>

#include "dist/cad/key_pieces.h"
#include "kernels/error.h"
#include "support/cad_cases.h"

namespace plimsoll {
namespace {

constexpr double kRounding = 1e-12;

double imbalance(const CaPlan& plan, const CaCase& c, const CaOptions& options) {
    return imbalance_of(loads_of(plan, c.segments, options), options.speeds);
}

TEST(CadPlan, AdversarialCasesAreBalanced) {
    for (const int servers : {4, 8, 16, 64})
        for (const CaCase& c : adversarial_cases(servers)) {
            const CaOptions options = llama_8b(servers);
            const CaPlan plan = plan_core_attention(c.segments, options);
            ASSERT_EQ(problem_with(plan, c.segments, options), "") << c.name;
            EXPECT_LE(imbalance(plan, c, options), 1.02 + kRounding) << c.name << ", " << servers << " ranks";
        }
}

}  // namespace
}  // namespace plimsoll
