// Ops on the CPU in fp64 and on the device, given the same values and started from the same results.
#pragma once

#include <cstring>
#include <optional>

#include "support/cuda_test.h"

namespace plimsoll {

// Values that ops read; absent (an empty Tensor) with 0 elements.
template <class T>
class Given {
  public:
    Given(Shape shape, const char* name, double scale = 1) : Given(shape, Input<T>(shape.elements(), name, scale)) {}
    Given(Shape shape, Input<T> values) : shape_(shape), values_(std::move(values)), there_(values_.rounded) {}
    Tensor on(const Exec& exec) { return exec.device == Device::kCpu ? values_.cpu(shape_) : there_.tensor(shape_); }

  private:
    Shape shape_;
    Input<T> values_;
    OnDevice<T> there_;
};

// What ops write, of any type.
class AnyResult {
  public:
    virtual ~AnyResult() = default;
    virtual void restart() = 0;
    virtual void append_bytes(std::vector<std::byte>& to) const = 0;
};

// What ops write, or add to; absent with 0 elements.
template <class T>
class Result final : public AnyResult {
  public:
    explicit Result(Shape shape, float start = 0)
        : shape_(shape),
          start_(filled<T>(static_cast<size_t>(shape.elements()), start)),
          here_(start_.begin(), start_.end()),
          there_(start_) {}
    Result(Shape shape, const Input<T>& start)
        : shape_(shape), start_(start.rounded), here_(start.exact), there_(start_) {}
    Tensor on(const Exec& exec) { return exec.device == Device::kCpu ? view(here_, shape_) : there_.tensor(shape_); }
    std::vector<double>& here() { return here_; }
    std::vector<T> there() const { return there_.values(); }

    // The device's values as they were before its ops.
    void restart() override { there_.assign(start_); }
    void append_bytes(std::vector<std::byte>& to) const override {
        const std::vector<T> values = there();
        const auto* const bytes = reinterpret_cast<const std::byte*>(values.data());
        to.insert(to.end(), bytes, bytes + values.size() * sizeof(T));
    }
    // As expect_close(), of the device's values and the CPU's.
    void expect_close(double roundings, const char* name, double magnitude = 1) const {
        plimsoll::expect_close(there(), here_, roundings, name, magnitude);
    }

  private:
    Shape shape_;
    std::vector<T> start_;
    std::vector<double> here_;
    OnDevice<T> there_;
};

// Runs ops(on_gpu()) under every schedule, each time from the results' start: their bits must be equal.
template <class Ops>
void run_on_device(std::initializer_list<AnyResult*> results, Ops&& ops) {
    under_every_schedule<std::byte>([&] {
        for (AnyResult* result : results) result->restart();
        ops(on_gpu());
        std::vector<std::byte> bytes;
        for (const AnyResult* result : results) result->append_bytes(bytes);
        return bytes;
    });
}
// The same, and ops() on the CPU once.
template <class Ops>
void run_on_both(std::initializer_list<AnyResult*> results, Ops&& ops) {
    ops(Exec{});
    run_on_device(results, ops);
}

}  // namespace plimsoll
