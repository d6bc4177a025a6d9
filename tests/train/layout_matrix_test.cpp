// Layouts of ranks against one process that adds in the same order: equal bits, for every variant, in fp32 and fp64.
#include <gtest/gtest.h>

#include <map>

#include "layout_runs.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

// All numbers of data ranks, stages and chunks up to 4, 4 and 2, with every schedule; ZeRO-1 and tied tables in turn,
// so that each schedule meets each of them.
std::vector<Layout> all_layouts() {
    std::vector<Layout> layouts;
    const auto add = [&](Layout layout) {
        const size_t turn = layouts.size() + static_cast<size_t>(layout.data_ranks) / 2;
        layout.zero1 = turn % 2 == 0, layout.tied = turn / 2 % 2 == 0;
        layouts.push_back(layout);
    };
    for (const int data_ranks : {1, 2, 3, 4}) {
        if (data_ranks > 1)
            for (const bool zero1 : {false, true})
                for (const bool tied : {false, true})
                    layouts.push_back({.data_ranks = data_ranks, .zero1 = zero1, .tied = tied});
        for (const int stages : {2, 3, 4}) {
            for (const char* schedule : {"1f1b", "zb-h1", "zb-greedy", "same-phase"})
                add({.data_ranks = data_ranks, .stages = stages, .schedule = schedule});
            add({.data_ranks = data_ranks, .stages = stages, .chunks = 2, .schedule = "interleaved"});
        }
    }
    return layouts;
}

// ---------------------------------------------------------------------------------------------------------------------

struct Numbers {
    std::string variant, precision;
};

class LayoutMatrix : public LayoutTest, public testing::WithParamInterface<int> {};

const Numbers kNumbers[] = {{"softmax", "fp64"}, {"sigmoid", "fp32"},     {"gated", "fp64"},   {"placeholder", "fp32"},
                            {"gated", "fp32"},   {"placeholder", "fp64"}, {"softmax", "fp32"}, {"sigmoid", "fp64"}};

// Each layout meets two variants, one in fp32 and one in fp64; scripts/ranks_matrix.py runs all with all.
TEST_P(LayoutMatrix, HasTheBitsOfOneProcess) {
    const auto& [variant, precision] = kNumbers[GetParam()];
    const std::vector<Layout> layouts = all_layouts();
    std::map<std::string, Outcome> references;
    constexpr int64_t kSteps = 3;
    for (size_t i = static_cast<size_t>(GetParam()) % 4; i < layouts.size(); i += 4) {
        const Layout& layout = layouts[i];
        SCOPED_TRACE(layout.name());
        const std::string key = fmt::format("{} of {}", layout.alone().name(), layout.micro_batches());
        if (!references.contains(key)) references[key] = alone(variant, precision, layout, kSteps);
        const Outcome &one = references[key], ranks = as_threads(variant, precision, layout, kSteps);
        EXPECT_EQ(ranks.losses, one.losses);
        EXPECT_EQ(ranks.norms, one.norms);
        EXPECT_EQ(ranks.tensors, one.tensors);
        if (layout.tied || layout.stages == 1) continue;
        // Nothing adds up in another order where nothing is shared and nothing clipped.
        Layout whole = layout;
        whole.stages = whole.chunks = 1;
        RunConfig c = config(variant, precision, whole.alone(), layout.data_ranks * layout.micro_batches(), kSteps);
        c.model.layers = std::max(5, layout.virtual_stages()), c.parallel.virtual_ranks = layout.data_ranks;
        EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
        const Outcome plain = outcome(c);
        EXPECT_EQ(ranks.losses, plain.losses);
        EXPECT_EQ(ranks.tensors, plain.tensors);
        // The norm's parts are others: some 1e3 additions in double.
        for (size_t step = 0; step < plain.norms.size(); ++step)
            EXPECT_NEAR(ranks.norms[step], plain.norms[step], 1e-12 * plain.norms[step]);
    }
}

INSTANTIATE_TEST_SUITE_P(All, LayoutMatrix, testing::Range(0, 8), [](const auto& info) {
    return kNumbers[info.param].variant + "_" + kNumbers[info.param].precision;
});

// Each stage adds what its own layers' streams give; the normaliser is the step's number of targets, for all.
TEST_F(LayoutTest, DecorrelationHasTheBitsOfOneProcess) {
    change_ = [](RunConfig& c) { c.loss.bos_decorrelation = 0.5; };
    const auto measured = [&] {
        std::vector<double> values;
        for (const auto& line : read_lines(folder_ / fmt::format("{}/metrics.jsonl", runs_ - 1)))
            values.push_back(line.at("bos_decorrelation"));
        return values;
    };
    for (const Layout& layout : {Layout{.data_ranks = 3}, Layout{.stages = 3, .schedule = "zb-h1"},
                                 Layout{.data_ranks = 2, .stages = 2, .tied = true},
                                 Layout{.stages = 2, .chunks = 2, .schedule = "interleaved"}}) {
        SCOPED_TRACE(layout.name());
        const Outcome one = alone("placeholder", "fp64", layout, 3);
        const std::vector<double> wanted = measured();
        EXPECT_EQ(as_threads("placeholder", "fp64", layout, 3), one);
        const std::vector<double> seen = measured();
        ASSERT_EQ(seen.size(), wanted.size());
        for (size_t step = 0; step < seen.size(); ++step) {
            EXPECT_NEAR(seen[step], wanted[step], 1e-13);  // stages' sums are added in another order
            EXPECT_GT(seen[step], 0);
            EXPECT_LT(seen[step], 1);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// Sums of 12 micro batches in another order: a few roundings of 6e-8 each.
TEST_F(LayoutTest, DataRanksFollowOneProcessThatAddsInItsOwnOrder) {
    for (const bool tied : {false, true})
        for (const int ranks : {2, 3, 4}) {
            const Layout layout{.data_ranks = ranks, .zero1 = false, .tied = tied}, one{.tied = tied};
            const RunConfig c = config("softmax", "fp32", layout, 12, 2);
            Trainer plain(config("softmax", "fp32", one, 12, 2), {});
            const StepResult expected = plain.train_step();
            as_ranks(ranks, [&](Communicator& world) {
                world.set_timeout(kTimeout);
                Trainer trainer(c, {}, world.split(0, world.rank(), "run"));
                const StepResult step = trainer.train_step();
                EXPECT_NEAR(step.loss, expected.loss, 1e-6 * expected.loss);
                for (const Parameter& p : trainer.model().table().entries()) {
                    const auto compare = [&](Tensor here, Tensor there) {
                        const size_t begin = static_cast<size_t>(p.offset), n = static_cast<size_t>(p.shape.elements());
                        EXPECT_LE(
                            relative_l2(here.span<float>().subspan(begin, n), there.span<float>().subspan(begin, n)),
                            5e-6)
                            << p.name << ", " << ranks << " ranks";
                    };
                    compare(trainer.model().gradients(), plain.model().gradients());
                    compare(trainer.model().parameters(), plain.model().parameters());
                }
            });
        }
}

// What roundings grow to: a wrong sum of anything would be far from it.
TEST_F(LayoutTest, AHundredStepsStayNearOneProcess) {
    const Layout layouts[] = {{.data_ranks = 4},
                              {.data_ranks = 2, .stages = 2, .schedule = "zb-h1", .tied = true},
                              {.stages = 4, .schedule = "same-phase", .tied = true},
                              {.data_ranks = 2, .stages = 2, .chunks = 2, .schedule = "interleaved", .zero1 = false}};
    const char* const variants[] = {"softmax", "sigmoid", "gated", "placeholder"};
    for (size_t i = 0; i < std::size(layouts); ++i) {
        SCOPED_TRACE(layouts[i].name());
        const Outcome ranks = as_threads(variants[i], "fp32", layouts[i], 100);
        const RunConfig c = config(variants[i], "fp32", {.tied = layouts[i].tied},
                                   layouts[i].data_ranks * layouts[i].micro_batches(), 100);
        EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
        const Outcome plain = outcome(c);
        for (size_t step = 0; step < 100; ++step) {
            ASSERT_NEAR(ranks.losses[step], plain.losses[step], 1e-4) << "step " << step;
            ASSERT_NEAR(ranks.norms[step], plain.norms[step], 1e-3 * plain.norms[step]) << "step " << step;
        }
        EXPECT_NE(ranks.tensors, plain.tensors);  // the order of sums does differ
    }
}

// Evaluation, probes, checkpoints and a resume work in fp64 too.
TEST_F(LayoutTest, RunsInDoubleAreWhole) {
    RunConfig c = config("gated", "fp64", {}, 4, 3);
    c.probes.enabled = true, c.probes.samples = 2;
    RunConfig single = c;
    single.run.dir += "s", single.run.precision = "fp32";
    EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
    EXPECT_EQ(Trainer(single, {}).train(), ExitCode::kOk);
    const auto a = read_lines(c.run.dir + "/evals.jsonl"), b = read_lines(single.run.dir + "/evals.jsonl");
    EXPECT_NEAR(a.back()["loss"].get<double>(), b.back()["loss"].get<double>(), 1e-5);
    const nlohmann::json probe = read_lines(c.run.dir + "/probes.jsonl").back(),
                         probe32 = read_lines(single.run.dir + "/probes.jsonl").back();
    for (const char* key : {"entropy", "drain_ratio", "gate_mean", "head_output_ratio", "value_ratio"})
        EXPECT_NEAR(probe["per_head"][key][4][0].get<double>(), probe32["per_head"][key][4][0].get<double>(), 1e-3)
            << key;
    const nlohmann::json info = nlohmann::json::parse(read_file(c.run.dir + "/run.json", "run"));
    EXPECT_EQ(info["precision"], "fp64");
    const Manifest saved = read_manifest(CheckpointStore(c.run.dir).folder(3));
    for (const auto& tensor : saved.tensors) EXPECT_EQ(tensor.dtype, DType::kF64) << tensor.name;
    RunConfig longer = c, whole = c;
    longer.train.max_steps = whole.train.max_steps = 5, whole.run.dir += "w";
    EXPECT_EQ(Trainer(longer, {.resume = Resume::kAuto}).train(), ExitCode::kOk);
    EXPECT_EQ(Trainer(whole, {}).train(), ExitCode::kOk);
    EXPECT_EQ(outcome(longer), outcome(whole));
}

TEST(Precision, DoubleIsForTheCpuOnly) {
    EXPECT_EQ(compute_dtype("fp64", Device::kCpu), DType::kF64);
    EXPECT_NE(message_of(ExitCode::kBadInput, [] { compute_dtype("fp64", Device::kCuda); }).find("run.device"),
              std::string::npos);
}

}  // namespace
}  // namespace plimsoll
