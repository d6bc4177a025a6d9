// The executor on ranks that are threads: what a toy network computes through it, and how long a sleeping one takes.
#include "dist/pipeline/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>

#include "dist/as_ranks.h"
#include "dist/pipeline/simulate.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

struct Layout {
    std::string schedule;
    int stages, chunks;
    int64_t micro_batches;
    Schedule make() const {
        return make_schedule(
            schedule,
            {.stages = stages, .micro_batches = micro_batches, .chunks = chunks, .in_flight_cap = 0, .costs = {}});
    }
};
void PrintTo(const Layout& l, std::ostream* out) {
    *out << l.schedule << ", " << l.stages << " stages, " << l.chunks << " chunks, " << l.micro_batches;
}

std::vector<Layout> layouts() {
    std::vector<Layout> all{{"interleaved", 1, 3, 5}, {"1f1b", 1, 1, 4}};
    for (const int stages : {2, 3, 4})
        for (const int64_t micro_batches : {1, 2, 7, 12}) {
            for (const char* name : {"1f1b", "zb-h1", "zb-greedy", "same-phase"})
                all.push_back({name, stages, 1, micro_batches});
            for (const int chunks : {2, 3})
                if (micro_batches % stages == 0) all.push_back({"interleaved", stages, chunks, micro_batches});
        }
    return all;
}

constexpr int64_t kValues = 5;

// Virtual stage v maps x to (v + 2) x + m of micro batch m; its "weight gradient" is a sum over micro batches, in their
// order, of what only the right x and the right gradient give.
class ToyWork final : public StageWork {
  public:
    ToyWork(const Schedule& schedule, int stage) : schedule_(schedule), stage_(stage), plan_(schedule, stage) {
        for (const int sets : plan_.sets) sets_.emplace_back(static_cast<size_t>(sets));
        weights_.resize(sets_.size());
    }
    void forward(int chunk, int64_t m, int set) override {
        Set& s = at(chunk, set);
        EXPECT_EQ(s.micro_batch, -1) << "set " << set << " still holds another micro batch";
        s.micro_batch = m;
        if (first(chunk)) std::ranges::fill(s.in, static_cast<double>(m) + 1);
        for (size_t i = 0; i < kValues; ++i) s.out[i] = factor(chunk) * s.in[i] + static_cast<double>(m);
    }
    void backward(int chunk, int64_t m, int set) override {
        backward_inputs(chunk, m, set), backward_weights(chunk, m, set);
    }
    void backward_inputs(int chunk, int64_t m, int set) override {
        Set& s = at(chunk, set);
        EXPECT_EQ(s.micro_batch, m);
        if (last(chunk)) std::ranges::fill(s.gradient, 0.5 + static_cast<double>(m));
        s.from_above = s.gradient[0];
        for (double& g : s.gradient) g *= factor(chunk);
    }
    void backward_weights(int chunk, int64_t m, int set) override {
        Set& s = at(chunk, set);
        EXPECT_EQ(s.micro_batch, m);
        double& w = weights_[static_cast<size_t>(chunk)];
        w = w * 1.0009765625 + s.from_above * s.in[0];  // not the same in another order
        s.micro_batch = -1;
    }
    Tensor stream_in(int chunk, int set, int) override { return tensor(at(chunk, set).in); }
    Tensor stream_out(int chunk, int set, int) override { return tensor(at(chunk, set).out); }
    Tensor stream_gradient(int chunk, int set, int) override { return tensor(at(chunk, set).gradient); }

    // What the chunk's weight gradient must be.
    double expected(int chunk) const {
        double w = 0;
        const int here = virtual_stage(chunk), stages = schedule_.stages * schedule_.chunks;
        for (int64_t m = 0; m < schedule_.micro_batches; ++m) {
            double x = static_cast<double>(m) + 1, gradient = 0.5 + static_cast<double>(m);
            for (int v = 0; v < here; ++v) x = (v + 2) * x + static_cast<double>(m);
            for (int v = stages - 1; v > here; --v) gradient *= v + 2;
            w = w * 1.0009765625 + gradient * x;
        }
        return w;
    }
    double weight(int chunk) const { return weights_[static_cast<size_t>(chunk)]; }

  private:
    struct Set {
        int64_t micro_batch = -1;
        std::array<double, kValues> in{}, out{}, gradient{};
        double from_above = 0;
    };
    Set& at(int chunk, int set) { return sets_[static_cast<size_t>(chunk)][static_cast<size_t>(set)]; }
    int virtual_stage(int chunk) const { return chunk * schedule_.stages + stage_; }
    bool first(int chunk) const { return virtual_stage(chunk) == 0; }
    bool last(int chunk) const { return virtual_stage(chunk) == schedule_.stages * schedule_.chunks - 1; }
    double factor(int chunk) const { return virtual_stage(chunk) + 2; }
    static Tensor tensor(std::array<double, kValues>& values) { return Tensor(values.data(), DType::kF64, {kValues}); }

    Schedule schedule_;
    int stage_;
    StagePlan plan_;
    std::vector<std::vector<Set>> sets_;
    std::vector<double> weights_;
};

class Executor : public testing::TestWithParam<Layout> {};

TEST_P(Executor, ComputesWhatTheNetworkDoes) {
    const Schedule schedule = GetParam().make();
    as_ranks(schedule.stages, [&](Communicator& forward) {
        Communicator backward = forward.split(0, forward.rank(), "backward");
        PipelineExecutor executor(forward, backward, schedule);
        ToyWork work(schedule, forward.rank());
        const Exec exec{.device = Device::kCpu, .threads = 1};
        executor.run(work, exec);
        for (int c = 0; c < schedule.chunks; ++c) EXPECT_EQ(work.weight(c), work.expected(c)) << "chunk " << c;
    });
}

INSTANTIATE_TEST_SUITE_P(Layouts, Executor, testing::ValuesIn(layouts()));

TEST(StagePlan, HoldsWhatTheScheduleHolds) {
    for (const Layout& layout : layouts()) {
        if (layout.chunks > 1) continue;  // the schedule counts micro batches over all chunks
        const Schedule schedule = layout.make();
        const std::vector<int64_t> peaks = peak_in_flight(schedule);
        for (int s = 0; s < schedule.stages; ++s) {
            const int64_t sets = StagePlan(schedule, s).sets[0], peak = peaks[static_cast<size_t>(s)];
            EXPECT_GE(sets, peak) << layout.schedule << " " << s;
            EXPECT_LE(sets, peak + 1) << layout.schedule << " " << s;  // what is received before another one leaves
        }
    }
}

TEST(StagePlan, FusesTheBackwardsOfOrdinarySchedules) {
    for (const Layout& layout : layouts()) {
        const Schedule schedule = layout.make();
        bool split = false;
        for (int s = 0; s < schedule.stages; ++s) split = split || StagePlan(schedule, s).splits_backward();
        const bool zero_bubble = layout.schedule.starts_with("zb");
        EXPECT_TRUE(zero_bubble || !split) << layout.schedule;
        if (layout.schedule == "zb-h1" && layout.micro_batches > 1) EXPECT_TRUE(split);
    }
}

// Sleeps instead of computing: what is left of a run's time is the bubble.
class SleepingWork final : public StageWork {
  public:
    explicit SleepingWork(std::chrono::microseconds unit) : unit_(unit) {}
    void forward(int, int64_t, int) override { sleep(1); }
    void backward(int, int64_t, int) override { sleep(2); }
    void backward_inputs(int, int64_t, int) override { sleep(1); }
    void backward_weights(int, int64_t, int) override { sleep(1); }
    Tensor stream_in(int, int, int) override { return tensor(); }
    Tensor stream_out(int, int, int) override { return tensor(); }
    Tensor stream_gradient(int, int, int) override { return tensor(); }

  private:
    void sleep(int units) const { std::this_thread::sleep_for(units * unit_); }
    Tensor tensor() { return Tensor(&value_, DType::kF64, {1}); }
    std::chrono::microseconds unit_;
    double value_ = 0;
};

// The share of all stages' time that they did not compute, with F = B = W = 1 unit.
double measured_bubble(const Schedule& schedule, std::chrono::microseconds unit) {
    std::mutex mutex;
    double slowest = 0, computing = 0;
    as_ranks(schedule.stages, [&](Communicator& forward) {
        Communicator backward = forward.split(0, forward.rank(), "backward");
        PipelineExecutor executor(forward, backward, schedule);
        SleepingWork work(unit);
        forward.barrier();
        const StageTimes times = executor.run(work, {.device = Device::kCpu, .threads = 1});
        const std::lock_guard lock(mutex);
        slowest = std::max(slowest, times.total);
        computing += times.computing();
    });
    return 1 - computing / (schedule.stages * slowest);
}

// Within 5 %, in the best of some tries: whatever else runs on the machine only adds to a bubble.
TEST(BubbleAlone, IsThatOfTheFormula) {
    constexpr int kStages = 4;
    constexpr int64_t kMicroBatches = 8;
    const std::vector<std::pair<Layout, double>> cases{
        {{"1f1b", kStages, 1, kMicroBatches}, bubble_of_one_forward_one_backward(kStages, kMicroBatches)},
        {{"interleaved", kStages, 2, kMicroBatches}, bubble_of_interleaved(kStages, kMicroBatches, 2)},
        {{"zb-h1", kStages, 1, kMicroBatches}, bubble_of_zero_bubble_h1(kStages, kMicroBatches, 1, 1, 1)}};
    for (const auto& [layout, wanted] : cases) {
        const Schedule schedule = layout.make();
        double best = 1;
        // What else runs on the machine delays every action by the same few milliseconds: less and less of a longer
        // one.
        for (const int milliseconds : {15, 15, 40, 40, 120, 120, 250}) {
            best = std::min(best, measured_bubble(schedule, std::chrono::milliseconds(milliseconds)));
            if (best < 1.05 * wanted) break;
        }
        EXPECT_NEAR(best, wanted, 0.05 * wanted) << layout.schedule;
    }
}

}  // namespace
}  // namespace plimsoll
