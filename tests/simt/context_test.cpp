// What a user reads when the GPU cannot be used: one clear line each. Emulated only: calls are made to fail.
#include "kernels/cuda/context.h"

#include <gtest/gtest.h>

#include "data/data_test_support.h"
#include "kernels/residual.h"
#include "simt/host_runtime.h"
#include "simt/memory.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

class CudaContext : public testing::Test {
  protected:
    void TearDown() override {
        simt::host_state() = {};
        cudaGetLastError();
    }
};

TEST_F(CudaContext, OpensADevice) {
    const cuda::Context context;
    EXPECT_EQ(context.architecture(), 90);
    EXPECT_EQ(context.multiprocessors(), 132);
    EXPECT_NE(context.name().find("emulator"), std::string::npos);
    EXPECT_NE(context.workspace<float>(1024), nullptr);
}

TEST_F(CudaContext, SaysWhyADeviceCannotBeUsed) {
    const auto open = [] { cuda::Context context; };
    simt::host_state() = {.driver_version = 0};
    expect_error(ExitCode::kBadInput, {"no NVIDIA driver"}, open);
    simt::host_state() = {.driver_version = 12040};
    expect_error(ExitCode::kBadInput, {"CUDA 12.4", "needs 13.0", "update the driver"}, open);
    simt::host_state() = {.devices = 0};
    expect_error(ExitCode::kBadInput, {"cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"}, open);
    simt::host_state() = {.major = 7, .minor = 5};
    expect_error(ExitCode::kBadInput, {"sm_75", "sm_80"}, open);
    simt::host_state() = {};
    expect_error(ExitCode::kBadInput, {"GPU 3 wanted, 1 are visible"}, [] { cuda::Context context(3); });
    simt::fail_call("cudaStreamCreate", cudaErrorLaunchFailure);
    expect_error(ExitCode::kInternal, {"cudaStreamCreate", "cudaErrorLaunchFailure"}, open);
}

TEST_F(CudaContext, SaysHowMuchMemoryIsMissing) {
    simt::device_memory_bytes() = size_t{132} << 20;
    cuda::Context context;
    expect_error(ExitCode::kBadInput, {"200 MiB of GPU memory wanted", "of 132 MiB are free", "train.micro_batch"},
                 [&] { context.reserve(int64_t{200} << 20); });
    simt::device_memory_bytes() = size_t{80} << 30;
    expect_error(ExitCode::kInternal, {"workspace"}, [&] { context.workspace<char>(int64_t{1} << 40); });
}

TEST_F(CudaContext, ALaunchThatFailsIsNamed) {
    const OnDevice<float> x({1.0f});
    simt::fail_call("launch", cudaErrorNoKernelImageForDevice);
    const Tensor t = x.tensor({1, 1});
    expect_error(ExitCode::kBadInput, {"convert", "cudaErrorNoKernelImageForDevice", "CMAKE_CUDA_ARCHITECTURES"},
                 [&] { convert(t, t, on_gpu()); });
}

// A byte of device memory set on one stream and copied on others: a late stream does nothing by itself.
class CudaBranches : public CudaContext {
  protected:
    static constexpr int kBefore = 3, kBeside = 5;
    // first = kBefore; beside that, on a branch, second = first and then third = kBeside; after both fourth = second.
    void submit(const cuda::Context& context, bool joins) {
        char* const at = memory_.ptr();
        cudaMemsetAsync(at, kBefore, 1, context.stream());
        const cudaStream_t branch = context.fork();
        cudaMemcpyAsync(at + 1, at, 1, cudaMemcpyDeviceToDevice, branch);
        cudaMemsetAsync(at + 2, kBeside, 1, branch);
        if (joins) context.join();
        cudaMemcpyAsync(at + 3, at + 1, 1, cudaMemcpyDeviceToDevice, context.stream());
    }
    std::vector<int> values() const {
        char bytes[4];
        cudaMemcpyAsync(bytes, memory_.ptr(), sizeof bytes, cudaMemcpyDeviceToHost, nullptr);
        cudaDeviceSynchronize();
        return {bytes[0], bytes[1], bytes[2], bytes[3]};
    }
    void clear() { cudaMemsetAsync(memory_.ptr(), 0, 4, nullptr); }

  private:
    struct Bytes {
        cuda::DeviceMemory memory{4};
        char* ptr() const { return static_cast<char*>(memory.data()); }
    } memory_;
};

TEST_F(CudaBranches, AreBetweenForkAndJoin) {
    const cuda::Context context;
    clear();
    simt::host_state().late = true;
    submit(context, true);
    context.synchronize();
    EXPECT_EQ(values(), std::vector<int>({kBefore, kBefore, kBeside, kBefore}));
}

TEST_F(CudaBranches, ArePartsOfGraphs) {
    const cuda::Context context;
    const auto record = [&](bool joins, cudaGraph_t* graph) {
        cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeThreadLocal);
        submit(context, joins);
        return cudaStreamEndCapture(context.stream(), graph);
    };
    cudaGraph_t graph = nullptr;
    clear();
    EXPECT_EQ(record(false, &graph), cudaErrorStreamCaptureUnjoined);
    EXPECT_EQ(graph, nullptr);
    ASSERT_EQ(record(true, &graph), cudaSuccess);
    EXPECT_EQ(values(), std::vector<int>(4, 0)) << "nothing runs while it is recorded";
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (int launch = 0; launch < 2; ++launch) {
        clear();
        cudaGraphLaunch(executable, context.stream());
        context.synchronize();
        EXPECT_EQ(values(), std::vector<int>({kBefore, kBefore, kBeside, kBefore})) << launch;
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    submit(context, true);  // the streams are as before
    context.synchronize();
    EXPECT_EQ(values().back(), kBefore);
}

}  // namespace
}  // namespace plimsoll
