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

}  // namespace
}  // namespace plimsoll
