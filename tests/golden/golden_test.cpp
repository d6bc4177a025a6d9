// The whole network against PyTorch: loss, logits, every parameter's gradient, and the stream around block 0.
#include "support/golden.h"

#include "support/tolerance.h"

namespace plimsoll {
namespace {

const std::string kFolder = PLIMSOLL_SOURCE_DIR "/tests/golden";

class Golden : public testing::TestWithParam<std::string> {
  protected:
    // Runs the fixture with operands in `compute` and compares everything, relative to each tensor's own norm;
    // gradients each within `per_gradient` and all together within `tolerance`.
    void expect_match(DType compute, double tolerance, double per_gradient) {
        const Fixture f = read_fixture(kFolder, GetParam());
        const Exec exec{.device = Device::kCpu, .threads = 2};
        Transformer model(f.network, StageRange::whole(f.network.model), f.n(), Precision{compute});
        model.allocate();
        size_t parameters = 0;
        for (size_t i = 0; i < model.table().entries().size(); ++i) {
            const auto found = f.tensors.find("param/" + model.table().entries()[i].name);
            ASSERT_NE(found, f.tensors.end()) << "fixture lacks " << model.table().entries()[i].name;
            assign(model.table().view(model.parameters(), static_cast<int>(i)), found->second);
            ++parameters;
        }
        for (const auto& [name, values] : f.tensors) parameters -= name.starts_with("param/");
        EXPECT_EQ(parameters, 0u) << "the fixture holds parameters that the table does not";
        model.refresh_working(exec);

        LocalCoreAttention core;
        model.forward(core, f.input(), Write::kOverwrite, exec);
        const LossSums sums = model.loss(exec);
        const double mean = 1.0 / static_cast<double>(sums.scored);
        EXPECT_NEAR((sums.nll + sums.z) * mean, f.loss, tolerance * f.loss);
        for (const auto& [name, values] : f.tensors) {
            if (name.starts_with("block_in/"))
                EXPECT_LT(relative_l2(doubles(model.stream_after(-1, f.n())), values), tolerance);
            if (name.starts_with("block_out/"))
                EXPECT_LT(relative_l2(doubles(model.stream_after(0, f.n())), values), tolerance);
        }
        model.backward(
            core, f.input(), Write::kOverwrite, [](int64_t) {}, exec);
        EXPECT_NEAR(model.loss(exec).decorrelation * mean, f.decorrelation, tolerance * f.decorrelation);
        std::vector<double> all, expected;
        for (size_t i = 0; i < model.table().entries().size(); ++i) {
            const std::string& name = model.table().entries()[i].name;
            std::vector<double> gradient = doubles(model.table().view(model.gradients(), static_cast<int>(i)));
            for (double& g : gradient) g *= mean;  // of the sum of losses; the fixture's is of the mean
            const std::vector<double>& wanted = f.tensors.at("grad/" + name);
            EXPECT_LT(relative_l2(gradient, wanted), per_gradient) << name;
            all.insert(all.end(), gradient.begin(), gradient.end());
            expected.insert(expected.end(), wanted.begin(), wanted.end());
        }
        EXPECT_LT(relative_l2(all, expected), tolerance);
        model.evaluate(core, f.input(), exec);
        for (const auto& [name, values] : f.tensors)
            if (name.starts_with("logits/"))
                EXPECT_LT(relative_l2(doubles(model.logits(f.n(), exec)), values), tolerance);
    }
};

// Both sides in double: only the order of sums differs.
TEST_P(Golden, MatchesPyTorchInFp64) {
    expect_match(DType::kF64, 1e-11, 1e-11);
}

// 24 bits, and a few hundred roundings along the way.
TEST_P(Golden, MatchesPyTorchInFp32) {
    expect_match(DType::kF32, 2e-5, 2e-5);
}

// 8 bits in every operand: one rounding is 2^-9 = 2e-3, and a gradient sees a few dozen. Gains of a handful of elements
// are small differences of large sums: measured up to 5.6e-2, and 3.4e-2 over all gradients of a network.
TEST_P(Golden, MatchesPyTorchInBf16) {
    expect_match(DType::kBF16, 4e-2, 1e-1);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden, testing::ValuesIn(fixture_names(kFolder)),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace plimsoll
