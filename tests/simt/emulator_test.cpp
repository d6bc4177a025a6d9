// The emulator itself: right kernels run clean under many schedules, and every planted bug is caught.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "simt/detector.h"
#include "simt/host_runtime.h"
#include "simt/memory.h"
#include "simt/planted_bugs.h"
#include "support/simt_outcome.h"

namespace plimsoll {
namespace {

constexpr int kSchedules = 5;

template <class T>
using Buffer = SimtBuffer<T>;
using FloatOutcome = Outcome<float>;

std::vector<float> numbers(int n) {
    std::vector<float> x;
    for (int i = 0; i < n; ++i) x.push_back(static_cast<float>((i * 37) % 101) / 16.0f);
    return x;
}

template <class F>
FloatOutcome run(uint64_t seed, const std::vector<float>& out, F&& body) {
    return run_simt<float>(seed, out, body);
}

FloatOutcome block_sum(Bug bug, uint64_t seed) {
    const Buffer<float> x(numbers(5000));
    return run(seed, {0}, [&](float* out) { launch_block_sum(bug, x.data(), out, 5000, 4); });
}

FloatOutcome pipeline(Bug bug, uint64_t seed) {
    const Buffer<float> x(numbers(6 * 128));
    return run(seed, std::vector<float>(128), [&](float* out) { launch_pipeline(bug, x.data(), out, 6); });
}

FloatOutcome exchange(Bug bug, uint64_t seed) {
    const Buffer<float> x(numbers(64));
    return run(seed, std::vector<float>(64), [&](float* out) { launch_exchange(bug, x.data(), out); });
}

TEST(Emulator, RunsRightKernelsCleanUnderEverySchedule) {
    const std::vector<float> x = numbers(5000);
    double sum = 0;
    for (const float v : x) sum += v;
    for (int seed = 1; seed <= kSchedules; ++seed) {
        const FloatOutcome a = block_sum(Bug::kNone, seed), b = pipeline(Bug::kNone, seed),
                           c = exchange(Bug::kNone, seed);
        for (const FloatOutcome* o : {&a, &b, &c})
            EXPECT_TRUE(o->error.empty() && o->reports.empty()) << o->to_string();
        EXPECT_NEAR(a.out[0], sum, 1e-6 * sum);  // another order of 5,000 fp32 additions
        for (int t = 0; t < 128; ++t) {
            float wanted = 0;
            for (int tile = 0; tile < 6; ++tile) wanted += x[static_cast<size_t>(tile * 128 + (t + 1) % 128)];
            EXPECT_EQ(b.out[static_cast<size_t>(t)], wanted);
        }
        for (size_t t = 0; t < 64; ++t) EXPECT_EQ(c.out[t], x[t ^ 1]);
    }
}

TEST(Emulator, PreemptionBetweenAccessesChangesNothingRight) {
    simt::options() = {.seed = 3, .preempt = 0.05};
    const Buffer<float> x(numbers(64)), out(std::vector<float>(64));
    const uint64_t before = simt::statistics().switches;
    launch_exchange(Bug::kNone, x.data(), out.data());
    EXPECT_TRUE(simt::take_reports().empty());
    EXPECT_GT(simt::statistics().switches, before + 64);
}

struct Planted {
    Bug bug;
    FloatOutcome (*launch)(Bug, uint64_t);
    const char* found;  // what the report or the error says
};

class PlantedBug : public testing::TestWithParam<Planted> {};

TEST_P(PlantedBug, IsCaughtUnderEverySchedule) {
    const auto& [bug, launch, found] = GetParam();
    for (int seed = 1; seed <= kSchedules; ++seed) {
        const FloatOutcome outcome = launch(bug, seed);
        EXPECT_TRUE(outcome.mentions(found)) << "wanted '" << found << "', got " << outcome.to_string();
    }
}

INSTANTIATE_TEST_SUITE_P(Kernels, PlantedBug,
                         testing::Values(Planted{Bug::kNoBarrier, block_sum, "race on shared memory"},
                                         Planted{Bug::kReadsPastTheEnd, block_sum, "outside of an allocation"},
                                         Planted{Bug::kPlainSumAcrossBlocks, block_sum, "race between blocks"},
                                         Planted{Bug::kDivergentBarrier, block_sum, "different __syncthreads"},
                                         Planted{Bug::kLanesMissing, block_sum, "__shfl_xor_sync"},
                                         Planted{Bug::kNoBarrierAfterLoad, pipeline, "race on shared memory"},
                                         Planted{Bug::kNoBarrierBeforeReuse, pipeline, "race on shared memory"},
                                         Planted{Bug::kWaitsForOneGroupLess, pipeline,
                                                 "race with an asynchronous copy"},
                                         Planted{Bug::kExitsWithCopies, pipeline, "never waited for"},
                                         Planted{Bug::kShuffleAsFence, exchange, "race on shared memory"},
                                         Planted{Bug::kWrongSharedIndex, exchange, "outside of shared memory"},
                                         Planted{Bug::kUninitialised, exchange, "uninitialised"},
                                         Planted{Bug::kBarrierCountTooHigh, exchange, "deadlock"},
                                         Planted{Bug::kLanesInDifferentOps, exchange, "lanes of one warp meet in"}),
                         [](const auto& info) { return "Number" + std::to_string(static_cast<int>(info.param.bug)); });

// The detector is not what finds it: poison is. The numbers must show it too.
TEST(Emulator, CopiesThatAreNotWaitedForAreNotANumber) {
    simt::options() = {.seed = 1, .detect = false};
    const Buffer<float> x(numbers(6 * 128)), out(std::vector<float>(128));
    launch_pipeline(Bug::kWaitsForOneGroupLess, x.data(), out.data(), 6);
    const std::vector<float> values = out.values();
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) { return std::isnan(v); }));
}

TEST(Emulator, ReportsNameTheLine) {
    const FloatOutcome outcome = block_sum(Bug::kReadsPastTheEnd, 1);
    EXPECT_TRUE(outcome.mentions("planted_bugs.cu:") || outcome.mentions("program offset")) << outcome.to_string();
}

TEST(Emulator, FreshMemoryIsNaNAndFreedMemoryIsGone) {
    void* memory = nullptr;
    ASSERT_EQ(cudaMalloc(&memory, 64 * sizeof(float)), cudaSuccess);
    const FloatOutcome outcome = run(
        1, std::vector<float>(64), [&](float* out) { launch_exchange(Bug::kNone, static_cast<float*>(memory), out); });
    EXPECT_TRUE(outcome.mentions("uninitialised")) << outcome.to_string();
    EXPECT_TRUE(std::isnan(outcome.out[0]));
    ASSERT_EQ(cudaFree(memory), cudaSuccess);
    const FloatOutcome after = run(1, std::vector<float>(64),
                                   [&](float* out) { launch_exchange(Bug::kNone, static_cast<float*>(memory), out); });
    EXPECT_TRUE(after.mentions("outside of an allocation")) << after.to_string();
    EXPECT_THROW(simt::device_free(memory), simt::EmulationError);
}

TEST(Emulator, HostPointersAreNotDeviceMemory) {
    std::vector<float> host = numbers(64);
    const FloatOutcome outcome =
        run(1, std::vector<float>(64), [&](float* out) { launch_exchange(Bug::kNone, host.data(), out); });
    EXPECT_TRUE(outcome.mentions("not device memory")) << outcome.to_string();
}

TEST(Emulator, BuiltInVariablesCoverGridAndBlock) {
    simt::options() = {};
    Buffer<int> count(std::vector<int>{0});
    launch_count_threads(count.data(), 3, 2, 17, 5);
    EXPECT_EQ(count.values()[0], 3 * 2 * 17 * 5);
    EXPECT_TRUE(simt::take_reports().empty());
}

TEST(Emulator, LaunchesThatCannotRunAreRefused) {
    EXPECT_THROW(launch_with_dynamic_shared(49 << 10, false), simt::EmulationError);
    launch_with_dynamic_shared(49 << 10, true);
    launch_with_dynamic_shared(227 << 10, true);
    EXPECT_THROW(launch_with_dynamic_shared(228 << 10, true), simt::EmulationError);
    Buffer<int> count(std::vector<int>{0});
    EXPECT_THROW(launch_count_threads(count.data(), 1, 1, 1025, 1), simt::EmulationError);
    EXPECT_THROW(launch_count_threads(count.data(), 1, 65536, 1, 1), simt::EmulationError);
    simt::take_reports();
}

// Fragment layouts by the PTX ISA: a product of 16 x 16 by 16 x 8 from shared memory.
TEST(Emulator, LdmatrixAndMmaMultiply) {
    std::vector<uint16_t> a, b;
    for (int i = 0; i < 256; ++i) a.push_back(bf16(static_cast<float>((i * 7) % 13 - 6)).bits);
    for (int i = 0; i < 128; ++i) b.push_back(bf16(static_cast<float>((i * 5) % 11 - 5) / 4).bits);
    const Buffer<uint16_t> da(a), db(b);
    const auto number = [](uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); };
    const FloatOutcome outcome =
        run(1, std::vector<float>(128), [&](float* out) { launch_small_product(da.data(), db.data(), out); });
    EXPECT_TRUE(outcome.error.empty() && outcome.reports.empty()) << outcome.to_string();
    for (size_t i = 0; i < 16; ++i)
        for (size_t j = 0; j < 8; ++j) {
            float sum = 0;  // small integers and quarters: exact in any order
            for (size_t k = 0; k < 16; ++k) sum += number(a[i * 16 + k]) * number(b[k * 8 + j]);
            EXPECT_EQ(outcome.out[i * 8 + j], sum) << i << ", " << j;
        }
}

TEST(HostRuntime, CallsCanBeMadeToFail) {
    void* memory = nullptr;
    simt::fail_call("cudaMalloc", cudaErrorMemoryAllocation, 1);
    EXPECT_EQ(cudaMalloc(&memory, 4), cudaSuccess);
    void* second = nullptr;
    EXPECT_EQ(cudaMalloc(&second, 4), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(cudaFree(memory), cudaSuccess);
    simt::device_memory_bytes() = 1 << 20;
    EXPECT_EQ(cudaMalloc(&memory, 2 << 20), cudaErrorMemoryAllocation);
    simt::device_memory_bytes() = size_t{80} << 30;
    simt::host_state().driver_version = 12000;
    int count = 0;
    EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    simt::host_state() = {.devices = 0};
    EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorNoDevice);
    simt::host_state() = {};
    EXPECT_EQ(cudaGetLastError(), cudaErrorNoDevice);
    float x = 0;
    EXPECT_EQ(cudaMemcpyAsync(&x, &x, 4, cudaMemcpyHostToDevice, nullptr), cudaErrorInvalidValue);
    cudaGetLastError();
}

}  // namespace
}  // namespace plimsoll
