// What a user reads when the GPU cannot be used: one clear line each. Emulated only: calls are made to fail.
#include "kernels/cuda/context.h"

#include <gtest/gtest.h>

#include "kernels/residual.h"
#include "simt/host_runtime.h"
#include "simt/memory.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class F>
void expect_message(const std::vector<std::string>& parts, ExitCode code, F&& body) {
    try {
        body();
        ADD_FAILURE() << "no error; wanted one that says '" << parts.front() << "'";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        for (const std::string& part : parts)
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    cudaGetLastError();
}

class CudaContext : public testing::Test {
  protected:
    void TearDown() override { simt::host_state() = {}; }
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
    expect_message({"no NVIDIA driver"}, ExitCode::kBadInput, open);
    simt::host_state() = {.driver_version = 12040};
    expect_message({"CUDA 12.4", "needs 13.0", "update the driver"}, ExitCode::kBadInput, open);
    simt::host_state() = {.devices = 0};
    expect_message({"cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"}, ExitCode::kBadInput, open);
    simt::host_state() = {.major = 7, .minor = 5};
    expect_message({"sm_75", "sm_80"}, ExitCode::kBadInput, open);
    simt::host_state() = {};
    expect_message({"GPU 3 wanted, 1 are visible"}, ExitCode::kBadInput, [] { cuda::Context context(3); });
    simt::fail_call("cudaStreamCreate", cudaErrorLaunchFailure);
    expect_message({"cudaStreamCreate", "cudaErrorLaunchFailure"}, ExitCode::kInternal, open);
}

TEST_F(CudaContext, SaysHowMuchMemoryIsMissing) {
    simt::device_memory_bytes() = size_t{100} << 20;
    cuda::Context context;
    expect_message({"200 MiB of GPU memory wanted", "of 100 MiB are free", "train.micro_batch"}, ExitCode::kBadInput,
                   [&] { context.reserve(int64_t{200} << 20); });
    simt::device_memory_bytes() = size_t{80} << 30;
    expect_message({"workspace"}, ExitCode::kInternal, [&] { context.workspace<char>(int64_t{1} << 40); });
}

TEST_F(CudaContext, ALaunchThatFailsIsNamed) {
    const OnDevice<float> x({1.0f});
    simt::fail_call("launch", cudaErrorNoKernelImageForDevice);
    const Tensor t = x.tensor({1, 1});
    expect_message({"convert", "cudaErrorNoKernelImageForDevice", "CMAKE_CUDA_ARCHITECTURES"}, ExitCode::kBadInput,
                   [&] { convert(t, t, on_gpu()); });
}

}  // namespace
}  // namespace plimsoll
