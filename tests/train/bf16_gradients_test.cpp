// Gradients in bf16 beside those in fp32: every file of configs/variants, on the quickstart's network and data.
#include <gtest/gtest.h>

#include <cmath>

#include "data/loader.h"
#include "support/tiny_network.h"
#include "support/variant_files.h"
#include "train/config.h"

namespace plimsoll {
namespace {

// Whole gradient: bf16 rounds to 2^-9 = 2e-3, and the sums of products average most of that. The largest of those that
// stay below is kernel_normalized's, 5.0e-3.
constexpr double kWhole = 1e-2;
// One tensor: gains and biases are sums over all tokens of terms that nearly cancel; largest 3.3e-2, the same
// variant's.
constexpr double kTensor = 4e-2;
// Where fp32 itself goes further when its parameters are rounded to bf16, no arithmetic in bf16 can be closer. That is
// linear_normalized: it divides by max(|sum|, 1) of scores with either sign, whose derivative jumps at 1 (whole
// gradient 6.5e-2 by rounded parameters, 8.0e-2 in bf16, which rounds queries and keys too).
constexpr double kOfRounding = 2;

class Bf16GradientsTest : public testing::TestWithParam<std::string> {};

// Relative L2 of all entries, or of one parameter's.
double distance(std::span<const float> seen, std::span<const float> wanted) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        const double w = wanted[i], d = seen[i] - w;
        difference += d * d, size += w * w;
    }
    return size > 0 ? std::sqrt(difference / size) : 0;
}

TEST_P(Bf16GradientsTest, AreWithinAPercentOfFp32s) {
    RunConfig run = load_config({.file = PLIMSOLL_SOURCE_DIR "/configs/quickstart.toml",
                                 .variant = path_of_variant(GetParam()),
                                 .overrides = {}});
    run.model.heads = 4;  // as many as every variant can share
    if (run.attention.differential == "v2") run.model.kv_heads = 2;
    const Loader data(run.data, Split::kTrain,
                      {.T = run.model.context,
                       .placeholders = run.attention.placeholders,
                       .shared_placeholders = run.train.shared_placeholders,
                       .seed = static_cast<uint64_t>(run.run.seed),
                       .prefix = run.attention.prefix});
    const NetworkConfig config{run.model, run.attention, run.loss, data.vocab_size()};
    const Batch batch = data.load(0, 16);
    const ModelInput input{batch.tokens, batch.targets, batch.positions, batch.cu_seqlens};
    enum class Parameters { kAsTheyAre, kRounded };
    const auto gradients = [&](TinyModel& m, Parameters parameters) {
        if (parameters == Parameters::kRounded)
            for (float& p : m.model.parameters().span<float>()) p = static_cast<float>(bf16(p));
        m.model.forward(m.core, input, Write::kOverwrite, m.exec);
        m.model.backward(
            m.core, input, Write::kOverwrite, [](int64_t) {}, m.exec);
        return std::span<const float>(m.model.gradients().span<float>());
    };
    const auto n = static_cast<int64_t>(batch.tokens.size());
    TinyModel exact(config, n, DType::kF32), near(config, n, DType::kF32), rounded(config, n, DType::kBF16);
    const std::span<const float> wanted = gradients(exact, Parameters::kAsTheyAre),
                                 at_rounded = gradients(near, Parameters::kRounded),
                                 seen = gradients(rounded, Parameters::kAsTheyAre);
    const auto expect_near = [&](const std::string& name, size_t first, size_t count, double limit) {
        const auto part = [&](std::span<const float> all) { return all.subspan(first, count); };
        const double here = distance(part(seen), part(wanted)), of_rounding = distance(part(at_rounded), part(wanted));
        EXPECT_LE(here, std::max(limit, kOfRounding * of_rounding)) << name << ", rounded parameters: " << of_rounding;
        RecordProperty(name, fmt::format("{:.2e}", here));
        return here;
    };
    EXPECT_GT(expect_near("whole", 0, wanted.size(), kWhole), 1e-4);  // it is computed in bf16
    for (const Parameter& p : exact.model.table().entries())
        expect_near(p.name, static_cast<size_t>(p.offset), static_cast<size_t>(p.shape.elements()), kTensor);
}

INSTANTIATE_TEST_SUITE_P(Files, Bf16GradientsTest, testing::ValuesIn(variant_files()),
                         [](const auto& info) { return identifier_of(info.param); });

}  // namespace
}  // namespace plimsoll
