// `plimsoll simulate`: its configurations, and whether the shipped ones say what was published.
#include "train/simulate_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/error.h"
#include "train/grid.h"
#include "train/simulate.h"

namespace plimsoll {
namespace {

SimulateConfig load(const std::string& name, std::vector<std::string> overrides = {}) {
    return load_simulate_config({.file = std::string(PLIMSOLL_SOURCE_DIR) + "/configs/simulate/" + name,
                                 .variant = {},
                                 .overrides = std::move(overrides)});
}

// LLaMA shapes on the calibrated cluster. `model`: what one alternative of the shipped grid sets.
Study llama(const std::string& model, std::vector<std::string> settings) {
    const SimulateConfig grid = load("llama.toml");
    for (const std::vector<std::string>& alternative : cells_of("sweep", {grid.simulate.sweep.front()}))
        if (alternative.front() == "model.preset=" + model)
            settings.insert(settings.begin(), alternative.begin(), alternative.end());
    return simulate_study(load("llama.toml", std::move(settings)));
}

void expect_message(std::initializer_list<std::string_view> parts, const std::function<void()>& call) {
    try {
        call();
        ADD_FAILURE() << "no error; wanted " << *parts.begin();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBadInput);
        for (const std::string_view part : parts)
            EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
    }
}

// Published, in ms: forward core attention 35, linear 44, copies 5, all-gather 20 to 26; backward 104, 83, 6,
// reduce-scatter 20; gain 13 % as reported, 16 % by the rows. Rows within 3 %, copies within 1 ms.
TEST(SimulateTest, ThePublishedTraceComesOut) {
    const Study study = simulate_study(load("calibration.toml"));
    const PolicySummary &cad = study.of(Policy::kCad), &document = study.of(Policy::kDocumentContext);
    EXPECT_NEAR(1e3 * cad.forward.attention, 35, 0.03 * 35);
    EXPECT_NEAR(1e3 * cad.forward.linear, 44, 0.03 * 44);
    EXPECT_NEAR(1e3 * cad.forward.copies, 5, 1);
    EXPECT_NEAR(1e3 * cad.backward.attention, 104, 0.03 * 104);
    EXPECT_NEAR(1e3 * cad.backward.linear, 83, 0.03 * 83);
    EXPECT_NEAR(1e3 * cad.backward.copies, 6, 1);
    EXPECT_LT(1e3 * (cad.forward.waits + cad.backward.waits), 0.5);
    EXPECT_GE(1e3 * document.forward.waits, 20);
    EXPECT_LE(1e3 * document.forward.waits, 26);
    EXPECT_NEAR(1e3 * document.backward.waits, 20, 2);
    EXPECT_GE(study.speed_up_over(Policy::kDocumentContext), 1.13);
    EXPECT_LE(study.speed_up_over(Policy::kDocumentContext), 1.16);
    EXPECT_GE(study.speed_up_over_best(), 1.13);
}

class SimulatedModel : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Llama, SimulatedModel, testing::Values("llama-8b", "llama-34b"),
                         [](const auto& of) { return of.param == "llama-8b" ? "8b" : "34b"; });

TEST_P(SimulatedModel, GainsGrowWithContextAndPipelinesAndFallWithMicroBatches) {
    const std::string& model = GetParam();
    // 96 micro batches whatever a step has: with six steps of four the median moved by more than the gain falls.
    const auto gain = [&](int64_t context, int64_t stages, int64_t micro_batches) {
        const Study study =
            llama(model, {fmt::format("simulate.iterations={}", 96 / micro_batches), "cluster.nodes=64",
                          fmt::format("lengths.context={}", context), fmt::format("parallel.stages={}", stages),
                          fmt::format("parallel.micro_batches={}", micro_batches)});
        return std::pair(study.speed_up_over(Policy::kWlbLike), study.speed_up_over(Policy::kPerfectPacking));
    };
    double before = 0;
    for (const int64_t context : {131072, 262144, 524288}) {
        const auto [three_d, three_d_perfect] = gain(context, 1, 4);
        const auto [four_d, four_d_perfect] = gain(context, 4, 4);
        EXPECT_LT(three_d, four_d) << model << " " << context;
        EXPECT_LT(three_d_perfect, four_d_perfect) << model << " " << context;
        EXPECT_GT(four_d, before) << model << " " << context;
        before = four_d;
    }
    auto last = std::pair(1e9, 1e9);
    for (const int64_t micro_batches : {4, 8, 16, 32}) {
        const auto now = gain(524288, 4, micro_batches);
        EXPECT_LT(now.first, last.first) << model << " " << micro_batches;
        EXPECT_LT(now.second, last.second) << model << " " << micro_batches;
        last = now;
    }
}

// 1.35 was published for 512 GPUs and up to 512 Ki tokens, without the number of micro batches: with 6 it lies inside,
// with 8 at the edge for llama-8b and pretrain (1.344 to 1.353 over WLB-like for three seeds).
TEST_P(SimulatedModel, ThePublishedGainLiesBetweenPerfectPackingAndWlbLike) {
    const std::string& model = GetParam();
    for (const std::string source : {"pretrain", "prolong"})
        for (const int64_t micro_batches : {6, 8}) {
            const Study study = llama(
                model, {"cluster.nodes=64", "lengths.context=524288", "parallel.stages=4",
                        fmt::format("parallel.micro_batches={}", micro_batches), "lengths.source=" + source,
                        "simulate.iterations=15", source == "prolong" ? "lengths.replaced=0.3" : "lengths.replaced=0"});
            const std::string cell = fmt::format("{}, {}, {} micro batches", model, source, micro_batches);
            EXPECT_LE(study.speed_up_over(Policy::kPerfectPacking), 1.35) << cell;
            EXPECT_GE(study.speed_up_over(Policy::kWlbLike), micro_batches == 6 ? 1.35 : 0.99 * 1.35) << cell;
            EXPECT_TRUE(study.of(Policy::kCad).fits) << cell;
            EXPECT_LE(study.of(Policy::kCad).imbalance, 1.0205) << cell;
        }
}

TEST(SimulateTest, EqualLengthsGainNothing) {
    const Study study = llama("llama-8b", {"lengths.source=equal", "lengths.equal=8192", "lengths.lengthened_from=0",
                                           "simulate.iterations=2", "parallel.micro_batches=2"});
    EXPECT_NEAR(study.speed_up_over_best(), 1, 0.01);
}

TEST(SimulateTest, ThreadsDoNotChangeResults) {
    const auto seconds = [](const std::string& threads) {
        return llama("llama-8b", {"simulate.iterations=4", "simulate.threads=" + threads}).of(Policy::kCad).seconds;
    };
    EXPECT_EQ(seconds("1"), seconds("3"));
}

TEST(SimulateTest, ConfigurationsAreStrict) {
    const auto with = [](const std::string& setting) {
        return [=] { load("calibration.toml", {setting}).validate(); };
    };
    expect_message({"unknown key 'node'", "'nodes'", "plimsoll simulate --help"}, with("cluster.node=3"));
    expect_message({"unknown section [clusters]", "[cluster]"}, with("clusters.nodes=3"));
    expect_message({"model.preset", "llama-8b, llama-34b"}, with("model.preset=gpt"));
    expect_message({"--set parallel.stages=3", "parallel.stages x tensor = 24"}, with("parallel.stages=3"));
    expect_message({"parallel.contexts holds 3"}, with("parallel.contexts=3"));
    expect_message({"parallel.tokens is 7"}, with("parallel.tokens=7"));
    expect_message({"lengths.path is empty"}, with("lengths.source=file"));
    expect_message({"cad.gradient_bytes is 3"}, with("cad.gradient_bytes=3"));
    expect_message({"lengths.replaced is 2"}, with("lengths.replaced=2"));
    expect_message({"parallel.in_flight is 9"}, with("parallel.in_flight=9"));
    expect_message({"cad.resend is false"}, [] {
        load("calibration.toml", {"model.layers=2", "parallel.stages=2", "parallel.contexts=[]"}).validate();
    });
    EXPECT_NE(simulate_config_reference().find("inter_gbps"), std::string::npos);
}

TEST(SimulateTest, AGridIsAllCombinationsOfItsAxes) {
    using Cells = std::vector<std::vector<std::string>>;
    EXPECT_EQ(cells_of("sweep", {}), Cells{{}});
    EXPECT_EQ(
        cells_of("sweep", {"a.b=1 | a.b=2 a.c=3", "d.e=4|d.e=5"}),
        (Cells{{"a.b=1", "d.e=4"}, {"a.b=1", "d.e=5"}, {"a.b=2", "a.c=3", "d.e=4"}, {"a.b=2", "a.c=3", "d.e=5"}}));
    expect_message({"sets nothing"}, [] { cells_of("sweep", {"a.b=1 |  | a.b=2"}); });
}

TEST(SimulateTest, EveryShippedConfigurationIsValid) {
    int64_t files = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::string(PLIMSOLL_SOURCE_DIR) + "/configs/simulate"))
        if (entry.path().extension() == ".toml")
            for (const std::vector<std::string>& cell :
                 cells_of("sweep", load(entry.path().filename()).simulate.sweep)) {
                EXPECT_NO_THROW(load(entry.path().filename(), cell).validate()) << entry.path();
                ++files;
            }
    EXPECT_GT(files, 50);
}

}  // namespace
}  // namespace plimsoll
