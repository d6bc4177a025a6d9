// Whole updates on the device, op by op and as a CUDA graph, with a rate and a scale that change from step to step.
#include <gtest/gtest.h>

#include <cmath>

#include "support/cuda_test.h"
#include "support/network_updates.h"

namespace plimsoll {
namespace {

constexpr int64_t kSteps = 5;

// Rates far from each other: an update with the step before's would be seen at once.
double rate_of(int64_t step) {
    return step % 2 ? 1e-3 * static_cast<double>(step) : 4e-2;
}

double root_mean_square(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    return std::sqrt(sum / static_cast<double>(a.size()));
}

class CudaOptimizer : public testing::TestWithParam<const char*> {
  protected:
    void step(NetworkUpdates& network, int64_t step, bool recorded = false) {
        network.step(step, rate_of(step), 1.0 / static_cast<double>(step), recorded);
    }
    const OptimizerSection section = [this] {
        OptimizerSection s = optimizer_of_kind(GetParam());
        s.groups = {{.match = {"blocks.1.*"}, .lr_scale = 0.25, .weight_decay = 0.3}};
        return s;
    }();
};

// The device's products and roots are fp32's, and Newton-Schulz multiplies roundings by up to 485: against the change
// of a step far less than what another step's rate would make.
TEST_P(CudaOptimizer, EveryStepIsThatOfTheCpuWithItsOwnRateAndScale) {
    NetworkUpdates cpu(section, {}), gpu(section, on_gpu());
    ASSERT_TRUE(same_bits(cpu.start(), gpu.start()));
    std::vector<float> before = cpu.start();
    for (int64_t i = 1; i <= kSteps; ++i) {
        step(cpu, i), step(gpu, i, true);
        const std::vector<float> wanted = cpu.parameters();
        EXPECT_LT(root_mean_square(gpu.parameters(), wanted), 1e-3 * root_mean_square(wanted, before)) << i;
        before = wanted;
    }
    EXPECT_EQ(gpu.replay().why_not(), "");
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

TEST_P(CudaOptimizer, AGraphChangesNoBit) {
    NetworkUpdates ops(section, on_gpu()), graph(section, on_gpu());
    for (int64_t i = 1; i <= kSteps; ++i) {
        step(ops, i), step(graph, i, true);
        EXPECT_TRUE(same_bits(ops.parameters(), graph.parameters())) << i;
        EXPECT_TRUE(same_bits(ops.working(), graph.working())) << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaOptimizer, testing::Values("adamw", "sgd", "muon", "orthoadam"),
                         [](const auto& kind) { return std::string(kind.param); });

// The host sets the next step's factors while the copy of this one's is still to come.
TEST(CudaUpdateTable, FactorsStayUntilTheyWereRead) {
    const OnDevice<float> param({0.0f}), buffer({0.0f}), grad({1.0f});
    UpdateTable table(std::vector{UpdateSpan{.count = 1}});
    const OnDevice<int32_t> memory(std::vector<int32_t>(static_cast<size_t>(table.shape().elements())));
    table.place(memory.tensor(table.shape()));
    set_late_streams(true);
    for (const double lr : {1.0, 10.0, 100.0}) {
        table.factors(0) = factors_of(SgdSpec{.lr = lr, .momentum = 0});
        table.upload(on_gpu());
        sgd_step(param.tensor({1}), buffer.tensor({1}), grad.tensor({1}), {}, table.spans(0, 1), on_gpu());
    }
    set_late_streams(false);
    EXPECT_EQ(param.values(), std::vector<float>{-111.0f});
}

}  // namespace
}  // namespace plimsoll
