// Every file of configs/variants, as it is shipped, on a network small enough for finite differences.
#include "support/variant_files.h"
#include "data/data_test_support.h"
#include "support/network_checks.h"
#include "train/config.h"

namespace plimsoll {
namespace {

// The shapes of the tests' networks, with as many heads as every variant can share, and rows longer than its prefix.
constexpr const char* kBase = R"(
[model]
layers = 3
channels = 12
heads = 4
kv_heads = 2
head_size = 6
context = 26
init_std = 0.3
)";

class VariantFilesTest : public testing::TestWithParam<std::string> {
  protected:
    static Named network() {
        const TemporaryFolder folder;
        const std::string base = write_bytes(folder / "base.toml", kBase);
        RunConfig config = load_config({.file = base, .variant = path_of_variant(GetParam()), .overrides = {}});
        config.model.ffn = std::min<int64_t>(config.model.ffn, 14);
        if (config.attention.query_key == "symmetric") config.model.kv_heads = config.model.heads;
        Named named{GetParam().c_str(), {config.model, config.attention, config.loss, 13}};
        named.config.validate();
        return named;
    }
};

TEST_P(VariantFilesTest, GradientsMatchCentralDifferences) {
    Named named = network();
    // Its gradient stops at first tokens, which finite differences do not know: decorrelation_test.cpp has it.
    named.config.loss.bos_decorrelation = 0;
    expect_gradients_of_central_differences(named);
}

TEST_P(VariantFilesTest, LaterTokensLeaveEarlierPositionsAlone) {
    expect_later_tokens_leave_earlier_alone(network());
}

TEST_P(VariantFilesTest, BitsAreEqualForAnyNumberOfThreads) {
    expect_equal_bits_for_any_threads(network(), DType::kF32);
    expect_equal_bits_for_any_threads(network(), DType::kBF16);
}

INSTANTIATE_TEST_SUITE_P(Files, VariantFilesTest, testing::ValuesIn(variant_files()),
                         [](const auto& info) { return identifier_of(info.param); });

}  // namespace
}  // namespace plimsoll
