// Core attention by all ranks together, in data parallel runs and pipelines, against one process with the same plans.
#include "layout_runs.h"

namespace plimsoll {
namespace {

struct CadRun {
    Layout layout;
    std::string variant, precision;
    bool ping_pong;
    std::string recompute = "none";
};

// How ctest names it.
void PrintTo(const CadRun& run, std::ostream* out) {
    *out << run.layout.name() << " " << run.variant << " " << run.precision << (run.ping_pong ? " ping-pong" : "")
         << (run.recompute == "none" ? "" : " recompute " + run.recompute);
}

class CadLayout : public LayoutTest, public testing::WithParamInterface<CadRun> {
  protected:
    static constexpr int64_t kSteps = 2, kContext = 512;

    void SetUp() override {
        change_ = [this](RunConfig& c) {
            const int lanes = GetParam().ping_pong ? 2 : 1;
            c.data.documents = "pretrain", c.data.document_mask = true;
            c.train.batch_tokens *= kContext / c.model.context * lanes;
            c.model.context = kContext;
            c.train.recompute = GetParam().recompute;
            c.cad.mode = mode_, c.cad.ping_pong = GetParam().ping_pong;
        };
    }
    static int64_t sent_bytes(const RunConfig& c) {
        int64_t sent = 0;
        for (const nlohmann::json& line : read_lines(c.run.dir + "/metrics.jsonl"))
            sent += line["cad"]["sent_bytes"].get<int64_t>();
        return sent;
    }
    std::string mode_ = "on";
};

TEST_P(CadLayout, HasTheBitsOfOneProcessWithItsPlans) {
    const auto& [layout, variant, precision, ping_pong, recompute] = GetParam();
    const Outcome one = alone(variant, precision, layout, kSteps);
    const Outcome ranks = as_threads(variant, precision, layout, kSteps);
    EXPECT_EQ(ranks.losses, one.losses);
    EXPECT_EQ(ranks.norms, one.norms);
    EXPECT_EQ(ranks.tensors, one.tensors);
    RunConfig last;
    last.run.dir = folder_ / fmt::format("{}", runs_ - 1);
    EXPECT_GT(sent_bytes(last), 0) << "nothing moved: this run shows nothing";
    // Where each computes its own, only sums of gradients differ: the first loss has the same bits.
    mode_ = "off";
    const Outcome off = as_threads(variant, precision, layout, kSteps);
    EXPECT_EQ(ranks.losses.front(), off.losses.front());
    EXPECT_NEAR(ranks.losses.back(), off.losses.back(), 1e-4);
}

Layout data(int ranks, bool tied = false) {
    return {.data_ranks = ranks, .tied = tied};
}
Layout stages(int data_ranks, int stages, bool tied = false) {
    return {.data_ranks = data_ranks, .stages = stages, .schedule = "same-phase", .tied = tied};
}

INSTANTIATE_TEST_SUITE_P(
    Of, CadLayout,
    testing::Values(
        CadRun{data(2), "softmax", "fp32", false}, CadRun{data(2, true), "gated_headwise", "fp64", true},
        CadRun{data(3), "sigmoid_row_bias", "fp64", false}, CadRun{data(4), "sink_logit", "fp32", true},
        CadRun{data(4), "window_pinned", "fp64", false}, CadRun{data(2), "placeholder", "fp32", false, "block"},
        CadRun{data(3), "gated", "fp32", true, "block"}, CadRun{stages(1, 2), "softmax", "fp64", false},
        CadRun{stages(1, 3), "sigmoid", "fp32", true}, CadRun{stages(1, 4, true), "sink_logit", "fp64", false},
        CadRun{stages(2, 2), "gated_headwise", "fp32", false, "light"}, CadRun{data(2), "gate_value", "fp32", true},
        CadRun{stages(1, 2), "temperature", "fp64", false}, CadRun{stages(2, 2), "placeholder", "fp64", true},
        CadRun{stages(2, 3, true), "softmax1", "fp32", true}, CadRun{data(3), "kv_bias", "fp32", true, "block"},
        CadRun{stages(1, 2), "kv_bias", "fp64", false, "light"}, CadRun{data(2), "differential_v1", "fp64", false},
        CadRun{stages(2, 2), "differential_v1", "fp32", true}, CadRun{data(4), "differential_v2", "fp32", true},
        CadRun{stages(1, 3), "differential_v2", "fp64", false}, CadRun{data(2), "v_bias", "fp64", true},
        CadRun{data(2), "k_bias", "fp32", false}),
    [](const auto& info) { return fmt::format("{}", info.index); });

class CadRefusals : public LayoutTest {};

TEST_F(CadRefusals, NameTheKey) {
    const auto message = [&](const std::function<void(RunConfig&)>& change) {
        RunConfig c = config("softmax", "fp32", {}, 4, 1);
        c.cad.mode = "on";
        change(c);
        return message_of(ExitCode::kBadInput, [&] { Trainer(c, {}); });
    };
    EXPECT_NE(message([](RunConfig& c) { c.parallel.stages = 2; }).find("parallel.schedule"), std::string::npos);
    EXPECT_NE(message([](RunConfig& c) { c.parallel.chunks = 2, c.train.recompute = "block"; }).find("train.recompute"),
              std::string::npos);
    EXPECT_NE(message([](RunConfig& c) { c.cad.speeds = {1, 2}; }).find("cad.speeds"), std::string::npos);
    EXPECT_NE(
        message([](RunConfig& c) { c.cad.ping_pong = true, c.train.batch_tokens = 3 * 16; }).find("cad.ping_pong"),
        std::string::npos);
    EXPECT_NE(message([](RunConfig& c) { c.cad.tolerance = -1; }).find("cad.tolerance"), std::string::npos);
}

// Layers computed at one time on two stages must be of one kind.
TEST_F(CadRefusals, PatternsOfLayersThatStagesDoNotShare) {
    RunConfig c = config("hybrid", "fp32", {}, 4, 1);
    c.model.layers = 6, c.cad.mode = "on", c.parallel.chunks = 2, c.parallel.schedule = "interleaved";
    EXPECT_NE(message_of(ExitCode::kBadInput, [&] { Trainer(c, {}); }).find("different attention"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
