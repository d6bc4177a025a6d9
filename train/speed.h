// How fast the hardware could go, and how fast a run goes.
#pragma once

#include <optional>
#include <string>

#include "kernels/dtype.h"
#include "kernels/exec.h"

namespace plimsoll {

// Dense bf16 peak of a GPU, in TFLOP/s, by the name its driver gives; empty for a card that is not in the table.
// Figures are the vendors' (without sparsity, fp32 accumulation, boost clock).
std::optional<double> card_tflops(const std::string& name);

// Floating-point operations per second of a product (M, K) x (K, N) here: the best of a few, after one to warm up.
double matmul_flops_per_second(DType dtype, int64_t M, int64_t N, int64_t K, const Exec& exec);

// What a GPU's run is measured against; on the CPU it knows nothing and says nothing.
class SpeedOfLight {
  public:
    SpeedOfLight() = default;
    explicit SpeedOfLight(const Exec& exec);
    // Multiplies some large matrices: milliseconds.
    void measure(DType compute, const Exec& exec);
    // "989 TFLOP/s by the data sheet, 745 measured (75 %)".
    std::string describe() const;
    // Model FLOP/s utilization, "41.2 % MFU", of the data sheet; for an unknown card "n/a MFU, 512 TFLOP/s".
    std::string utilization(double flops_per_second) const;
    std::optional<double> card() const { return card_; }          // TFLOP/s
    std::optional<double> measured() const { return measured_; }  // TFLOP/s

  private:
    bool gpu_ = false;
    std::optional<double> card_, measured_;
};

}  // namespace plimsoll
