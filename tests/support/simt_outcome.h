// What tests of the emulator itself share: buffers on the emulated device, and what came of a launch.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "simt/detector.h"
#include "simt/host_runtime.h"
#include "simt/machine.h"

namespace plimsoll {

// Device memory with values that the detector knows to be written.
template <class T>
class SimtBuffer {
  public:
    explicit SimtBuffer(const std::vector<T>& values) : size_(values.size()) {
        EXPECT_EQ(cudaMalloc(&data_, size_ * sizeof(T)), cudaSuccess);
        EXPECT_EQ(cudaMemcpyAsync(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice, nullptr),
                  cudaSuccess);
    }
    ~SimtBuffer() { cudaFree(data_); }
    SimtBuffer(const SimtBuffer&) = delete;
    T* data() const { return static_cast<T*>(data_); }
    std::vector<T> values() const {
        std::vector<T> out(size_);
        EXPECT_EQ(cudaMemcpyAsync(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost, nullptr), cudaSuccess);
        return out;
    }

  private:
    void* data_ = nullptr;
    size_t size_;
};

template <class T>
struct Outcome {
    std::string error;                 // thrown out of the launch
    std::vector<std::string> reports;  // of the detector
    std::vector<T> out;

    bool mentions(const std::string& text) const {
        return error.find(text) != std::string::npos || std::any_of(reports.begin(), reports.end(), [&](const auto& r) {
                   return r.find(text) != std::string::npos;
               });
    }
    std::string to_string() const {
        std::string all = error.empty() ? "no error" : error;
        for (const std::string& r : reports) all += "\n  " + r;
        return all;
    }
};

// Runs `body`, which launches, with `out` on the device.
template <class T, class F>
Outcome<T> run_simt(uint64_t seed, const std::vector<T>& out, F&& body) {
    simt::options() = {.seed = seed};
    simt::take_reports();
    SimtBuffer<T> result(out);
    Outcome<T> outcome;
    try {
        body(result.data());
    } catch (const simt::EmulationError& error) {
        outcome.error = error.what();
    }
    outcome.reports = simt::take_reports();
    outcome.out = result.values();
    return outcome;
}

}  // namespace plimsoll
