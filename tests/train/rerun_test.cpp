#include "train/rerun.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "train/machine.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class RerunTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    std::string make_run(const std::string& name, const std::string& metrics, json info = json{{"data_hash", "abc"}}) {
        const std::string run = folder_ / name;
        write_text(run + "/config.toml", resolved_toml({}));
        write_text(run + "/run.json", info.dump());
        write_text(run + "/metrics.jsonl", metrics);
        return run;
    }
};

TEST_F(RerunTest, LossesAreComparedBitByBit) {
    const std::string a =
        make_run("a", "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":0.3}\n");
    const Comparison same = compare_runs(a, a);
    EXPECT_TRUE(same.equal());
    EXPECT_EQ(same.text(), "equal to the bit: data and the losses of 3 steps");
    // One unit in the last place of a double.
    const std::string near =
        make_run("b", fmt::format("{{\"step\":1,\"loss\":{}}}\n{{\"step\":3,\"loss\":7}}\n", std::nextafter(0.1, 1.0)));
    const Comparison differs = compare_runs(near, a);
    EXPECT_FALSE(differs.equal());
    EXPECT_EQ(differs.first_differs, 1);
    EXPECT_EQ(differs.here - differs.there, std::nextafter(0.1, 1.0) - 0.1);
    EXPECT_NE(differs.text().find("step 1 is the first that differs: loss 0.10000000000000002 here, 0.1 there"),
              std::string::npos)
        << differs.text();
    EXPECT_NE(differs.text().find("0 steps are only here, 1 only there"), std::string::npos) << differs.text();
}

TEST_F(RerunTest, FewerStepsOtherDataAndNothingAreSaid) {
    const std::string line = "{\"step\":1,\"loss\":0.5}\n";
    const std::string a = make_run("a", line + "{\"step\":2,\"loss\":0.4}\n"), b = make_run("b", line);
    EXPECT_TRUE(compare_runs(b, a).equal());
    EXPECT_NE(compare_runs(b, a).text().find("(0 steps are only here, 1 only there)"), std::string::npos);
    EXPECT_FALSE(compare_runs(make_run("c", line, {{"data_hash", "other"}}), a).equal());
    EXPECT_FALSE(compare_runs(make_run("d", line, json::object()), make_run("e", line, json::object())).equal());
    const Comparison nothing = compare_runs(make_run("f", "{\"step\":9,\"loss\":1}\n"), a);
    EXPECT_FALSE(nothing.equal());
    EXPECT_NE(nothing.text().find("nothing to compare"), std::string::npos);
    EXPECT_FALSE(compare_runs(make_run("g", "{\"step\":1,\"loss\":null}\n"), a).equal());  // NaN is no 0.5
}

TEST_F(RerunTest, TakesTheNextFreeDirectory) {
    const PastRun past(make_run("a", "") + "//");
    EXPECT_EQ(past.directory(), folder_ / "a");
    EXPECT_EQ(past.configuration({}, "").run.dir, folder_ / "a-rerun");
    fs::create_directory(folder_ / "a-rerun");  // what a rank that starts earlier makes
    EXPECT_EQ(past.configuration({}, "").run.dir, folder_ / "a-rerun");
    write_text(folder_ / "a-rerun/config.toml", "");
    EXPECT_EQ(past.configuration({}, "").run.dir, folder_ / "a-rerun2");
    write_text(folder_ / "a-rerun2/config.toml", "");
    EXPECT_EQ(past.configuration({}, "").run.dir, folder_ / "a-rerun3");
    EXPECT_EQ(past.configuration({"model.layers=3"}, "x").run.dir, "x");
    EXPECT_EQ(past.configuration({"model.layers=3"}, "x").model.layers, 3);
    expect_error(ExitCode::kBadInput, {"is the run itself"}, [&] { past.configuration({}, folder_ / "a/../a"); });
}

TEST_F(RerunTest, WhatIsNoRunIsRefusedByName) {
    expect_error(ExitCode::kBadInput, {"no", "config.toml"}, [&] { PastRun past(folder_ / "none"); });
    fs::remove(make_run("a", "") + "/run.json");
    expect_error(ExitCode::kBadInput, {"a/run.json"}, [&] { PastRun past(folder_ / "a"); });
    write_text(folder_ / "a/run.json", "{\"data");
    expect_error(ExitCode::kBadInput, {"damaged"}, [&] { PastRun past(folder_ / "a"); });
}

TEST_F(RerunTest, RanksMustSumInTheSameOrder) {
    const PastRun one(make_run("one", "", {{"ranks", 1}})),
        two(make_run("two", "", {{"ranks", 2}, {"command", "typed"}}));
    RunConfig config;
    one.check_ranks(config, 1);
    two.check_ranks(config, 2);
    expect_error(ExitCode::kBadInput, {"had 2 ranks, this is one of 1", "mpirun -n 2 plimsoll rerun", "'typed'"},
                 [&] { two.check_ranks(config, 1); });
    expect_error(ExitCode::kBadInput, {"Without mpirun, plimsoll rerun"}, [&] { one.check_ranks(config, 4); });
    config.parallel.virtual_ranks = 2;
    two.check_ranks(config, 1);
    config.parallel.virtual_ranks = 1, config.parallel.stages = 2;
    one.check_ranks(config, 2);  // the same data ranks
}

TEST_F(RerunTest, SaysWhatIsOtherThanThen) {
    const json now{{"build", build_info()}, {"cpu", cpu_name()}, {"threads", 2}};
    EXPECT_TRUE(PastRun(make_run("a", "", now)).differences(2).empty());
    json then = now;
    then["build"]["commit"] = "before", then["threads"] = 3, then["cpu"] = "another";
    const std::vector<std::string> found = PastRun(make_run("b", "", then)).differences(2);
    ASSERT_EQ(found.size(), 3u);
    EXPECT_TRUE(found[0].starts_with("commit: before then, ")) << found[0];
    EXPECT_TRUE(found[1].starts_with("CPU: another then, ")) << found[1];
    EXPECT_EQ(found[2], "threads: 3 then, 2 now");
}

}  // namespace
}  // namespace plimsoll
