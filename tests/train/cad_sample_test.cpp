// cad.jsonl: what a run leaves for the report about who computed which core attention.
#include "train/cad_sample.h"

#include <set>

#include "layout_runs.h"

namespace plimsoll {
namespace {

TEST(CadSample, StepsAreFew) {
    std::vector<int64_t> steps;
    for (int64_t step = 0; step <= 1000; ++step)
        if (is_cad_sample(step)) steps.push_back(step);
    EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}));
}

class CadSampleRuns : public LayoutTest {
  protected:
    static constexpr int64_t kSteps = 2, kContext = 512;
    std::string mode_ = "on", recompute_ = "none", dir_;
    bool ping_pong_ = false, record_ = true;

    void SetUp() override {
        change_ = [this](RunConfig& c) {
            c.data.documents = "pretrain", c.data.document_mask = true;
            c.train.batch_tokens *= kContext / c.model.context * (ping_pong_ ? 2 : 1);
            c.model.context = kContext;
            c.train.recompute = recompute_;
            c.cad.mode = mode_, c.cad.ping_pong = ping_pong_, c.cad.record = record_;
            dir_ = c.run.dir;
        };
    }
    std::vector<nlohmann::json> samples() const {
        return std::filesystem::exists(dir_ + "/cad.jsonl") ? read_lines(dir_ + "/cad.jsonl")
                                                            : std::vector<nlohmann::json>{};
    }
    // Tasks cover every row of every segment once, and loads are sums of their pairs.
    static void check_plan(const nlohmann::json& plan, int ranks) {
        const nlohmann::json &segments = plan["segments"], &tasks = plan["tasks"];
        std::vector<int64_t> next, before(static_cast<size_t>(ranks), 0), after = before;
        for (const nlohmann::json& segment : segments) {
            next.push_back(segment[2]);
            before.at(segment[1]) += segment[4].get<int64_t>();
        }
        for (const nlohmann::json& task : tasks) {
            int64_t& row = next.at(task[0]);
            EXPECT_EQ(row, task[2]) << task;
            row = task[3];
            after.at(task[1]) += task[4].get<int64_t>();
        }
        for (size_t s = 0; s < segments.size(); ++s) EXPECT_EQ(next[s], segments[s][3]) << segments[s];
        EXPECT_EQ(plan["loads_before"], nlohmann::json(before));
        EXPECT_EQ(plan["loads"], nlohmann::json(after));
        EXPECT_EQ(plan["sent"].size(), static_cast<size_t>(ranks));
        int64_t travels = 0;
        for (const char* side : {"sent", "received"})
            for (const int64_t bytes : plan[side]) travels += side[0] == 's' ? bytes : -bytes;
        EXPECT_EQ(travels, 0);
    }
    // A rank's intervals follow one another.
    static void check_timeline(const nlohmann::json& timeline, int ranks) {
        std::map<int, double> end;
        std::set<std::string> phases;
        for (const nlohmann::json& row : timeline) {
            const int rank = row[0];
            EXPECT_LE(end[rank], row[4].get<double>() + 1e-3) << row;
            EXPECT_LE(row[4], row[5]) << row;
            end[rank] = row[5];
            phases.insert(row[3]);
        }
        EXPECT_EQ(end.size(), static_cast<size_t>(ranks));
        for (const char* phase : {"dispatch", "own", "served", "return", "wait_for_results"})
            EXPECT_TRUE(phases.contains(phase)) << phase;
    }
    void check_recorded_run(const Layout& layout) {
        record_ = true;
        const Outcome recorded = as_threads("softmax", "fp32", layout, kSteps);
        const std::vector<nlohmann::json> lines = samples();
        ASSERT_EQ(lines.size(), 2u);
        for (const nlohmann::json& sample : lines)
            for (const char* pass : {"forward", "backward"}) {
                SCOPED_TRACE(fmt::format("{}, step {}, {}", layout.name(), sample["step"].dump(), pass));
                EXPECT_EQ(sample["ranks"], layout.ranks());
                check_plan(sample[pass], layout.ranks());
                EXPECT_TRUE(sample[pass]["moves"]);
                check_timeline(sample[pass]["timeline"], layout.ranks());
            }
        record_ = false;
        EXPECT_EQ(as_threads("softmax", "fp32", layout, kSteps), recorded);
        EXPECT_TRUE(samples().empty());
    }
};

TEST_F(CadSampleRuns, TasksCoverAllRowsAndRecordingChangesNoBit) {
    recompute_ = "block";  // a backward that computes its forward again
    check_recorded_run({.data_ranks = 3});
    recompute_ = "none", ping_pong_ = true;
    check_recorded_run({.data_ranks = 2, .stages = 2, .schedule = "same-phase"});
}

TEST_F(CadSampleRuns, PlansAloneHaveNoTimeline) {
    mode_ = "plan_only";
    as_threads("softmax", "fp32", {.data_ranks = 2}, kSteps);
    ASSERT_EQ(samples().size(), 2u);
    check_plan(samples()[0]["forward"], 2);
    EXPECT_FALSE(samples()[0]["forward"].contains("timeline"));
    // One process that stands for the ranks has their plans.
    const nlohmann::json threads = samples()[1];
    mode_ = "on";
    alone("softmax", "fp32", {.data_ranks = 2}, kSteps);
    EXPECT_EQ(samples().at(1), threads);
}

TEST_F(CadSampleRuns, AFreshRunForgetsThem) {
    mode_ = "plan_only";
    RunConfig c = config("softmax", "fp32", {.data_ranks = 2}, 10, 1);
    c.parallel.virtual_ranks = 2;
    EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
    EXPECT_EQ(samples().size(), 1u);
    EXPECT_EQ(Trainer(c, {.resume = Resume::kFresh}).train(), ExitCode::kOk);
    EXPECT_EQ(samples().size(), 1u);
    c.train.max_steps = 2;
    EXPECT_EQ(Trainer(c, {.resume = Resume::kAuto}).train(), ExitCode::kOk);
    EXPECT_EQ(samples().size(), 2u);
}

}  // namespace
}  // namespace plimsoll
