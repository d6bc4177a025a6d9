// What tests of the CUDA backend share. They run on the emulated device, and on a GPU where the build has one: there
// are two twins, device_emulated.cpp and device_gpu.cpp.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/context.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {

// What the detector of the emulated device found since the last call; nothing on a GPU.
std::vector<std::string> device_reports();
// Sets the order in which the emulated device runs threads and blocks; nothing on a GPU.
void set_schedule(int seed);
inline constexpr int kSchedules = 5;
// Whether streams of the emulated device do everything as late as their order allows; nothing on a GPU.
void set_late_streams(bool late);

cuda::Context& test_context();
inline Exec on_gpu() {
    return {.device = Device::kCuda, .threads = 1, .cuda = &test_context()};
}

// A device of another compute capability (80, 90) and number of multiprocessors: emulated. On a GPU, that GPU.
std::unique_ptr<cuda::Context> context_like(int architecture, int multiprocessors);
inline Exec on(cuda::Context& context) {
    return {.device = Device::kCuda, .threads = 1, .cuda = &context};
}

// `count` times the same value.
template <class T>
std::vector<T> filled(size_t count, float value = 0) {
    return std::vector<T>(count, static_cast<T>(value));
}

// A copy of host values in device memory.
template <class T>
class OnDevice {
  public:
    explicit OnDevice(const std::vector<T>& values)
        : size_(values.size()), memory_(static_cast<int64_t>(size_ * sizeof(T))) {
        assign(values);
    }
    // As many other values.
    void assign(const std::vector<T>& values) { copy(memory_.data(), values.data(), cudaMemcpyHostToDevice); }
    T* data() const { return static_cast<T*>(memory_.data()); }
    std::span<const T> span() const { return {data(), size_}; }
    Tensor tensor(Shape shape) const {
        return size_ == 0 ? Tensor{} : Tensor(memory_.data(), kDTypeOf<T>, shape, Device::kCuda);
    }
    std::vector<T> values() const {
        std::vector<T> out(size_);
        test_context().synchronize();
        copy(out.data(), memory_.data(), cudaMemcpyDeviceToHost);
        return out;
    }

  private:
    void copy(void* to, const void* from, cudaMemcpyKind kind) const {
        cuda::check_cuda(cudaMemcpyAsync(to, from, size_ * sizeof(T), kind, test_context().stream()), "copy");
        test_context().synchronize();
    }

    size_t size_;
    cuda::DeviceMemory memory_;
};

// Runs `body`, which returns its results, under several schedules: the bits must be equal, and nothing reported.
template <class T>
std::vector<T> under_every_schedule(const std::function<std::vector<T>()>& body) {
    std::vector<T> first;
    for (int seed = 1; seed <= kSchedules; ++seed) {
        set_schedule(seed);
        std::vector<T> results = body();
        for (const std::string& report : device_reports()) ADD_FAILURE() << "schedule " << seed << ": " << report;
        if (seed == 1)
            first = std::move(results);
        else
            EXPECT_TRUE(same_bits(first, results)) << "schedule " << seed << " gives other bits";
    }
    return first;
}

// Values rounded to T, and the same values in double: what the backend and its oracle get.
template <class T>
struct Input {
    std::vector<T> rounded;
    std::vector<double> exact;

    Input(int64_t count, const char* name, double scale = 1)
        : rounded(normals<T>(count, name, scale)), exact(widened(rounded)) {}
    Tensor cpu(Shape shape) { return view(exact, shape); }
};

// Parts of a result that was returned as one vector.
template <class T>
std::vector<T> slice(const std::vector<T>& all, size_t begin, size_t count) {
    return {all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(begin + count)};
}
template <class T>
void append(std::vector<T>& all, const std::vector<T>& more) {
    all.insert(all.end(), more.begin(), more.end());
}

using DeviceFloats = testing::Types<float, bf16>;

}  // namespace plimsoll
